"""The command maestro-streams."""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from maestro_workflow_engine.errors import OptionError
from maestro_workflow_engine.streams._queue import Queue
from maestro_workflow_engine.streams._redis import connect, connection_errors
from maestro_workflow_engine.streams._topology import (
    AUTOMATION,
    Group,
    Stream,
    Topology,
)
from maestro_workflow_engine.streams.errors import StreamsError

EPILOG = """
example:
  maestro-streams init                    create the automation streams
  maestro-streams init --check            exit 1 when Redis differs
  maestro-streams init --dry-run          print redis-cli lines instead
  maestro-streams status --json
  maestro-streams dlq jobs
  maestro-streams requeue jobs 1700000000000-0

exit codes: 0 done, 1 drift or nothing found, 2 wrong usage, or an extra is missing,
3 Redis away, 130 interrupted

The URL comes from --url or MAESTRO_REDIS_URL, else redis://127.0.0.1:6379/0.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    args = parse(argv)
    try:
        topology = Topology.load(args.topology) if args.topology else AUTOMATION
        action: Callable[[argparse.Namespace, Topology], int] = args.action
        return action(args, topology)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader has gone, as in `| head`; nothing is left to be told.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (StreamsError, OptionError, ImportError) as error:
        print(f"maestro-streams: {error}", file=sys.stderr)
        return 2
    except Exception as error:
        if isinstance(error, connection_errors()):
            print(f"maestro-streams: no answer from Redis: {error}", file=sys.stderr)
            return 3
        raise


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    common = argparse.ArgumentParser(add_help=False)
    url = os.environ.get("MAESTRO_REDIS_URL", "redis://127.0.0.1:6379/0")
    common.add_argument("--url", default=url, help="redis://host:port/db")
    common.add_argument("--topology", type=Path, help="TOML or JSON file")
    common.add_argument("--json", action="store_true", help="for machines")
    parser = argparse.ArgumentParser(
        prog="maestro-streams",
        description="Look after Redis Streams job queues.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, text: str, action: object) -> argparse.ArgumentParser:
        found = commands.add_parser(name, parents=[common], help=text, description=text)
        found.set_defaults(action=action)
        return found

    init = command("init", "create streams and groups, any number of times", run_init)
    mode = init.add_mutually_exclusive_group()
    mode.add_argument("--check", action="store_true", help="exit 1 on drift")
    mode.add_argument("--dry-run", action="store_true", help="print redis-cli lines")
    command("status", "lengths, lag, pending jobs, dead letters", run_status)
    for name, text, action in (
        ("peek", "show the oldest jobs without taking them", run_peek),
        ("dlq", "show dead letters, newest first", run_dlq),
    ):
        found = command(name, text, action)
        found.add_argument("stream")
        found.add_argument("--count", type=int, default=10)
    requeue = command("requeue", "put dead letters back", run_requeue)
    requeue.add_argument("stream")
    requeue.add_argument("entry", nargs="*", help="ids as shown by dlq")
    requeue.add_argument("--all", action="store_true")
    command("trim", "drop entries that every group has finished", run_trim)
    bench = command("bench", "measure put and drain on a stream of its own", run_bench)
    bench.add_argument("--jobs", type=int, default=10_000)
    return parser.parse_args(argv)


def run_init(args: argparse.Namespace, topology: Topology) -> int:
    """Create, check, or print the commands."""
    if args.dry_run:
        commands = topology.commands()
        print(json.dumps(commands) if args.json else "\n".join(commands))
        return 0
    redis = connect(args.url)
    try:
        found = topology.check(redis) if args.check else topology.apply(redis)
    finally:
        redis.close()
    if args.json:
        print(json.dumps({"drift" if args.check else "done": found}))
    elif args.check:
        print("\n".join(found) if found else "no drift")
    else:
        made = [line.replace("is missing", "created") for line in found]
        print("\n".join(made) if made else "nothing to do")
    return 1 if args.check and found else 0


def run_status(args: argparse.Namespace, topology: Topology) -> int:
    """Print a row for each stream and group."""
    rows = []
    for stream in topology.streams:
        with Queue(args.url, stream) as queue:
            rows.append(queue.status())
    if args.json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
        return 0
    width = max(len(row.name) for row in rows)
    print(
        f"{'stream':{width}}  {'group':22} {'length':>8} {'lag':>8} {'pending':>8} "
        f"{'delayed':>8} {'dead':>6} {'workers':>8} {'idle s':>8}"
    )
    for row in rows:
        for group in row.groups:
            print(
                f"{row.name:{width}}  {group.name:22} {row.length:8} {group.lag:8} "
                f"{group.pending:8} {row.delayed:8} {row.dead:6} {group.workers:8} "
                f"{group.oldest_idle:8.1f}"
            )
    return 0


def run_peek(args: argparse.Namespace, topology: Topology) -> int:
    """Print the oldest entries."""
    with Queue(args.url, topology[args.stream]) as queue:
        rows = queue.peek(args.count)
    if args.json:
        print(json.dumps(rows, indent=1))
    else:
        for row in rows:
            print(
                f"{row['entry']}  {row.get('type', '?')}  {row.get('payload', '')[:200]}"
            )
    return 0 if rows else 1


def run_dlq(args: argparse.Namespace, topology: Topology) -> int:
    """Print dead letters with their reason."""
    with Queue(args.url, topology[args.stream]) as queue:
        letters = queue.dead(args.count)
    if args.json:
        print(json.dumps([asdict(letter) for letter in letters], indent=1))
    else:
        for letter in letters:
            print(f"{letter.entry}  {letter.type or '?'}  {letter.reason}")
            print(f"    {letter.payload[:200]}")
    return 0 if letters else 1


def run_requeue(args: argparse.Namespace, topology: Topology) -> int:
    """Put the named dead letters back, or all of them."""
    if not args.entry and not args.all:
        raise StreamsError(
            "name the entries as shown by `maestro-streams dlq`, or --all"
        )
    with Queue(args.url, topology[args.stream]) as queue:
        entries = args.entry
        if args.all:
            entries = [letter.entry for letter in reversed(queue.dead(1_000_000))]
        missing = [entry for entry in entries if not queue.requeue(entry)]
    done = len(entries) - len(missing)
    if args.json:
        print(json.dumps({"requeued": done, "missing": missing}))
    else:
        print(f"{done} put back")
        for entry in missing:
            print(f"maestro-streams: no dead letter {entry}", file=sys.stderr)
    return 1 if missing or not entries else 0


def run_trim(args: argparse.Namespace, topology: Topology) -> int:
    """Drop what is finished."""
    done = {}
    for stream in topology.streams:
        with Queue(args.url, stream) as queue:
            done[stream.name] = queue.trim()
    if args.json:
        print(json.dumps(done))
    else:
        for name, count in done.items():
            print(f"{name}: {count} removed")
    return 0


def run_bench(args: argparse.Namespace, _topology: Topology) -> int:
    """Put and drain no-op jobs on a stream made for it, then remove it."""
    from maestro_workflow_engine.streams._worker import Worker

    name = f"maestro:bench:{os.getpid()}"
    stream = Stream(name=name, groups=(Group(name="bench"),))
    worker = Worker(args.url, stream)

    async def nothing(_job: object, _payload: object) -> None:
        pass

    worker.handler("nothing")(nothing)
    with Queue(args.url, stream) as queue:
        begun = time.perf_counter()
        queue.put_many("nothing", range(args.jobs))
        put = time.perf_counter()
        worker.run(until_empty=True)
        drained = time.perf_counter()
    redis = connect(args.url)
    redis.delete(*stream.keys, stream.delayed, stream.dlq)
    redis.close()
    figures = {
        "jobs": args.jobs,
        "put_per_second": round(args.jobs / (put - begun)),
        "drain_per_second": round(args.jobs / (drained - put)),
    }
    if args.json:
        print(json.dumps(figures))
    else:
        print(
            f"{args.jobs} jobs: put {figures['put_per_second']}/s, "
            f"drained {figures['drain_per_second']}/s"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
