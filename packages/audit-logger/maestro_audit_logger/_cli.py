"""The arguments of the command `maestro-audit`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from maestro_audit_logger import _commands
from maestro_audit_logger._commands import FAILED, OK, TAMPERED, UNVERIFIED, USAGE
from maestro_audit_logger.errors import (
    AuditError,
    InvalidEvent,
    InvalidNote,
    InvalidProof,
    InvalidSetting,
    KeyExists,
    UnknownFormat,
    UntrustedNote,
    cause,
)

_Command = Callable[..., argparse.ArgumentParser]
_EXIT_CODES = """\
exit codes: 0 ok, 1 tampered or not proven, 2 wrong usage, 3 damaged by a crash and
explained, 4 cannot be verified (no key, no anchor, malformed), 5 the log cannot be used

example: maestro-audit verify /var/lib/app/audit --anchor saved.note --key key.pub
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    args = _parser().parse_args(argv)
    try:
        code: int = args.run(args)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("maestro-audit: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader has gone, as `head` does; keep Python from saying so at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except (InvalidProof, UntrustedNote) as error:
        return _complain(error, TAMPERED)
    except InvalidNote as error:
        return _complain(error, UNVERIFIED)
    except (KeyExists, InvalidSetting, InvalidEvent, UnknownFormat) as error:
        return _complain(error, USAGE)
    except (AuditError, OSError, ImportError) as error:
        return _complain(error, FAILED)
    except (ValueError, TypeError) as error:
        return _complain(error, USAGE)
    return code


def _complain(error: Exception, code: int) -> int:
    print(f"maestro-audit: {cause(error)}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="maestro-audit",
        description="Create, read, check and keep audit logs.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, text: str, *, log: bool = True) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text)
        made.set_defaults(run=getattr(_commands, name.replace("-", "_")))
        if log:
            made.add_argument("log", help="the folder of the log")
        made.add_argument("--json", action="store_true", help="print JSON")
        return made

    _add_reading(command)
    _add_proving(command)
    _add_keeping(command)
    _add_looking(command)
    return parser


def _add_reading(command: _Command) -> None:
    """Commands that make a log, and read and check it."""
    made = command("init", "create a log")
    made.add_argument(
        "--origin", required=True, help="its name, such as app.example/audit"
    )
    made = command("verify", "check chain, tree, checkpoints and signatures")
    _add_trust(made)
    made.add_argument("--full", action="store_true", help="parse every line as well")
    made.add_argument(
        "--strict", action="store_true", help="exit 4 without key and anchor"
    )
    _add_criteria(command("query", "print matching events"))
    made = command("tail", "print the newest events")
    _add_criteria(made)
    made.add_argument("-n", "--lines", type=int, default=10)
    made.add_argument("-f", "--follow", action="store_true", help="go on for ever")
    made = command("export", "write matching events in a format")
    made.add_argument("format", help="jsonl, ocsf, syslog, cef, leef, ecs, csv, ...")
    made.add_argument("--to", default="-", help="a file; - is the standard output")
    made.add_argument(
        "-o", "--option", action="append", default=[], metavar="NAME=VALUE"
    )
    _add_criteria(made)


def _add_proving(command: _Command) -> None:
    """Commands for auditors."""
    made = command("evidence", "write a zip of events, proofs and a verifier")
    made.add_argument("--to", required=True)
    made.add_argument(
        "--key", action="append", default=[], help="public key to enclose"
    )
    _add_criteria(made)
    made = command("prove", "print the proof of one record")
    made.add_argument("seq", type=int)
    made = command("check-proof", "check a proof; needs no log", log=False)
    made.add_argument("proof", help="the file of the proof")
    made.add_argument("event", help="a file with the stored line")
    made.add_argument(
        "--key", action="append", default=[], help="whose signature counts"
    )


def _add_keeping(command: _Command) -> None:
    """Commands that write: what they do is recorded too."""
    _add_writing(command("checkpoint", "make a checkpoint and print it"))
    made = command("seal", "close the segment, make a checkpoint")
    made.add_argument("--pack", action="store_true", help="compress sealed segments")
    _add_writing(made)
    made = command("prune", "remove old sealed segments, keep their hashes")
    made.add_argument(
        "--before", required=True, help="a time such as 2026-01-01 or -365d"
    )
    _add_writing(made)
    made = command("erase", "remove the private values of a subject")
    made.add_argument("--subject", required=True)
    _add_writing(made)


def _add_looking(command: _Command) -> None:
    """Commands for operators."""
    made = command("keygen", "make a key that signs checkpoints", log=False)
    made.add_argument("to", help="the new file")
    made.add_argument("--name", required=True, help="such as app.example/audit")
    made.add_argument(
        "--hmac", action="store_true", help="a ratchet instead of Ed25519"
    )
    made = command("report", "write an HTML report")
    made.add_argument("--to", required=True)
    _add_trust(made)
    _add_criteria(made)
    made = command("doctor", "look for what will make the log fail", log=False)
    made.add_argument("log", nargs="?", help="the folder of the log")
    made.add_argument(
        "--selftest",
        action="store_true",
        help="attack a log made for the purpose and see that verify notices",
    )


def _add_trust(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--anchor", help="a file with a checkpoint kept outside")
    parser.add_argument(
        "--key",
        action="append",
        default=[],
        help="a key, or a file of keys; repeatable",
    )


def _add_writing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sign-with", help="the file that keygen has made")
    parser.add_argument("--actor", help="who does this; the user's name when left out")


def _add_criteria(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--actor", dest="actor_is", help="id, or type:id")
    parser.add_argument("--action", help="a name or a pattern such as 'invoice.*'")
    parser.add_argument("--resource", help="id, or type:id")
    parser.add_argument("--outcome", help="success, failure, denied or unknown")
    parser.add_argument("--since", help="a time such as 2026-11-01 or -7d")
    parser.add_argument("--until", help="a time, not included")
    parser.add_argument("--newest-first", action="store_true")
    parser.add_argument("--limit", type=int)
    parser.add_argument(
        "--system", action="store_true", help="also the log's own records"
    )


if __name__ == "__main__":
    sys.exit(main())
