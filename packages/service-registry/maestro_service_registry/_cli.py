"""maestro-registry: find, check, pick, lock and coordinate from a shell.

Exit codes: 0 done or yes; 1 no (nothing found, unhealthy, refused); 2 a mistake in the
command line or a value; 3 the lock or registration was lost while CMD ran; 4 the store
is not there or cannot be reached; 130 interrupted. What is lost before CMD starts is a
1: CMD does not run then. `register` and `lock` end with CMD's
own exit code, or with 127 or 126 when it is not found or cannot be run.

Only register, lock, serve, claim, freeze and announce make a SQLite file that is not
there; the others say that it is missing.

Example: maestro-registry --url sqlite:///registry.db lock deploy -- ./deploy.sh
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ._graph import Graph
from ._model import Instance, check_ttl
from ._registry import ServiceRegistry
from ._store import shown
from .errors import (
    CycleError,
    InvalidInput,
    RegistryError,
    StoreError,
)

__all__ = ["main"]

NO, USAGE, LOST, AWAY, INTERRUPTED = 1, 2, 3, 4, 130
_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    given = list(sys.argv[1:] if argv is None else argv)
    command: list[str] = []
    if "--" in given:  # what follows is CMD's, options and all
        at = given.index("--")
        given, command = given[:at], given[at + 1 :]
    args = _parser().parse_args(given)
    args.command = command
    try:
        return int(args.run(args))
    except InvalidInput as error:
        return _fail(error, USAGE)
    except StoreError as error:
        return _fail(error, AWAY)
    except _CannotRun as error:
        return _fail(error, error.code)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}", NO)
    except (RegistryError, ImportError) as error:
        return _fail(error, NO)
    except KeyboardInterrupt:
        return _fail("interrupted", INTERRUPTED)
    except _Terminated as ended:
        return 128 + int(ended.args[0])


def _fail(error: object, code: int) -> int:
    print(f"maestro-registry: {error}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="maestro-registry",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    url = os.environ.get("MAESTRO_REGISTRY_URL", "sqlite:///registry.db")
    _add_common(parser, url=url, token_from=None, json=False)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(name: str, run: Callable[[Any], int], text: str) -> argparse.ArgumentParser:
        found = commands.add_parser(name, help=text, description=text)
        # Behind the command too; suppressed, so that it keeps what stood before it.
        keep = argparse.SUPPRESS
        _add_common(found, url=keep, token_from=keep, json=keep)
        found.set_defaults(run=run)
        return found

    _add_reading(add)
    _add_running(add)
    _add_planning(add)
    return parser


def _add_common(parser: argparse.ArgumentParser, **default: Any) -> None:
    now = "" if default["url"] == argparse.SUPPRESS else "; now %(default)s"
    parser.add_argument(
        "--url",
        default=default["url"],
        help=f"where it lives (MAESTRO_REGISTRY_URL{now})",
    )
    parser.add_argument(
        "--token-from",
        metavar="FILE",
        default=default["token_from"],
        help="read the token for an http(s):// url",
    )
    parser.add_argument(
        "--json", action="store_true", default=default["json"], help="print JSON"
    )


def _add_reading(add: Callable[..., argparse.ArgumentParser]) -> None:
    one = add("list", _list, "list services and their instances")
    one.add_argument("service", nargs="?")
    one = add("watch", _watch, "print changes as they happen, one per line")
    one.add_argument("service", nargs="?")
    one.add_argument("--since", type=int, metavar="REVISION")
    one.add_argument("--count", type=int, default=0, help="stop after so many changes")
    one = add("health", _health, "say how a service is; exit 1 unless it is usable")
    one.add_argument("service")
    one = add("pick", _pick, "print the address of one instance")
    one.add_argument("service")
    one.add_argument("--version", metavar="RANGE")
    one.add_argument("--tag", action="append", default=[])
    one.add_argument("--zone", default="")
    one.add_argument("--key", help="pick by consistent hashing")
    one = add("graph", _graph, "print the order in which services can start")
    one.add_argument("--dot", action="store_true", help="for Graphviz")
    add("doctor", _doctor, "look for what is wrong with the registry")


def _add_running(add: Callable[..., argparse.ArgumentParser]) -> None:
    one = add(
        "register",
        _register,
        "stay registered while CMD runs: register NAME --port N -- CMD",
    )
    one.add_argument("service")
    one.add_argument("--port", type=int, required=True)
    one.add_argument("--host", default="127.0.0.1")
    one.add_argument("--id")
    one.add_argument("--version", default="0.0.0")
    one.add_argument("--zone", default="")
    one.add_argument("--tag", action="append", default=[])
    one.add_argument("--ttl", type=float, default=15.0)
    one.add_argument("--http", metavar="PATH", help="check it by GET")
    one.add_argument("--tcp", action="store_true", help="check it by connecting")
    _show_command(one)
    one = add(
        "lock",
        _lock,
        "hold a lock while CMD runs: lock NAME -- CMD; sets MAESTRO_FENCE",
    )
    one.add_argument("name")
    one.add_argument("--ttl", type=float, default=15.0)
    one.add_argument("--timeout", type=float, help="seconds to wait for it")
    _show_command(one)
    one = add("serve", _serve, "serve the registry over HTTP (extra [server])")
    one.add_argument("--bind", default="127.0.0.1:8500", metavar="HOST:PORT")
    one.add_argument("--token-file", type=Path, help="lines made by the command token")
    one.add_argument("--tls-cert", type=Path)
    one.add_argument("--tls-key", type=Path)
    one.add_argument("--tls-ca", type=Path, help="ask clients for certificates of it")
    one.add_argument(
        "--dns", metavar="HOST:PORT", help="answer A and SRV questions, UDP"
    )
    one.add_argument("--allow-scripts", action="store_true")
    one.add_argument("--allow-foreign-checks", action="store_true")
    one = add("token", _token, "make a token and the line for the token file")
    one.add_argument("scope", nargs="+")


def _show_command(parser: argparse.ArgumentParser) -> None:
    """Let the usage end with what argparse does not see."""
    usage = parser.format_usage().removeprefix("usage: ").rstrip()
    parser.usage = usage.replace("%", "%%") + " -- CMD [ARG ...]"


def _add_planning(add: Callable[..., argparse.ArgumentParser]) -> None:
    one = add("claim", _claim, "claim services, all or none")
    one.add_argument("service", nargs="+")
    one.add_argument("--by", required=True)
    one.add_argument("--reason", required=True)
    one.add_argument("--until", required=True, help="2026-12-01T08:00Z, or 2h, 3d")
    one.add_argument("--shared", action="store_true")
    one = add("release", _release, "end a claim")
    one.add_argument("claim")
    one = add("freeze", _freeze, "forbid modifications for a time")
    one.add_argument("pattern")
    one.add_argument("start")
    one.add_argument("end")
    one.add_argument("--reason", required=True)
    one.add_argument("--by", default="")
    one.add_argument("--allow", action="append", default=[])
    one.add_argument("--weekly", action="store_true")
    one = add("announce", _announce, "announce a change")
    one.add_argument("service")
    one.add_argument("version")
    one.add_argument("--change", required=True)
    one.add_argument("--effective", required=True, help="2026-12-01T08:00Z, or 14d")
    one.add_argument("--breaking", action=argparse.BooleanOptionalAction)
    one.add_argument("--by", default="")
    one.add_argument("--consumer", action="append", default=[])
    one = add("acknowledge", _acknowledge, "acknowledge an announced change")
    one.add_argument("announcement")
    one.add_argument("--by", required=True)
    one = add("may", _may, "ask whether an action is allowed now; exit 1 when not")
    one.add_argument("action", help="release, deploy, modify, restart or remove")
    one.add_argument("service")
    one.add_argument("version", nargs="?")
    one.add_argument("--by")


def _open(args: Any, *, create: bool = False) -> ServiceRegistry:
    """Open the store; without `create` one that is not there is told, not made."""
    options: dict[str, Any] = {"create": create}
    if args.token_from:
        text = Path(args.token_from).read_text(encoding="utf-8")
        options["token"] = text.strip()
    return ServiceRegistry.open(args.url, **options)


def _list(args: Any) -> int:
    with _open(args) as registry:
        if args.service:
            found = {args.service: registry.find(args.service)}
        else:
            found = registry.services()
    instances = [i for name in sorted(found) for i in found[name]]
    rows = [
        (i.service, i.id, f"{i.host}:{i.port}", i.version, i.status, i.health)
        for i in instances
    ]
    _print(args, [i.to_dict() for i in instances], _table(rows))
    if not instances and args.service:
        return _fail(f"no instance of {args.service!r} in {shown(args.url)}", NO)
    if not instances:
        print(f"no service is registered in {shown(args.url)}", file=sys.stderr)
    return 0


def _watch(args: Any) -> int:
    seen = 0
    with _open(args) as registry:
        with registry.watch(args.service, since=args.since) as watch:
            for change in watch:
                kind = type(change).__name__.lower()
                raw = {"kind": kind} | asdict(change)
                where = raw.get("instance") or raw
                line = f"{change.revision} {kind} {where.get('service', '')}/{where.get('id', '')}"
                _print(args, raw, line)
                seen += 1
                if seen == args.count:
                    break
    return 0


def _health(args: Any) -> int:
    with _open(args) as registry:
        found = registry.find(args.service)
    usable = sum(i.usable for i in found)
    rows = [(i.id, i.status, i.health, i.output) for i in found]
    raw = {"service": args.service, "usable": usable, "instances": len(found)}
    text = f"{usable} of {len(found)} usable"
    _print(args, raw, "\n".join(filter(None, [_table(rows), text])))
    return 0 if usable else NO


def _pick(args: Any) -> int:
    with _open(args) as registry:
        service = registry.service(
            args.service,
            version=args.version,
            tags=args.tag,
            zone=args.zone,
            policy="hash" if args.key else "p2c",
        )
        instance = service.pick(args.key)
    _print(args, instance.to_dict(), f"{instance.host}:{instance.port}")
    return 0


def _graph(args: Any) -> int:
    with _open(args) as registry:
        graph: Graph = registry.graph()
    if args.dot:
        print(graph.dot())
        return 0
    layers = graph.order()
    _print(args, {"order": layers}, "\n".join(" ".join(layer) for layer in layers))
    return 0


def _doctor(args: Any) -> int:
    wrong: list[str] = []
    with _open(args) as registry:
        services = registry.services()
        instances = {name: list(group) for name, group in services.items()}
        graph = registry.graph()
        try:
            graph.order()
        except CycleError as error:
            wrong.append(str(error))
        for name in sorted(graph.services):
            lacking = graph.unmet(name, instances)
            if lacking:
                wrong.append(f"{name}: {lacking}")
        for group in services.values():
            wrong += [f"{i.service}/{i.id} is stale" for i in group if i.stale]
        late = len(registry.store.expired())
        if late:
            wrong.append(f"{late} leases are late; is any registry process running?")
    where = f"{len(services)} services in {shown(args.url)}"
    text = "\n".join(wrong) or f"nothing wrong: {where}"
    _print(args, {"wrong": wrong, "services": len(services)}, text)
    return NO if wrong else 0


def _register(args: Any) -> int:
    from ._checks import Check, Http, Tcp

    checks: list[Check] = [Http(args.http)] if args.http else []
    checks += [Tcp()] if args.tcp else []
    details = {name: getattr(args, name) for name in ("host", "port", "version")}
    details |= {"zone": args.zone, "tags": args.tag, "ttl": check_ttl(args.ttl)}
    # Built to be checked: a wrong value must not make a store or start CMD.
    Instance(service=args.service, id=args.id or "any", **details)
    command = _command(args, "register NAME --port N")
    early: list[int] = []  # registering is short: what comes meanwhile waits
    for number in _SIGNALS:
        signal.signal(number, lambda number, _: early.append(number))
    with _open(args, create=True) as registry:
        handle = registry.register(args.service, id=args.id, checks=checks, **details)
        for number in _SIGNALS:
            signal.signal(number, _raise_terminated)
        if early:
            raise _Terminated(early[0])
        if handle.lost.is_set():
            return _fail("another process took the id; CMD was not started", NO)
        code = _run(command, {"MAESTRO_INSTANCE": handle.instance.id}, handle.lost)
        return LOST if handle.lost.is_set() else code


def _lock(args: Any) -> int:
    command = _command(args, "lock NAME")
    for number in _SIGNALS:
        signal.signal(number, _raise_terminated)
    with _open(args, create=True) as registry:
        lock = registry.lock(args.name, ttl=args.ttl, timeout=args.timeout)
        with lock:
            fence = lock.guard()  # a machine that slept here must not start CMD
            code = _run(command, {"MAESTRO_FENCE": str(fence)}, lock.lost)
            if lock.lost.is_set():
                return _fail("the lock was lost; CMD was ended", LOST)
            return code


def _command(args: Any, example: str) -> list[str]:
    """Return CMD once it is known that there is such a program."""
    if not args.command:
        text = f"a command is missing; give it after --: {example} -- CMD"
        raise _CannotRun(text, USAGE)
    name = args.command[0]
    if shutil.which(name) is None:
        if os.sep in name and Path(name).is_file():
            raise _CannotRun(f"{name}: cannot be executed; see its mode", 126)
        raise _CannotRun(f"{name}: no such command", 127)
    return list(args.command)


class _CannotRun(Exception):
    """There is no CMD, or it does not start; `code` is the exit code."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


