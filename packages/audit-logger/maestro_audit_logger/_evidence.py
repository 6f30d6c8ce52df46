"""A zip for an auditor: events, proofs, checkpoint, keys, and a verifier.

The verifier is one Python file made from the modules that this package itself
uses, so that there is one implementation to trust.
"""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path

from maestro_audit_logger._checkpoints import latest_note
from maestro_audit_logger._event import Event
from maestro_audit_logger._prove import prove
from maestro_audit_logger.errors import InvalidNote
from maestro_audit_logger.exporters import whole_file

_MODULES = ("errors.py", "_merkle.py", "_ed25519.py", "_note.py")
_OWN_IMPORT = re.compile(
    r"^from maestro_audit_logger[^\n]* import (\([^)]*\)|[^\n]*)\n", re.MULTILINE
)
_FUTURE = "from __future__ import annotations\n"
_MAIN = '''

def main():
    """Check every event of the folder that this file lies in; exit 0 if all hold."""
    import sys
    from pathlib import Path

    here = Path(__file__).resolve().parent
    keys = [parse_key(line) for line in sys.argv[1:]]
    events = (here / "events.jsonl").read_bytes().split(b"\\n")[:-1]
    proofs = sorted((here / "proofs").iterdir())
    bad = 0
    if len(events) != len(proofs):
        print(f"expected one proof per event, got {len(events)} and {len(proofs)}")
        bad += 1
    for line, path in zip(events, proofs):
        try:
            checkpoint = parse_proof(path.read_text("utf-8")).check(line, keys)
        except AuditError as error:
            print(f"{path.name}: {error}")
            bad += 1
    if bad:
        print("NOT PROVEN")
        return 1
    said = f"in the log {checkpoint.origin} of {checkpoint.size} lines" if events else ""
    print(f"{len(events)} events are {said}")
    if not keys:
        print("no key given: this shows integrity, not who vouches for it")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
'''
_README = """Evidence from the audit log {origin}

events.jsonl   {count} events as they are stored, one per line
proofs/        one C2SP tlog-proof per event, in the same order
checkpoint     the signed note that the proofs lead to
keys.txt       the keys that the sender states
verify.py      needs Python 3.11 and nothing else

    python verify.py KEY...

Take KEY from where you trust it, not from keys.txt in this file: who makes a
false log can enclose a false key. Without a key, only integrity is shown.
"""


def write_bundle(
    path: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    events: Iterable[Event],
    *,
    keys: Sequence[str] = (),
) -> int:
    """Write the zip; the latest checkpoint must cover the events.

    Returns:
        The number of events.
    """
    note = latest_note(Path(folder))
    if note is None:
        raise InvalidNote("there is no checkpoint yet: run `maestro-audit checkpoint`")
    chosen = list(events)
    entries = {
        "events.jsonl": b"".join(event.raw + b"\n" for event in chosen),
        "checkpoint": note.encode(),
        "keys.txt": "".join(f"{key}\n" for key in keys).encode(),
        "verify.py": verifier_source().encode(),
        "README.txt": _README.format(
            origin=note.partition("\n")[0], count=len(chosen)
        ).encode(),
    }
    for number, event in enumerate(chosen):
        name = f"proofs/{number:06d}-{event.seq}.tlog-proof"
        entries[name] = prove(folder, event.seq).encode()
    with (
        whole_file(path) as stream,
        zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as bundle,
    ):
        for name, content in entries.items():
            bundle.writestr(zipfile.ZipInfo(name), content)
    return len(chosen)


def verifier_source() -> str:
    """Return the one-file verifier."""
    parts = ['"""Verify the evidence in this folder; see README.txt."""\n', _FUTURE]
    for name in _MODULES:
        source = files("maestro_audit_logger").joinpath(name).read_text("utf-8")
        parts.append(_OWN_IMPORT.sub("", source).replace(_FUTURE, ""))
    parts.append(_MAIN)
    return "\n".join(parts)
