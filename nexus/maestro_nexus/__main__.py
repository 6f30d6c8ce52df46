"""The command maestro-nexus: provision, doctor, rotate."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from maestro_index._upstream import pip_settings
from maestro_index._users import write_secret

from maestro_nexus import doctor, provision
from maestro_nexus._api import Api
from maestro_nexus._desired import Settings
from maestro_nexus.errors import NexusAway, NexusError

EPILOG = """
example:
  docker compose -f nexus/compose.yaml up -d
  export MAESTRO_NEXUS_PASSWORD=...      the administrator's
  maestro-nexus provision --url http://localhost:28081
  maestro-nexus doctor --url http://localhost:28081

exit codes: 0 done, 1 doctor found something, 2 usage or refused, 3 no answer,
130 interrupted
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    args = parse(argv)
    password = os.environ.get("MAESTRO_NEXUS_PASSWORD", "")
    if not password:
        print("maestro-nexus: set MAESTRO_NEXUS_PASSWORD", file=sys.stderr)
        return 2
    try:
        api = Api(args.url, args.user, password)
        api.wait(args.wait)
        code: int = args.action(args, api)
    except NexusAway as error:
        print(f"maestro-nexus: {error}", file=sys.stderr)
        return 3
    except NexusError as error:
        print(f"maestro-nexus: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return code


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="maestro-nexus",
        description="Set up a Nexus for these packages, or check one.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, action, text in (
        ("provision", run_provision, "create or update everything"),
        ("doctor", run_doctor, "compare with what provision would do"),
        ("rotate", run_rotate, "give the user a new random password"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(action=action)
        url = os.environ.get("MAESTRO_INDEX_URL", "http://localhost:28081")
        command.add_argument("--url", default=url)
        command.add_argument("--user", default="admin")
        command.add_argument("--wait", type=float, default=300.0, metavar="SECONDS")
        command.add_argument("--json", action="store_true", help="for machines")
        command.add_argument("--upstream", help="default: the index in pip's settings")
        command.add_argument(
            "--secrets", type=Path, default=Path(".index/nexus.json"),
            help="where new passwords are kept, mode 0600",
        )  # fmt: skip
    return parser.parse_args(argv)


def settings(args: argparse.Namespace) -> Settings:
    """Return the settings; the upstream is pip's index without /simple."""
    upstream = args.upstream or pip_settings().index_url
    return Settings(upstream=upstream.rstrip("/").removesuffix("/simple"))


def run_provision(args: argparse.Namespace, api: Api) -> int:
    """Bring the server to the wanted state."""
    accounts = (
        provision.Account(name="maestro-deployer", role="maestro-deploy"),
        provision.Account(name="maestro-reader", role="maestro-read"),
    )
    keep = keeper(args.secrets, args.url)
    steps = []
    for step in provision.provision(api, settings(args), accounts, keep_password=keep):
        steps.append(step)
        if not args.json:
            print(f"{step.title:34} {step.done}", flush=True)
    if args.json:
        print(json.dumps([asdict(step) for step in steps], indent=1))
    return 0


def run_doctor(args: argparse.Namespace, api: Api) -> int:
    """Compare and report."""
    findings = list(doctor.examine(api, settings(args)))
    if args.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        for finding in findings:
            print(f"{finding.title:34} {'; '.join(finding.problems) or 'ok'}")
        if not all(finding.ok for finding in findings):
            print("`maestro-nexus provision` sets all of this")
    return 0 if all(finding.ok for finding in findings) else 1


def run_rotate(args: argparse.Namespace, api: Api) -> int:
    """Change the password of the user."""
    provision.rotate(api, args.user, keep_password=keeper(args.secrets, args.url))
    print(
        json.dumps({"user": args.user})
        if args.json
        else f"new password in {args.secrets}"
    )
    return 0


def keeper(path: Path, url: str) -> Callable[[str, str], None]:
    """Return a function that notes a password before it is set on the server."""

    def keep(user: str, password: str) -> None:
        known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        known.setdefault(url, {})[user] = password
        write_secret(path, known)

    return keep


if __name__ == "__main__":
    sys.exit(main())