class _Terminated(BaseException):
    """SIGTERM or SIGHUP before CMD was there to take it."""


def _raise_terminated(number: int, _: Any) -> None:
    raise _Terminated(number)


def _run(command: list[str], extra: dict[str, str], lost: threading.Event) -> int:
    """Run a command until it ends, or end it when `lost` is set."""
    early: list[int] = []  # an exception would be lost in what Python does at a fork
    for number in _SIGNALS:
        signal.signal(number, lambda number, _: early.append(number))
    try:
        process = subprocess.Popen(
            command,
            env=os.environ | extra,
            # Should we be killed, CMD must not go on without what we held for it.
            preexec_fn=_die_with_parent(),  # noqa: PLW1509 - it takes no lock
        )
    except OSError as error:
        code = 127 if isinstance(error, FileNotFoundError) else 126
        raise _CannotRun(f"{command[0]}: {error.strerror}", code) from error

    def forward(number: int, _: Any) -> None:
        process.send_signal(number)

    def watch() -> None:
        while process.poll() is None:
            if lost.wait(0.2):
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(5)
                process.kill()
                return

    try:
        for number in _SIGNALS:
            signal.signal(number, forward)
        for came in early:
            process.send_signal(came)
        threading.Thread(target=watch, daemon=True).start()
        code = process.wait()
    except (KeyboardInterrupt, _Terminated):
        process.terminate()
        process.wait()
        raise
    finally:
        for number in _SIGNALS:  # what comes now must not break the cleaning up
            signal.signal(number, signal.SIG_IGN)
    return code if code >= 0 else 128 - code


