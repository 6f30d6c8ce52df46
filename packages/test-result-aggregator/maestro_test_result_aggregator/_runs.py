"""Runs and executions as the history returns them."""

import json
import zlib
from dataclasses import dataclass, field
from typing import Any

from ._ctrf import from_ctrf
from ._model import OUTCOMES, Counts, Diagnostic, Outcome, TestResult, make


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInfo:
    """A run in the history.

    Attributes:
        run_id: Its name.
        started: Seconds since 1970.
        shards: The shards that were ingested, "" for an unsharded one.
        counts: Sums over its shards.
        duration: Seconds of test time, summed.
        wall: Seconds from the first start to the last stop, where the reports tell.
    """

    run_id: str
    started: float
    commit: str = ""
    branch: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    shards: tuple[str, ...] = ()
    counts: Counts = field(default_factory=Counts)
    duration: float = 0.0
    wall: float | None = None
    diagnostics: tuple[Diagnostic, ...] = ()
    number: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """One run of one test: its last outcome, and those of the attempts before."""

    run_id: str
    started: float
    commit: str
    outcome: Outcome
    duration: float
    attempts: tuple[Outcome, ...] = ()
    message: str | None = None


def run_info(row: Any, parts: list[Any]) -> RunInfo:
    number, name, started, sha, branch, environment = row
    sums = [json.loads(part[2]) for part in parts]
    firsts = [s["first"] for s in sums if s["first"] is not None]
    stops = [s["stop"] for s in sums if s["stop"] is not None]
    return RunInfo(
        run_id=name, started=started, commit=sha, branch=branch, number=number,
        environment=json.loads(environment), shards=tuple(part[1] for part in parts),
        counts=Counts(**{key: sum(s[key] for s in sums) for key in Counts.__dataclass_fields__}),
        duration=sum(s["us"] for s in sums) / 1e6,
        wall=max(stops) - min(firsts) if firsts else None,
        diagnostics=tuple(
            Diagnostic(path=d[0], message=d[1], line=d[2], level=d[3])
            for part in parts for d in json.loads(part[3])
        ),
    )  # fmt: skip


def stored_result(row: Any) -> TestResult:
    key, name, file, line, suite, _, outcome, us, start, data = row
    fields: dict[str, Any] = {"id": key, "name": name, "outcome": OUTCOMES[outcome],
                              "duration": us / 1e6, "suite": tuple(json.loads(suite))}  # fmt: skip
    if file is not None:
        fields["file"] = file
    if line is not None:
        fields["line"] = line
    if start is not None:
        fields["start"] = start / 1e6
    if data is not None:
        made = json.loads(zlib.decompress(data).decode("utf-8", "surrogatepass"))
        told = from_ctrf({"name": name or "-", "status": "other", **made})
        fields = {**told.__dict__, **fields}
    return make(fields)
