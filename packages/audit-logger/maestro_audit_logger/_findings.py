"""What `verify` finds, and the report of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, final

Severity = Literal["tampered", "damaged", "notice"]
Status = Literal["ok", "damaged", "tampered"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that `verify` has to say.

    Attributes:
        kind: a short name for programs, such as `chain-broken`.
        seq: the line it is about, 0 when it is about none.
        where: the file.
        message: for people.
        severity: `tampered`, `damaged` (explained by a crash) or `notice`.
    """

    kind: str
    seq: int
    where: str
    message: str
    severity: Severity


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """What is true of a log.

    Attributes:
        status: `ok`, `damaged` (torn lines, each explained) or `tampered`.
        records: lines checked.
        first_seq: the first line on disk; more than 1 after pruning.
        head_seq: the last line.
        root: the Merkle root over all lines, hex; empty when it has no meaning.
        checkpoints: checkpoints compared with the lines.
        signed_by: names of the keys whose signatures were checked.
        anchored: true when the log extends the anchor.
        uncovered: lines after the newest checkpoint.
        findings: everything found, worst first.
    """

    path: str
    status: Status
    records: int
    first_seq: int
    head_seq: int
    root: str
    checkpoints: int
    signed_by: tuple[str, ...]
    anchored: bool
    uncovered: int
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Tell whether nothing is wrong and nothing is damaged."""
        return self.status == "ok"

    def explain(self) -> str:
        """Return the report as text."""
        lines = [
            f"{self.path}: {self.status}",
            f"  lines {self.first_seq} to {self.head_seq}, {self.records} checked",
            f"  checkpoints {self.checkpoints}, lines after the newest {self.uncovered}",
            f"  signed by {', '.join(self.signed_by) or 'nobody that was checked'}",
            f"  anchor {'extended' if self.anchored else 'none'}",
        ]
        for item in self.findings:
            place = f" line {item.seq}" if item.seq else ""
            lines.append(f"  {item.severity}:{place} {item.message} ({item.where})")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return asdict(self) | {
            "signed_by": list(self.signed_by),
            "findings": [asdict(finding) for finding in self.findings],
        }


@final
class Findings:
    """Collect what is found."""

    def __init__(self) -> None:
        self.items: list[Finding] = []

    def add(
        self, kind: str, seq: int, where: str, message: str, severity: Severity
    ) -> None:
        """Note one thing."""
        self.items.append(
            Finding(kind=kind, seq=seq, where=where, message=message, severity=severity)
        )

    def tampered(self, kind: str, seq: int, where: str, message: str) -> None:
        """Note that somebody changed something."""
        self.add(kind, seq, where, message, "tampered")

    @property
    def any_tampered(self) -> bool:
        """Tell whether the log is lost as evidence."""
        return any(item.severity == "tampered" for item in self.items)

    def worst_first(self) -> tuple[Finding, ...]:
        """Return everything, the worst first, then by line."""
        order = ("tampered", "damaged", "notice")
        return tuple(sorted(self.items, key=lambda f: (order.index(f.severity), f.seq)))