def _die_with_parent() -> Callable[[], None]:
    """Return what a child calls so that it is killed when its parent dies."""
    import ctypes

    # Loaded before the fork: the child must not import anything.
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    parent = os.getpid()

    def call() -> None:
        if prctl is not None:
            prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG, Linux
            if os.getppid() != parent:  # it died before the call
                os._exit(1)

    return call


def _serve(args: Any) -> int:
    from ._server._serve import serve

    return serve(
        args.url,
        bind=args.bind,
        token_file=args.token_file,
        cert=args.tls_cert,
        key=args.tls_key,
        authority=args.tls_ca,
        dns=args.dns,
        scripts=args.allow_scripts,
        foreign_checks=args.allow_foreign_checks,
    )


def _token(args: Any) -> int:
    from ._server._access import new_token

    token, line = new_token(args.scope)
    _print(args, {"token": token, "line": line}, f"{token}\n{line}")
    return 0


def _claim(args: Any) -> int:
    with _open(args, create=True) as registry:
        until = _moment(registry, args.until)
        mode = "shared" if args.shared else "exclusive"
        claim = registry.claim(
            args.service, by=args.by, reason=args.reason, until=until, mode=mode
        )
        raw = {"id": claim.id, "fence": claim.fence, "until": claim.until}
        _print(args, raw, str(claim))
    return 0


