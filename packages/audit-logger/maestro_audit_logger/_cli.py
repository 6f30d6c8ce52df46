"""The command `maestro-audit`."""

from __future__ import annotations

import argparse
import getpass
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from maestro_audit_logger._event import Actor, Event
from maestro_audit_logger._logger import AuditLogger
from maestro_audit_logger._note import parse_checkpoint, parse_note
from maestro_audit_logger._prove import check_proof, stored_line
from maestro_audit_logger._query import Query, follow, run_query
from maestro_audit_logger._segments import Identity
from maestro_audit_logger._signers import HmacRatchet, Signer
from maestro_audit_logger._verify import verify_log
from maestro_audit_logger.errors import (
    AuditError,
    InvalidNote,
    InvalidProof,
    UntrustedNote,
)

OK, TAMPERED, USAGE, DAMAGED, UNVERIFIED, FAILED = 0, 1, 2, 3, 4, 5
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
        return 130
    except BrokenPipeError:
        # The reader has gone, as `head` does; keep Python from saying so at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except InvalidProof as error:
        return _complain(error, TAMPERED)
    except UntrustedNote as error:
        return _complain(error, TAMPERED)
    except InvalidNote as error:
        return _complain(error, UNVERIFIED)
    except (AuditError, OSError, ImportError) as error:
        return _complain(error, FAILED)
    except (ValueError, TypeError) as error:
        return _complain(error, USAGE)
    return code


def _complain(error: Exception, code: int) -> int:
    print(f"maestro-audit: {error}", file=sys.stderr)
    return code


# Commands


def _init(args: argparse.Namespace) -> int:
    with AuditLogger(args.log, origin=args.origin) as audit:
        _show(args, {"log": str(audit.path), "origin": audit.identity.origin,
                     "log_id": audit.identity.log_id})  # fmt: skip
    return OK


def _verify(args: argparse.Namespace) -> int:
    anchor = Path(args.anchor).read_text("utf-8") if args.anchor else None
    report = verify_log(args.log, anchor=anchor, keys=_keys(args.key), full=args.full)
    print(json.dumps(report.as_dict()) if args.json else report.explain())
    code = {"ok": OK, "damaged": DAMAGED, "tampered": TAMPERED}[report.status]
    if code == OK and args.strict and not (report.signed_by or report.anchored):
        print("maestro-audit: integrity only: give --key or --anchor", file=sys.stderr)
        return UNVERIFIED
    return code


def _query(args: argparse.Namespace) -> int:
    for event in run_query(args.log, _criteria(args)):
        _print_event(args, event)
    return OK


def _tail(args: argparse.Namespace) -> int:
    Identity.load(Path(args.log))
    query = _criteria(args)
    newest = Query(system=True, newest_first=True, limit=1)
    head = next((e.seq for e in run_query(args.log, newest)), 0)
    settings = {n: getattr(query, n) for n in Query.__dataclass_fields__}
    settings |= {"newest_first": True, "limit": args.lines}
    for event in reversed(list(run_query(args.log, Query(**settings)))):
        _print_event(args, event)
    if args.follow:
        settings |= {"newest_first": False, "limit": None, "after": head}
        for event in follow(args.log, Query(**settings)):
            _print_event(args, event)
            sys.stdout.flush()
    return OK


def _export(args: argparse.Namespace) -> int:
    from maestro_audit_logger.exporters import export_to, exporter

    options = dict(option.split("=", 1) for option in args.option)
    events = run_query(args.log, _criteria(args))
    if args.to == "-":
        count = exporter(args.format, **options).write(events, sys.stdout.buffer)
    else:
        count = export_to(args.to, args.format, events, options)
        _show(args, {"events": count, "to": args.to})
    return OK


def _evidence(args: argparse.Namespace) -> int:
    from maestro_audit_logger._evidence import write_bundle

    keys = [
        str(Path(k).read_text("utf-8")).strip() if Path(k).is_file() else k
        for k in args.key
    ]
    if any(key.startswith("HMAC+KEY+") for key in keys):
        raise ValueError(
            "an HMAC key is the auditor's secret: it cannot go into a bundle"
        )
    count = write_bundle(
        args.to, args.log, run_query(args.log, _criteria(args)), keys=keys
    )
    _show(args, {"events": count, "to": args.to})
    return OK


def _prove(args: argparse.Namespace) -> int:
    from maestro_audit_logger._prove import prove

    proof = prove(args.log, args.seq)
    if args.json:
        line = stored_line(args.log, args.seq).decode("ascii")
        print(json.dumps({"seq": args.seq, "line": line, "proof": proof}))
    else:
        sys.stdout.write(proof)
    return OK


