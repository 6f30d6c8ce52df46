"""Look at a run from another process: text for terminals, a page for browsers.

Both only read the journal; the process that runs is never disturbed.
"""

import json
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar, Final, final
from urllib.parse import parse_qs, urlsplit

from ._fold import RunView, Span, State
from ._journal import Journal
from ._log import Event
from .errors import JournalError

_MARKS: Final = {
    State.COMPLETED: "done", State.FAILED: "FAILED", State.REJECTED: "REJECTED",
    State.CANCELLED: "cancelled", State.SKIPPED: "skipped", State.WAITING: "waits",
    State.IN_DOUBT: "IN DOUBT", State.RETRYING: "retries",
}  # fmt: skip
_RECENT: Final = 200


def lanes(spans: Sequence[Span]) -> list[list[Span]]:
    """Put spans on as few lines as possible, none over another: one per worker."""
    found: list[list[Span]] = []
    for span in sorted(spans, key=lambda s: s.start_ns):
        for lane in found:
            if lane[-1].end_ns and lane[-1].end_ns <= span.start_ns:
                lane.append(span)
                break
        else:
            found.append([span])
    return found


@final
class Watch:
    """A run as its journal tells it so far; a look takes in only what is new."""

    def __init__(self, run: str) -> None:
        self.view = RunView(run)
        self.recent: deque[Event] = deque(maxlen=_RECENT)

    def read(self, journal: Journal) -> list[Event]:
        """Take in the events since the last look; return them."""
        if not self.view.last_seq:
            journal.require(self.view.run)
        new = list(journal.events(self.view.run, after=self.view.last_seq))
        for event in new:
            self.view.apply(event)
        self.recent.extend(new)
        return new


def draw(view: RunView, events: Collection[Event], *, width: int = 80) -> str:
    """Return the run as text: head, timeline, tasks, what waits, last events."""
    end = view.last_ns
    start = view.first_ns
    total = view.total
    done = view.counts[State.COMPLETED]
    lines = [
        (
            f"run {view.run}  {view.status}  {done}/{len(view.tasks)} tasks  "
            f"{(end - start) / 1e9:.1f} s"
        ),
        (
            f"calls {total.calls}  tokens {total.input_tokens + total.output_tokens}  "
            f"usd {total.usd_micro / 1e6:.4f}"
            + (f"  unpriced calls {total.unpriced}" if total.unpriced else "")
        ),
    ]
    lines += _budget_lines(view, width)
    for n, lane in enumerate(lanes(view.spans), 1):
        lines.append(f"w{n:<2} |{_bar(lane, start, end, width - 7)}|")
    wide = min(32, max(map(len, view.tasks), default=0))
    # What is not done first: a small terminal shows the head alone.
    for task in sorted(view.tasks.values(), key=lambda t: t.state is State.COMPLETED):
        mark = _MARKS.get(task.state, task.state.value)
        why = task.detail.split("\n")[0] or task.waits_for
        line = f"  {mark:10} {task.name[:wide]:{wide}} {task.agent:12} {why}"
        lines.append(line[:width].rstrip())
        if task.trace:
            lines.append(f"             {task.trace.splitlines()[-1]}"[:width])
    for event in list(events)[-5:]:
        who = " ".join(x for x in (event.task, event.actor) if x)
        lines.append(f"  #{event.seq} {event.type} {who}"[:width])
    return "\n".join(lines)


def _budget_lines(view: RunView, width: int) -> list[str]:
    spent = {
        "tokens": view.total.input_tokens + view.total.output_tokens,
        "calls": view.total.calls,
        "usd": view.total.usd_micro / 1e6,
    }
    found = []
    for unit, used in spent.items():
        limit = float(view.budgets.get(unit) or 0)
        if limit:
            share = used / limit
            room = max(10, width - 40)
            filled = min(room, int(share * room))
            bar = "#" * filled + "." * (room - filled)
            found.append(f"{unit:7} {bar} {share:6.1%} of {limit:g}")
    return found


def _bar(lane: Sequence[Span], start: int, end: int, width: int) -> str:
    cells = [" "] * width
    scale = width / max(1, end - start)
    for span in lane:
        first = min(width - 1, int((span.start_ns - start) * scale))
        last = min(width, max(first + 1, int(((span.end_ns or end) - start) * scale)))
        room = last - first - 1
        cells[first:last] = span.task[:room].ljust(room, "=") + "|"
    return "".join(cells)


