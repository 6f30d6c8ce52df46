"""What a browser back end has to do; everything above it is shared."""

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from maestro_test_adapters._locator import Step
from maestro_test_adapters.errors import BrowserError

Handle = Any
"""An element as the driver's library holds it."""

Frames = tuple[tuple[Step, ...], ...]


class Gone(BrowserError):
    """The page or element changed under a verb; trying again may help."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsoleMessage:
    """A line of the page's console; an uncaught error has the kind `exception`."""

    kind: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request that the page made; `status` is None while no answer is there."""

    method: str
    url: str
    status: int | None = None
    failure: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tab:
    """An open tab."""

    id: str
    url: str
    title: str


@dataclass(slots=True, kw_only=True)
class Dialog:
    """An alert, confirm or prompt; filled in when the block has ended."""

    message: str = ""


@dataclass(slots=True, kw_only=True)
class Download:
    """A downloaded file; filled in when the block has ended."""

    name: str = ""
    path: Path = field(default_factory=Path)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Route:
    """An answer that stands in for the server's."""

    pattern: re.Pattern[str]
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    abort: bool = False


class Backend(Protocol):
    """The verbs of a driver. Async; a synchronous driver simply never waits."""

    name: str

    async def pause(self, seconds: float) -> None:
        """Sleep."""

    async def goto(self, url: str, timeout: float) -> None:
        """Open an address and wait for its load event; raise NavigationFailed."""

    async def go(self, where: str, timeout: float) -> None:
        """Go `back` or `forward`, or `reload`."""

    async def page_info(self) -> tuple[str, str]:
        """Return the address and the title."""

    async def page(
        self, frames: Frames, command: dict[str, Any]
    ) -> Handle | dict[str, Any]:
        """Run the page's script: an element for act `element`, else a mapping."""

    async def evaluate(
        self, frames: Frames, source: str, arg: object, element: Handle | None
    ) -> Any:
        """Evaluate an expression, or call a function with (element,) arg."""

    async def click(self, handle: Handle, button: str, count: int) -> None:
        """Click in the middle."""

    async def hover(self, handle: Handle) -> None:
        """Move the pointer over the middle."""

    async def type(self, handle: Handle, text: str) -> None:
        """Type with real key events."""

    async def press(self, handle: Handle | None, keys: Sequence[str]) -> None:
        """Press keys together, such as Control and a."""

    async def upload(self, handle: Handle, paths: Sequence[str]) -> None:
        """Choose files in a file input."""

    async def drag(self, source: Handle, target: Handle) -> None:
        """Drag with the pointer from middle to middle."""

    async def screenshot(self, handle: Handle | None, *, full_page: bool) -> bytes:
        """Return a PNG of an element, the viewport or the whole page."""

    async def pdf(self) -> bytes:
        """Print the page."""

    async def tabs(self) -> list[Tab]:
        """Return the open tabs, oldest first."""

    async def current_tab(self) -> str:
        """Return the id of the current tab."""

    async def use_tab(self, tab: str) -> None:
        """Make a tab the current one."""

    async def new_tab(self) -> str:
        """Open an empty tab, make it the current one and return its id."""

    async def close_tab(self) -> None:
        """Close the current tab; the first of the others becomes current."""

    async def await_dialog(self, *, accept: bool, text: str | None) -> None:
        """From now on, answer the next dialog so."""

    async def seen_dialog(self, timeout: float) -> str | None:
        """Return the message of the answered dialog, None if none came."""

    async def await_download(self) -> None:
        """From now on, notice a download."""

    async def seen_download(self, timeout: float) -> tuple[str, Path] | None:
        """Return name and file of the download, None if none came."""

    def console(self) -> Sequence[ConsoleMessage]:
        """Return what the console got so far."""

    def requests(self) -> Sequence[Request]:
        """Return the requests so far."""

    async def route(self, route: Route) -> None:
        """Answer matching requests; the newest route wins."""

    async def unroute(self, route: Route) -> None:
        """Stop answering."""

    async def cookies(self) -> list[dict[str, Any]]:
        """Return all cookies as Playwright names their parts."""

    async def set_cookies(self, cookies: Sequence[Mapping[str, Any]]) -> None:
        """Add cookies."""

    async def clear_cookies(self) -> None:
        """Remove all cookies."""

    async def close(self) -> None:
        """End the browser. Idempotent."""


@functools.cache
def page_script() -> str:
    """Return the script that runs in the page."""
    return Path(__file__).with_name("_page.js").read_text(encoding="utf-8")


def glob_pattern(pattern: str, base_url: str | None) -> re.Pattern[str]:
    """Return the regular expression of a URL pattern: `**` any text, `*` up to a `/`."""
    if pattern.startswith("/") and base_url:
        pattern = base_url.rstrip("/") + pattern
    parts = re.split(r"(\*\*|\*)", pattern)
    inside = {"**": ".*", "*": "[^/]*"}
    # Playwright hands the pattern to JavaScript: only what both languages know.
    return re.compile(
        "^" + "".join(inside.get(part) or re.escape(part) for part in parts) + "$"
    )