def _check_proof(args: argparse.Namespace) -> int:
    proof = Path(args.proof).read_text("utf-8")
    line = Path(args.event).read_bytes()
    found = check_proof(proof, line, keys=_keys(args.key))
    _show(args, {"proven": True, "origin": found.origin, "size": found.size,
                 "signature": "checked" if args.key else "not checked"})  # fmt: skip
    return OK


def _checkpoint(args: argparse.Namespace) -> int:
    with _open(args) as audit:
        note = audit.checkpoint()
    _print_note(args, note)
    return OK


def _seal(args: argparse.Namespace) -> int:
    with _open(args) as audit:
        note = audit.seal()
        if args.pack:
            audit.pack()
    _print_note(args, note)
    return OK


def _prune(args: argparse.Namespace) -> int:
    with _open(args) as audit:
        gone = audit.prune(args.before)
    _show(args, {"removed_segments": gone})
    return OK


def _erase(args: argparse.Namespace) -> int:
    with _open(args) as audit:
        gone = audit.erase(args.subject)
    _show(args, {"subject": args.subject, "erased": gone})
    return OK


def _keygen(args: argparse.Namespace) -> int:
    if args.hmac:
        _, key = HmacRatchet.create(args.to, name=args.name)
        text = str(key)
        said = "give this key to the auditor and keep no copy on this machine"
    else:
        from maestro_audit_logger._crypto import Ed25519Signer

        signer = Ed25519Signer.generate(args.name)
        signer.save(args.to)
        text = str(signer.public)
        said = "the public key; the private one is in the file"
    if args.json:
        print(
            json.dumps(
                {
                    "key": text,
                    "file": args.to,
                    "kind": "hmac" if args.hmac else "ed25519",
                }
            )
        )
    else:
        print(text)
        print(said, file=sys.stderr)
    return OK


def _report(args: argparse.Namespace) -> int:
    from maestro_audit_logger._report import Summary, write_report

    anchor = Path(args.anchor).read_text("utf-8") if args.anchor else None
    verified = verify_log(args.log, anchor=anchor, keys=_keys(args.key))
    summary = Summary.of(run_query(args.log, _criteria(args)))
    origin = Identity.load(Path(args.log)).origin
    write_report(args.to, summary, verified, origin=origin)
    _show(args, {"to": args.to, "events": summary.events, "status": verified.status})
    return {"ok": OK, "damaged": DAMAGED, "tampered": TAMPERED}[verified.status]


def _doctor(args: argparse.Namespace) -> int:
    """Look at what makes logs fail later: space, permissions, age of checkpoints."""
    from maestro_audit_logger._doctor import examine
    from maestro_audit_logger._selftest import attack_all

    if args.log is None and not args.selftest:
        raise ValueError("expected the folder of a log, or --selftest")
    checks = examine(Path(args.log)) if args.log else []
    if args.selftest:
        checks += attack_all(near=Path(args.log) if args.log else None)
    if args.json:
        print(json.dumps([{"check": n, "ok": ok, "message": m} for n, ok, m in checks]))
    else:
        for name, good, message in checks:
            print(f"{'ok  ' if good else 'FAIL'}  {name}: {message}")
    return OK if all(good for _, good, _ in checks) else FAILED


# Shared


def _open(args: argparse.Namespace) -> AuditLogger:
    actor = Actor.user(args.actor or getpass.getuser(), via="maestro-audit")
    signer: Signer | None = None
    if args.sign_with:
        first = Path(args.sign_with).read_text("utf-8")
        if first.startswith("PRIVATE+KEY+"):
            from maestro_audit_logger._crypto import Ed25519Signer

            signer = Ed25519Signer.load(args.sign_with)
        else:
            signer = HmacRatchet(args.sign_with)
    return AuditLogger(args.log, actor=actor, signer=signer)


def _keys(given: Sequence[str]) -> list[str]:
    """Take keys as they are, or from files of one key per line."""
    found: list[str] = []
    for item in given:
        path = Path(item)
        if "+" in item and not path.is_file():
            found.append(item)
        else:
            lines = path.read_text("utf-8").splitlines()
            found += [line.strip() for line in lines if line.strip()]
    return found


def _criteria(args: argparse.Namespace) -> Query:
    resource: str | tuple[str, str] | None = args.resource
    if isinstance(resource, str) and ":" in resource:
        kind, _, name = resource.partition(":")
        resource = (kind, name)
    return Query(
        actor=args.actor_is,
        action=args.action,
        resource=resource,
        outcome=args.outcome,
        since=args.since,
        until=args.until,
        newest_first=args.newest_first,
        limit=args.limit,
        system=args.system,
    )