def _release(args: Any) -> int:
    with _open(args) as registry:
        registry.claims.get(args.claim).release()
    return 0


def _freeze(args: Any) -> int:
    with _open(args, create=True) as registry:
        window = registry.freeze(
            args.pattern,
            _moment(registry, args.start),
            _moment(registry, args.end),
            reason=args.reason,
            by=args.by,
            allow=args.allow,
            weekly=args.weekly,
        )
    _print(args, {"id": window.id}, str(window))
    return 0


def _announce(args: Any) -> int:
    with _open(args, create=True) as registry:
        found = registry.contracts.announce(
            args.service,
            version=args.version,
            change=args.change,
            effective=_moment(registry, args.effective),
            breaking=args.breaking,
            by=args.by,
            consumers=args.consumer,
        )
        from ._contracts import describe

        text = describe(found, registry.store.now())
    _print(args, {"id": found.id, "missing": list(found.missing)}, text)
    return 0


def _acknowledge(args: Any) -> int:
    with _open(args) as registry:
        found = registry.contracts.acknowledge(args.announcement, by=args.by)
    missing = ", ".join(found.missing) or "nobody"
    _print(args, {"missing": list(found.missing)}, f"still missing: {missing}")
    return 0


def _may(args: Any) -> int:
    with _open(args) as registry:
        decision = registry.may(args.action, args.service, args.version, by=args.by)
    lines = ["yes" if decision else "no"]
    lines += [f"  {reason}" for reason in decision.reasons]
    lines += [f"  warning: {warning}" for warning in decision.warnings]
    _print(args, asdict(decision), "\n".join(lines))
    return 0 if decision else NO


def _moment(registry: ServiceRegistry, text: str) -> Any:
    """Read "2h" or "14d" as from now by the store's clock; leave the rest."""
    match = re.fullmatch(r"(\d+)([mhd])", text)
    if not match:
        return text
    unit = {"m": 60, "h": 3600, "d": 86_400}[match[2]]
    # A second on top: the store's clock goes on between here and its own reading.
    return registry.store.now() + int(match[1]) * unit + 1


def _print(args: Any, raw: Any, text: str) -> None:
    if args.json:
        print(json.dumps(raw, default=_plain, ensure_ascii=False), flush=True)
    elif text:
        print(text, flush=True)


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, frozenset) else str(value)


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    if not rows:
        return ""
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in rows
    )


if __name__ == "__main__":
    sys.exit(main())
