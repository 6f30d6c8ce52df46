"""Attack a log made for the purpose, and see whether `verify` notices.

Run on the machine that matters, this shows that the installed code finds what
it promises to find, on this file system and with this Python.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import final

from maestro_audit_logger._doctor import Check
from maestro_audit_logger._event import Actor
from maestro_audit_logger._logger import AuditLogger
from maestro_audit_logger._segments import list_segments
from maestro_audit_logger._signers import HmacRatchet
from maestro_audit_logger._verify import verify_log

Lines = list[bytes]
_FOLDER, _KEY, _ANCHOR = "the folder alone", "the key", "the anchor"
_AT = 30  # the line that is attacked, well inside the second segment
_EVENTS = 90


@final
class _Target:
    """A log of several segments, what an auditor holds of it, and a way to copy it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "audit"
        self.older = folder / "older"
        ratchet, key = HmacRatchet.create(folder / "ratchet", name="selftest")
        self.key = str(key)
        with AuditLogger(
            self.folder,
            origin="selftest",
            actor=Actor.system("selftest"),
            signer=ratchet,
            durability="os",
            segment_bytes=6000,
        ) as audit:
            for number in range(_EVENTS):
                audit.record("selftest.event", data={"number": number})
                if number == _EVENTS // 2:
                    audit.checkpoint()
                    shutil.copytree(self.folder, self.older)
            self.anchor = audit.checkpoint()


def attack_all(*, near: Path | None = None) -> list[Check]:
    """Run every attack; a check is good when `verify` said what it should.

    Args:
        near: the folder to work in, so that its file system is used; a
            temporary one otherwise. Everything made there is removed.
    """
    with tempfile.TemporaryDirectory(prefix=".selftest-", dir=near) as name:
        target = _Target(Path(name))
        found = [_untouched(target)]
        for number, (attack, (change, least)) in enumerate(_ATTACKS.items()):
            copy = Path(name) / str(number)
            shutil.copytree(target.folder, copy)
            change(copy)
            found.append(_detected(attack, copy, target, least))
        older = "an older copy of the folder"
        found.append(_detected(older, target.older, target, _ANCHOR))
        return found


def _untouched(target: _Target) -> Check:
    report = verify_log(target.folder, anchor=target.anchor, keys=[target.key])
    good = report.ok and report.anchored and report.signed_by == ("selftest",)
    return "no attack", good, "verified" if good else report.explain()


def _detected(attack: str, copy: Path, target: _Target, least: str) -> Check:
    """Say who finds it; good when whoever knows the least is among them."""
    reports = {
        _FOLDER: verify_log(copy),
        _KEY: verify_log(copy, keys=[target.key]),
        _ANCHOR: verify_log(copy, anchor=target.anchor),
    }
    by = [name for name, report in reports.items() if report.status == "tampered"]
    good = least in by and _ANCHOR in by
    return attack, good, f"found by {', '.join(by) or 'nobody'}"


def _change(edit: Callable[[Lines], Lines]) -> Callable[[Path], None]:
    """Apply an edit to the list of all lines, keeping the cuts between segments."""

    def apply(folder: Path) -> None:
        segment = list_segments(folder)[1]
        lines = segment.path.read_bytes().split(b"\n")[:-1]
        changed = edit(lines)
        segment.path.write_bytes(b"".join(line + b"\n" for line in changed))

    return apply


def _rewrite(folder: Path) -> None:
    """Edit one record and compute all later links again, as anybody can."""
    prev = sha256(b"\0" + (folder / "log.json").read_bytes()).hexdigest()
    for segment in list_segments(folder):
        out: Lines = []
        for line, _ in segment.lines():
            seq = segment.first + len(out)
            body = line[line.index(b'"ts":') :]
            if seq == _AT:
                body = body.replace(b'"outcome":"success"', b'"outcome":"failure"')
            made = b'{"seq":%d,"prev":"%s",%s' % (seq, prev.encode(), body)
            prev = sha256(b"\0" + made).hexdigest()
            out.append(made)
        segment.path.write_bytes(b"".join(line + b"\n" for line in out))


def _rewrite_all(folder: Path) -> None:
    _rewrite(folder)
    _forget(folder)


def _forget(folder: Path) -> None:
    (folder / "checkpoint").unlink()
    (folder / "checkpoints").unlink()
    shutil.rmtree(folder / "tile")


def _cut(folder: Path) -> None:
    list_segments(folder)[-1].path.unlink()


def _cut_and_forget(folder: Path) -> None:
    _cut(folder)
    _forget(folder)


def _swap(folder: Path) -> None:
    first, second = (s.path for s in list_segments(folder)[:2])
    kept = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(kept)


def _empty(folder: Path) -> None:
    list_segments(folder)[-1].path.write_bytes(b"")


def _lose_middle(folder: Path) -> None:
    list_segments(folder)[1].path.unlink()


_ATTACKS: dict[str, tuple[Callable[[Path], None], str]] = {
    "a changed byte": (
        _change(lambda x: [*x[:3], x[3].replace(b"1", b"2"), *x[4:]]),
        _FOLDER,
    ),
    "a deleted line": (_change(lambda x: x[:3] + x[4:]), _FOLDER),
    "an inserted line": (_change(lambda x: [*x[:4], x[3], *x[4:]]), _FOLDER),
    "two lines swapped": (_change(lambda x: [*x[:3], x[4], x[3], *x[5:]]), _FOLDER),
    "a second, shadowing key": (
        _change(lambda x: [*x[:3], x[3][:-1] + b',"outcome":"denied"}', *x[4:]]),
        _FOLDER,
    ),
    "a line end inside a line": (
        _change(lambda x: [*x[:3], x[3][:40], x[3][40:], *x[4:]]),
        _FOLDER,
    ),
    "two segments swapped": (_swap, _FOLDER),
    "a segment removed": (_lose_middle, _FOLDER),
    "the last segment removed": (_cut, _FOLDER),
    "the last segment emptied": (_empty, _FOLDER),
    "all links computed again": (_rewrite, _FOLDER),
    "the same, and all checkpoints removed": (_rewrite_all, _KEY),
    "a cut tail, and all checkpoints removed": (_cut_and_forget, _KEY),
}