def _print_event(args: argparse.Namespace, event: Event) -> None:
    if args.json:
        print(event.raw.decode("ascii"))
        return
    on = f" {event.resource.type}:{event.resource.id}" if event.resource else ""
    data = f" {json.dumps(event.data)}" if event.data else ""
    text = (
        f"{event.seq} {event.ts} {event.actor.type}:{event.actor.id} "
        f"{event.action}{on} {event.outcome}{data}"
    )
    # Names come from outside: control characters must not reach a terminal.
    print(text if text.isprintable() else text.encode("unicode_escape").decode())


def _print_note(args: argparse.Namespace, note: str) -> None:
    if args.json:
        checkpoint = parse_checkpoint(parse_note(note).text)
        print(json.dumps({"note": note, "size": checkpoint.size}))
    else:
        sys.stdout.write(note)


def _show(args: argparse.Namespace, facts: dict[str, Any]) -> None:
    if args.json:
        print(json.dumps(facts))
    else:
        print(", ".join(f"{name} {value}" for name, value in facts.items()))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="maestro-audit",
        description="Create, read, check and keep audit logs.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(
        name: str,
        run: Callable[[argparse.Namespace], int],
        text: str,
        *,
        log: bool = True,
    ) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text)
        made.set_defaults(run=run)
        if log:
            made.add_argument("log", help="the folder of the log")
        made.add_argument("--json", action="store_true", help="print JSON")
        return made

    made = command("init", _init, "create a log")
    made.add_argument(
        "--origin", required=True, help="its name, such as app.example/audit"
    )
    made = command("verify", _verify, "check chain, tree, checkpoints and signatures")
    _add_trust(made)
    made.add_argument("--full", action="store_true", help="parse every line as well")
    made.add_argument(
        "--strict", action="store_true", help="exit 4 without key and anchor"
    )
    _add_criteria(command("query", _query, "print matching events"))
    made = command("tail", _tail, "print the newest events")
    _add_criteria(made)
    made.add_argument("-n", "--lines", type=int, default=10)
    made.add_argument("-f", "--follow", action="store_true", help="go on for ever")
    made = command("export", _export, "write matching events in a format")
    made.add_argument("format", help="jsonl, ocsf, syslog, cef, leef, ecs, csv, ...")
    made.add_argument("--to", default="-", help="a file; - is the standard output")
    made.add_argument(
        "-o", "--option", action="append", default=[], metavar="NAME=VALUE"
    )
    _add_criteria(made)
    made = command(
        "evidence", _evidence, "write a zip of events, proofs and a verifier"
    )
    made.add_argument("--to", required=True)
    made.add_argument(
        "--key", action="append", default=[], help="public key to enclose"
    )
    _add_criteria(made)
    made = command("prove", _prove, "print the proof of one record")
    made.add_argument("seq", type=int)
    made = command(
        "check-proof", _check_proof, "check a proof; needs no log", log=False
    )
    made.add_argument("proof", help="the file of the proof")
    made.add_argument("event", help="a file with the stored line")
    made.add_argument(
        "--key", action="append", default=[], help="whose signature counts"
    )
    _add_writing(command("checkpoint", _checkpoint, "make a checkpoint and print it"))
    made = command("seal", _seal, "close the segment, make a checkpoint")
    made.add_argument("--pack", action="store_true", help="compress sealed segments")
    _add_writing(made)
    made = command("prune", _prune, "remove old sealed segments, keep their hashes")
    made.add_argument(
        "--before", required=True, help="a time such as 2026-01-01 or -365d"
    )
    _add_writing(made)
    made = command("erase", _erase, "remove the private values of a subject")
    made.add_argument("--subject", required=True)
    _add_writing(made)
    made = command("keygen", _keygen, "make a key that signs checkpoints", log=False)
    made.add_argument("to", help="the new file")
    made.add_argument("--name", required=True, help="such as app.example/audit")
    made.add_argument(
        "--hmac", action="store_true", help="a ratchet instead of Ed25519"
    )
    made = command("report", _report, "write an HTML report")
    made.add_argument("--to", required=True)
    _add_trust(made)
    _add_criteria(made)
    made = command("doctor", _doctor, "look for what will make the log fail", log=False)
    made.add_argument("log", nargs="?", help="the folder of the log")
    made.add_argument(
        "--selftest",
        action="store_true",
        help="attack a log made for the purpose and see that verify notices",
    )
    return parser


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
