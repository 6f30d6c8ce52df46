"""A trace of what was done in a browser, as one HTML file that needs nothing else."""

import base64
import os
import time
from html import escape
from pathlib import Path

_HEAD = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Trace</title>
<style>
body { font: 14px/1.4 system-ui, sans-serif; margin: 1rem auto; max-width: 60rem; }
section { border-left: 4px solid #2a7; padding: .2rem 1rem; margin: 1rem 0; }
section.failed { border-color: #c33; }
h2 { font-size: 1rem; margin: 0; } h2 code { font-weight: normal; }
img { max-width: 100%; border: 1px solid #ccc; margin-top: .5rem; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; max-height: 30rem; overflow: auto; }
.why { color: #c33; }
@media (prefers-color-scheme: dark) { body { background: #111; color: #ddd; } }
</style>
<h1>Trace</h1>
"""
_MAX_DOM = 500_000


class Trace:
    """Appends every verb to the file at once, so that a crash loses none."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._count = 0
        self._begun = time.monotonic()
        self._file = path.open("w", encoding="utf-8", errors="backslashreplace")
        self._file.write(_HEAD)
        self._file.flush()

    def add(
        self,
        *,
        verb: str,
        target: str,
        seconds: float,
        error: BaseException | None,
        picture: bytes,
        dom: str,
        url: str,
    ) -> None:
        """Add one verb with the page as it was after it."""
        if self._file.closed:
            return
        self._count += 1
        at = time.monotonic() - self._begun - seconds
        failed = ' class="failed"' if error else ""
        parts = [
            (
                f'<section{failed} id="step-{self._count}">\n<h2>{self._count}. '
                f"{escape(verb)} <code>{escape(target)}</code></h2>\n"
                f"<div>at {at:.2f} s, took {seconds:.3f} s, {escape(url)}</div>\n"
            )
        ]
        if error:
            parts.append(f'<pre class="why">{escape(str(error))}</pre>\n')
        if picture:
            data = base64.b64encode(picture).decode()
            parts.append(
                f'<img alt="the page after step {self._count}" loading="lazy" '
                f'src="data:image/png;base64,{data}">\n'
            )
        if dom:
            parts.append(
                "<details><summary>DOM</summary>"
                f"<pre>{escape(dom[:_MAX_DOM])}</pre></details>\n"
            )
        parts.append("</section>\n")
        self._file.write("".join(parts))
        self._file.flush()

    def close(self) -> None:
        """End the file. Idempotent."""
        if not self._file.closed:
            self._file.write("</html>\n")
            self._file.close()


def trace_path(
    trace: bool | str | os.PathLike[str],  # noqa: FBT001 - True means the usual place
    artifacts: str | os.PathLike[str],
) -> Path | None:
    """Return where the trace goes, None for no trace."""
    if trace is True:
        return Path(artifacts) / "trace.html"
    return Path(trace) if trace else None
