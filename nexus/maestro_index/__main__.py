"""The command maestro-index.

Exit codes: 0 done, 1 not running (status), 2 usage, 3 cannot start or stop,
130 interrupted.
"""

import argparse
import json
import os
import sys
from pathlib import Path

from maestro_index import control
from maestro_index.errors import ControlFault

EXAMPLE = """
example:
  maestro-index start
  pip install --index-url http://localhost:28081/repository/pypi-group/simple maestro-resilience
  maestro-index stop

exit codes: 0 done, 1 not running (status, stop), 2 usage, 3 cannot start or stop
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    args = parse(argv)
    try:
        code: int = args.run(args)
    except ControlFault as error:
        print(f"maestro-index: {error}", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        return 130
    return code


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="maestro-index",
        description="A private package index with Nexus's paths, on this machine only.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    # As text: argparse passes a default that is text through `type` too.
    port = os.environ.get("MAESTRO_INDEX_PORT", str(control.DEFAULT_PORT))
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, action, text in (
        ("start", start, "start it in the background unless it runs"),
        ("stop", stop, "stop it"),
        ("status", status, "say whether it runs, and where"),
        ("serve", serve, "run it in the foreground"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(run=action)
        command.add_argument("--root", type=Path, default=Path.cwd(), help="checkout")
        command.add_argument("--json", action="store_true", help="for machines")
        if name in {"start", "serve"}:
            command.add_argument("--port", type=port_number, default=port)
        if name == "serve":
            command.add_argument("--folder", type=Path, help="default: ROOT/.index")
            command.add_argument("--host", default="127.0.0.1")
            command.add_argument(
                "--no-anonymous", action="store_true", help="reading needs a password"
            )
            command.add_argument("--upstream", metavar="URL", help="instead of pip's")
    return parser.parse_args(argv)


def port_number(text: str) -> int:
    """Read a port; 0 is any free one."""
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port, wanted 0 to 65535")
    return int(text)


def start(args: argparse.Namespace) -> int:
    """Start the server."""
    running = control.ensure_running(args.root, args.port)
    if args.json:
        print(json.dumps({"url": running.url, "pid": running.pid}))
        return 0
    done = "started" if running.started else "already running"
    print(f"embedded index {done}: {running.url} (process {running.pid})")
    print(f"install from {running.url}/repository/pypi-group/simple")
    print(f"uploads: user {running.user}, password in .index/credentials.json")
    print("stop it with: .venv-release/bin/maestro-index stop")
    return 0


def stop(args: argparse.Namespace) -> int:
    """Stop the server."""
    stopped = control.stop(args.root)
    if args.json:
        print(json.dumps({"stopped": stopped}))
    else:
        print("embedded index stopped" if stopped else "no embedded index was running")
    return 0 if stopped else 1


def status(args: argparse.Namespace) -> int:
    """Say whether the server runs."""
    state = control.read_json(args.root / ".index" / "server.json")
    running = bool(state) and (
        control.probe(int(state["port"])).instance == state["instance"]
    )
    if args.json:
        print(json.dumps({"running": running} | (state if running else {})))
    elif running:
        print(f"running on http://127.0.0.1:{state['port']} (process {state['pid']})")
    else:
        print("not running")
    return 0 if running else 1


def serve(args: argparse.Namespace) -> int:
    """Serve in the foreground."""
    from maestro_index._serve import serve as run

    folder = args.folder or args.root / ".index"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "users.json").exists():  # `start` made it, and waits for us
        with control.starting(folder):
            control.prepare_users(folder)
    run(
        folder,
        host=args.host,
        port=args.port,
        anonymous=not args.no_anonymous,
        upstream=args.upstream,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