def follow(
    path: Path,
    run: str,
    *,
    write: Callable[[str], None],
    tty: bool,
    every: float = 0.5,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Show a run until it ends: redrawn on a terminal, one line per event elsewhere."""
    watch = Watch(run)
    with Journal(path, read_only=True) as journal:
        while True:
            # Asked first: what a run wrote before it ended is read after.
            running = journal.is_running(run)
            new, view = watch.read(journal), watch.view
            if tty:
                size = shutil.get_terminal_size()
                text = draw(view, watch.recent, width=size.columns)
                rows = text.split("\n")[: size.lines - 1]
                write("\x1b[H" + "".join(f"{row}\x1b[K\n" for row in rows) + "\x1b[J")
            else:
                for event in new:
                    line = f"{event.seq} {event.type} {event.task} {event.actor}"
                    write(f"{line.rstrip()}\n")
            if not running and view.status not in {"started", "resumed"}:
                return
            sleep(every)


def state(journal: Journal, watch: Watch) -> dict[str, Any]:
    """Return what the page shows, as plain data."""
    watch.read(journal)
    view = watch.view
    every = len(view.burn) // 500 + 1
    return {
        "run": view.run,
        "status": view.status,
        "live": journal.is_running(view.run),
        "start": view.first_ns / 1e6,
        "end": view.last_ns / 1e6,
        "total": view.total.to_json(),
        "budget": view.budgets,
        "lanes": [
            [
                {"task": s.task, "agent": s.agent, "attempt": s.attempt,
                 "start": s.start_ns / 1e6, "end": (s.end_ns or view.last_ns) / 1e6,
                 "outcome": s.outcome or "running"}
                for s in lane
            ]
            for lane in lanes(view.spans)
        ],
        "tasks": [
            {"name": t.name, "state": t.state.value, "agent": t.agent,
             "attempt": t.attempt, "detail": t.detail or t.waits_for, "trace": t.trace}
            for t in view.tasks.values()
        ],
        "burn": [
            [at / 1e6, tokens, usd / 1e6]
            for at, tokens, usd in reversed(view.burn[::-1][::every])
        ],
        "events": [
            {"seq": e.seq, "type": e.type, "task": e.task, "actor": e.actor}
            for e in reversed(watch.recent)
        ],
    }  # fmt: skip


@final
class MonitorServer:
    """The page on a loopback port. Reads only; use it as a context."""

    def __init__(self, path: Path, *, port: int = 0) -> None:
        Journal(path, read_only=True).close()

        class Handler(_Handler):
            journal_path = path
            watches: ClassVar[dict[str, Watch]] = {}
            lock = threading.Lock()  # over watches

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> "MonitorServer":
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    journal_path: Path
    watches: ClassVar[dict[str, Watch]]
    lock: threading.Lock

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        host = (self.headers.get("host") or "").rsplit(":", 1)[0]
        if host not in {"127.0.0.1", "localhost"}:  # a page of another site
            self._send(403, "text/plain", b"only from this machine")
        elif parts.path == "/":
            page = files(__package__).joinpath("monitor.html").read_bytes()
            self._send(200, "text/html; charset=utf-8", page)
        elif parts.path == "/favicon.ico":
            self._send(204, "image/x-icon", b"")
        elif parts.path == "/state.json":
            self._state(parse_qs(parts.query))
        else:
            self._send(404, "text/plain", b"not found")

    def _state(self, query: dict[str, list[str]]) -> None:
        try:
            with self.lock, Journal(self.journal_path, read_only=True) as journal:
                runs = [s.run for s in journal.runs()]
                run = query.get("run", [runs[-1] if runs else ""])[0]
                watch = self.watches.get(run) or Watch(run)
                found = {**state(journal, watch), "runs": runs}
                self.watches[run] = watch
        except JournalError as error:
            self._send(
                404, "application/json", json.dumps({"error": str(error)}).encode()
            )
            return
        self._send(200, "application/json", json.dumps(found).encode())

    def _send(self, code: int, kind: str, body: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header(
            "Content-Security-Policy",
            "default-src 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'",
        )
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the terminal belongs to the command."""
