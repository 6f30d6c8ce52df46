# ruff: noqa: T201 - commands print
"""What each command of `maestro-audit` does; `_cli` has its arguments."""

from __future__ import annotations

import argparse
import getpass
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from maestro_audit_logger import _prove
from maestro_audit_logger._event import Actor, Event
from maestro_audit_logger._logger import AuditLogger
from maestro_audit_logger._note import parse_checkpoint, parse_note
from maestro_audit_logger._query import Query, follow, run_query
from maestro_audit_logger._segments import Identity
from maestro_audit_logger._signers import HmacRatchet, Signer
from maestro_audit_logger._verify import verify_log

OK, TAMPERED, USAGE, DAMAGED, UNVERIFIED, FAILED = 0, 1, 2, 3, 4, 5
_OF_STATUS = {"ok": OK, "damaged": DAMAGED, "tampered": TAMPERED}


def init(args: argparse.Namespace) -> int:
    """Create a log."""
    with AuditLogger(args.log, origin=args.origin) as audit:
        _show(args, {"log": str(audit.path), "origin": audit.identity.origin,
                     "log_id": audit.identity.log_id})  # fmt: skip
    return OK


def verify(args: argparse.Namespace) -> int:
    """Check a log; the exit code says how it is."""
    anchor = Path(args.anchor).read_text("utf-8") if args.anchor else None
    report = verify_log(args.log, anchor=anchor, keys=_keys(args.key), full=args.full)
    print(json.dumps(report.as_dict()) if args.json else report.explain())
    code = _OF_STATUS[report.status]
    if code == OK and args.strict and not (report.signed_by or report.anchored):
        print("maestro-audit: integrity only: give --key or --anchor", file=sys.stderr)
        return UNVERIFIED
    return code


def query(args: argparse.Namespace) -> int:
    """Print the matching events."""
    for event in run_query(args.log, _criteria(args)):
        _print_event(args, event)
    return OK


def tail(args: argparse.Namespace) -> int:
    """Print the newest events, and those to come."""
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


def export(args: argparse.Namespace) -> int:
    """Write the matching events in a format."""
    from maestro_audit_logger.exporters import export_to, exporter

    options = {}
    for option in args.option:
        name, equals, value = option.partition("=")
        if not equals:
            raise ValueError(f"--option expects NAME=VALUE, got {option!r}")
        options[name] = value
    events = run_query(args.log, _criteria(args))
    if args.to == "-":
        count = exporter(args.format, **options).write(events, sys.stdout.buffer)
    else:
        count = export_to(args.to, args.format, events, options)
        _show(args, {"events": count, "to": args.to})
    return OK


def evidence(args: argparse.Namespace) -> int:
    """Write an auditor's zip."""
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


def prove(args: argparse.Namespace) -> int:
    """Print the proof of one record."""
    proof = _prove.prove(args.log, args.seq)
    if args.json:
        line = _prove.stored_line(args.log, args.seq).decode("ascii")
        print(json.dumps({"seq": args.seq, "line": line, "proof": proof}))
    else:
        sys.stdout.write(proof)
    return OK


def check_proof(args: argparse.Namespace) -> int:
    """Check a proof without the log."""
    proof = Path(args.proof).read_text("utf-8")
    line = Path(args.event).read_bytes()
    found = _prove.check_proof(proof, line, keys=_keys(args.key))
    _show(args, {"proven": True, "origin": found.origin, "size": found.size,
                 "signature": "checked" if args.key else "not checked"})  # fmt: skip
    return OK


def checkpoint(args: argparse.Namespace) -> int:
    """Make a checkpoint and print it."""
    with _open(args) as audit:
        note = audit.checkpoint()
    _print_note(args, note)
    return OK


def seal(args: argparse.Namespace) -> int:
    """Close the segment and make a checkpoint."""
    with _open(args) as audit:
        note = audit.seal()
        if args.pack:
            audit.pack()
    _print_note(args, note)
    return OK


def prune(args: argparse.Namespace) -> int:
    """Remove old sealed segments."""
    with _open(args) as audit:
        gone = audit.prune(args.before)
    _show(args, {"removed_segments": gone})
    return OK


def erase(args: argparse.Namespace) -> int:
    """Remove the private values of a subject."""
    with _open(args) as audit:
        gone = audit.erase(args.subject)
    _show(args, {"subject": args.subject, "erased": gone})
    return OK


def keygen(args: argparse.Namespace) -> int:
    """Make a key that signs checkpoints."""
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


def report(args: argparse.Namespace) -> int:
    """Write the HTML report."""
    from maestro_audit_logger._report import Summary, write_report

    anchor = Path(args.anchor).read_text("utf-8") if args.anchor else None
    verified = verify_log(args.log, anchor=anchor, keys=_keys(args.key))
    summary = Summary.of(run_query(args.log, _criteria(args)))
    origin = Identity.load(Path(args.log)).origin
    write_report(args.to, summary, verified, origin=origin)
    _show(args, {"to": args.to, "events": summary.events, "status": verified.status})
    return _OF_STATUS[verified.status]


def doctor(args: argparse.Namespace) -> int:
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
