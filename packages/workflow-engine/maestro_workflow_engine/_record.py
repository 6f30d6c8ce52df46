"""What a run writes down and tells: events for the journal and for a listener."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, final

from ._model import Event

if TYPE_CHECKING:
    from ._journal import Journal, Row, RunInfo


@final
class Record:
    """The events of a turn until they are written, in one transaction."""

    def __init__(
        self,
        run_id: str,
        journal: Journal | None,
        info: RunInfo | None,
        listener: Callable[[Event], None] | None,
        now: Callable[[], float],
    ) -> None:
        self.run_id = run_id
        self.journal = journal
        self.info = info
        self.listener = listener
        self.now = now
        self.silent = journal is None and listener is None
        self.rows: list[Row] = []
        self.starts: list[tuple[str, int]] = []
        self.cache_rows: list[tuple[str, str]] = []

    def log(
        self,
        step: str,
        attempt: int,
        kind: str,
        *,
        at: float | None = None,
        seconds: float | None = None,
        worker: str | None = None,
        value: str | None = None,
        note: str | None = None,
    ) -> None:
        if self.silent:
            return
        if at is None:
            at = self.now()
        if self.journal is not None:
            self.rows.append((step, attempt, kind, at, seconds, worker, value, note))
        if self.listener is not None:
            self.tell(step, attempt, kind, at, seconds, worker, note)

    def tell(
        self,
        step: str,
        attempt: int,
        kind: str,
        at: float,
        seconds: float | None = None,
        worker: str | None = None,
        note: str | None = None,
    ) -> None:
        assert self.listener is not None
        self.listener(
            Event(
                run_id=self.run_id, step=step, attempt=attempt, kind=kind, at=at,
                note=note, seconds=seconds, worker=worker,
            )
        )  # fmt: skip

    def flush(self) -> None:
        """Write this turn down, before anything that it starts begins."""
        rows, starts = self.rows, self.starts
        if rows or starts:
            if self.journal is not None and self.info is not None:
                self.journal.commit(self.info, rows, starts, self.now())
            rows.clear()
            starts.clear()
        if self.cache_rows and self.journal is not None:
            self.journal.keep(self.cache_rows)
            self.cache_rows.clear()
