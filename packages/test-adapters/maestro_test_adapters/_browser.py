"""The verbs, once for all back ends and for both worlds, asynchronous and not.

Everything here is `async`. A synchronous back end never really waits, so that
`_sync.py` can drive these coroutines without an event loop.
"""

import json as jsonlib
import os
import time
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urljoin

from maestro_test_adapters._backend import (
    Backend,
    ConsoleMessage,
    Dialog,
    Download,
    Gone,
    Handle,
    Request,
    Route,
    Tab,
    glob_pattern,
)
from maestro_test_adapters._locator import Finds, Narrows, Target, Text, to_page
from maestro_test_adapters._trace import Trace
from maestro_test_adapters.errors import (
    BrowserError,
    ElementNotReady,
    ExpectationFailed,
    NothingHappened,
)

T = TypeVar("T")

_POINTER = ("visible", "stable", "enabled", "receives")
_EDIT = ("visible", "enabled", "editable")
_SLICE_S = 8.0  # one wait in the page, well below any driver's script timeout
_RETRY_S = 0.03


class Engine:
    """What the page, its frames and its locators share."""

    def __init__(
        self,
        backend: Backend,
        *,
        base_url: str | None,
        timeout: float,
        testid_attribute: str,
        artifacts: Path,
        trace: Path | None,
    ) -> None:
        self.backend = backend
        self.base_url = base_url
        self.timeout = timeout
        self.testid = testid_attribute
        self.artifacts = artifacts
        self.trace = Trace(trace) if trace else None
        self.known_tabs: set[str] = set()
        self.in_dialog = False

    async def step(self, verb: str, target: object, work: Awaitable[T]) -> T:
        """Await a verb's work, and keep it in the trace."""
        if self.trace is None:
            return await work
        begun = time.monotonic()
        error: BaseException | None = None
        try:
            return await work
        except BaseException as raised:
            error = raised
            raise
        finally:
            seconds = time.monotonic() - begun
            picture, dom, url = await self._see()
            self.trace.add(
                verb=verb,
                target=str(target),
                seconds=seconds,
                error=error,
                picture=picture,
                dom=dom,
                url=url,
            )

    async def _see(self) -> tuple[bytes, str, str]:
        """Return picture, DOM and address; an open dialog or dead page shows none."""
        if self.in_dialog:
            return b"", "", ""
        try:
            picture = await self.backend.screenshot(None, full_page=False)
            dom = await self.backend.evaluate(
                (), "document.documentElement.outerHTML", None, None
            )
            url, _ = await self.backend.page_info()
        except Exception:
            # The trace must never turn a verb's outcome into another one.
            return b"", "", ""
        return picture, str(dom), url

    async def ask(
        self,
        target: Target,
        act: str,
        *,
        need: Sequence[str],
        timeout: float,
        **more: Any,
    ) -> Any:
        """Run the page's script until it answers; return the element or the mapping."""
        begun = time.monotonic()
        reason = "the page did not answer"
        while True:
            left = timeout - (time.monotonic() - begun)
            command = {
                "act": act,
                "steps": list(target.steps),
                "need": list(need),
                "timeout": round(max(0.0, min(left, _SLICE_S)) * 1000),
                "testid": self.testid,
                **more,
            }
            try:
                answer = await self.backend.page(target.frames, command)
            except Gone as gone:
                reason = str(gone)
                answer = {"reason": reason}
                if left > 0:
                    await self.backend.pause(_RETRY_S)
            if not (isinstance(answer, dict) and "reason" in answer):
                return answer
            if answer.get("kind") == "wrong" or time.monotonic() - begun >= timeout:
                return answer

    async def act(
        self,
        target: Target,
        verb: str,
        *,
        need: Sequence[str],
        timeout: float | None,
        do: Callable[[Handle], Awaitable[T]] | None = None,
        act: str = "element",
        **more: Any,
    ) -> Any:
        """Wait for one ready element and do something with it.

        Raises:
            ElementNotReady: With the reason that held at the end.
        """
        limit = self.timeout if timeout is None else timeout
        begun = time.monotonic()
        while True:
            left = max(0.0, limit - (time.monotonic() - begun))
            answer = await self.ask(target, act, need=need, timeout=left, **more)
            if isinstance(answer, dict) and "reason" in answer:
                raise ElementNotReady(
                    str(target),
                    verb=verb,
                    reason=answer["reason"],
                    waited=time.monotonic() - begun,
                )
            if do is None:
                return answer["value"] if act != "element" else answer
            try:
                return await do(answer)
            except Gone as gone:
                # The element was replaced or covered between the look and the act.
                waited = time.monotonic() - begun
                if waited >= limit:
                    raise ElementNotReady(
                        str(target), verb=verb, reason=str(gone), waited=waited
                    ) from gone
                await self.backend.pause(_RETRY_S)

    async def until(
        self, look: Callable[[], Awaitable[T | None]], what: str, timeout: float | None
    ) -> T:
        """Look again and again until there is something."""
        limit = self.timeout if timeout is None else timeout
        begun = time.monotonic()
        while True:
            seen = await look()
            if seen is not None:
                return seen
            waited = time.monotonic() - begun
            if waited >= limit:
                raise NothingHappened(what, waited=waited)
            await self.backend.pause(_RETRY_S)


class AsyncLocator(Narrows["AsyncLocator"]):
    """Elements on a page: lazy, and strict for verbs that need one element.

    Every verb waits until the element is ready for it, up to `timeout` seconds (the
    browser's, unless given), and raises ElementNotReady with the reason.
    """

    def __init__(self, engine: Engine, target: Target) -> None:
        self._engine = engine
        self._target = target

    def _made(self, target: Target) -> "AsyncLocator":
        return AsyncLocator(self._engine, target)

    def frame(self) -> "AsyncFrame":
        """Return the document inside this iframe."""
        return AsyncFrame(self._engine, self._target.inside())

    async def _verb(
        self,
        verb: str,
        need: Sequence[str],
        timeout: float | None,
        do: Callable[[Handle], Awaitable[Any]] | None = None,
        **more: Any,
    ) -> Any:
        return await self._engine.step(
            verb,
            self._target,
            self._engine.act(
                self._target, verb, need=need, timeout=timeout, do=do, **more
            ),
        )

    async def click(
        self, *, button: str = "left", count: int = 1, timeout: float | None = None
    ) -> None:
        """Click in the middle, once it is visible, still, enabled and uncovered."""
        if button not in ("left", "right", "middle"):
            raise ValueError(f"button must be left, right or middle, got {button!r}")
        backend = self._engine.backend
        await self._verb(
            "click", _POINTER, timeout, lambda el: backend.click(el, button, count)
        )

    async def dblclick(self, *, timeout: float | None = None) -> None:
        """Double-click in the middle."""
        backend = self._engine.backend
        await self._verb(
            "double-click", _POINTER, timeout, lambda el: backend.click(el, "left", 2)
        )

    async def hover(self, *, timeout: float | None = None) -> None:
        """Move the pointer over the middle."""
        need = ("visible", "stable", "receives")
        await self._verb("hover over", need, timeout, self._engine.backend.hover)

    async def fill(self, text: str, *, timeout: float | None = None) -> None:
        """Replace the content of an input, textarea or editable element."""
        await self._verb("fill", _EDIT, timeout, act="fill", text=text)

    async def clear(self, *, timeout: float | None = None) -> None:
        """Empty an input, textarea or editable element."""
        await self._verb("clear", _EDIT, timeout, act="fill", text="")

    async def type(self, text: str, *, timeout: float | None = None) -> None:
        """Type key by key after what is there, with real key events."""
        backend = self._engine.backend
        await self._verb("type into", _EDIT, timeout, lambda el: backend.type(el, text))

    async def press(self, keys: str, *, timeout: float | None = None) -> None:
        """Press a key or several together, such as `Enter` or `Control+a`."""
        backend = self._engine.backend
        names = split_keys(keys)
        await self._verb(
            "press keys on",
            ("visible", "enabled"),
            timeout,
            lambda el: backend.press(el, names),
        )

    async def check(self, *, timeout: float | None = None) -> None:
        """Tick a checkbox or radio button; nothing happens if it is ticked."""
        await self._set_checked(timeout, wanted=True)

    async def uncheck(self, *, timeout: float | None = None) -> None:
        """Untick a checkbox; nothing happens if it is not ticked."""
        await self._set_checked(timeout, wanted=False)

    async def _set_checked(self, timeout: float | None, *, wanted: bool) -> None:
        verb = "check" if wanted else "uncheck"
        backend = self._engine.backend
        need = ("visible", "enabled")
        if await self._verb(verb, need, timeout, act="checked") is wanted:
            return
        await self._verb(
            verb, _POINTER, timeout, lambda el: backend.click(el, "left", 1)
        )
        if await self._verb(verb, (), timeout, act="checked") is not wanted:
            raise ElementNotReady(
                str(self._target),
                verb=verb,
                reason="the click did not change it",
                waited=0.0,
            )

    async def select(self, *options: str, timeout: float | None = None) -> list[str]:
        """Choose options of a `<select>` by value or label; return their values."""
        chosen: list[str] = await self._verb(
            "select in",
            ("visible", "enabled"),
            timeout,
            act="select",
            options=list(options),
        )
        return chosen

    async def upload(
        self, *paths: str | os.PathLike[str], timeout: float | None = None
    ) -> None:
        """Choose files in a file input; it may be hidden."""
        files = _existing(paths)
        backend = self._engine.backend
        await self._verb(
            "upload to", ("enabled",), timeout, lambda el: backend.upload(el, files)
        )

    async def drag_to(
        self, target: "AsyncLocator", *, timeout: float | None = None
    ) -> None:
        """Drag this element with the pointer and drop it on another."""
        engine = self._engine

        async def drop(source: Handle) -> None:
            other = await engine.act(
                target._target, "drop on", need=("visible", "stable"), timeout=timeout
            )
            await engine.backend.drag(source, other)

        await self._verb("drag", _POINTER, timeout, drop)

    async def focus(self, *, timeout: float | None = None) -> None:
        """Give it the focus."""
        await self._verb("focus", ("visible",), timeout, act="focus")

    async def blur(self, *, timeout: float | None = None) -> None:
        """Take the focus away."""
        await self._verb("blur", (), timeout, act="blur")

    async def scroll_into_view(self, *, timeout: float | None = None) -> None:
        """Scroll until it is in the middle of the view."""
        await self._verb("scroll to", (), timeout, act="scroll")

    async def evaluate(
        self, function: str, arg: object = None, *, timeout: float | None = None
    ) -> Any:
        """Call a JavaScript function with the element and `arg`; return its result."""
        engine = self._engine
        return await self._verb(
            "evaluate on",
            (),
            timeout,
            lambda el: engine.backend.evaluate(self._target.frames, function, arg, el),
        )

    async def screenshot(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        timeout: float | None = None,
    ) -> bytes:
        """Return a PNG of the element, and write it if a path is given."""
        backend = self._engine.backend
        picture: bytes = await self._verb(
            "screenshot",
            ("visible", "stable"),
            timeout,
            lambda el: backend.screenshot(el, full_page=False),
        )
        return _kept(picture, path)

    # Reading -----------------------------------------------------------------------

    async def _read(self, act: str, timeout: float | None, **more: Any) -> Any:
        return await self._engine.act(
            self._target,
            f"read the {act} of",
            need=(),
            timeout=timeout,
            act=act,
            **more,
        )

    async def text(self, *, timeout: float | None = None) -> str:
        """Return the visible text, white space normalised."""
        return str(await self._read("text", timeout))

    async def html(self, *, timeout: float | None = None) -> str:
        """Return the inner HTML."""
        return str(await self._read("html", timeout))

    async def value(self, *, timeout: float | None = None) -> str:
        """Return the value of an input, textarea or select."""
        return str(await self._read("value", timeout))

    async def attribute(self, name: str, *, timeout: float | None = None) -> str | None:
        """Return an attribute, None if it is absent."""
        value: str | None = await self._read("attribute", timeout, name=name)
        return value

    async def style(self, name: str, *, timeout: float | None = None) -> str:
        """Return a computed style property."""
        return str(await self._read("style", timeout, name=name))

    async def box(self, *, timeout: float | None = None) -> dict[str, float]:
        """Return x, y, width and height in CSS pixels of the viewport."""
        box: dict[str, float] = await self._read("box", timeout)
        return box

    async def is_checked(self, *, timeout: float | None = None) -> bool:
        """Return whether it is ticked."""
        return bool(await self._read("checked", timeout))

    async def is_enabled(self, *, timeout: float | None = None) -> bool:
        """Return whether it can be used."""
        return bool(await self._read("enabled", timeout))

    async def is_editable(self, *, timeout: float | None = None) -> bool:
        """Return whether it can be used and is not read-only."""
        return bool(await self._read("editable", timeout))

    async def is_focused(self, *, timeout: float | None = None) -> bool:
        """Return whether it has the focus."""
        return bool(await self._read("focused", timeout))

    async def _look(self, act: str) -> Any:
        answer = await self._engine.ask(self._target, act, need=(), timeout=0)
        if "reason" in answer:
            raise BrowserError(f"cannot look at {self._target}: {answer['reason']}")
        return answer["value"]

    async def is_visible(self) -> bool:
        """Return whether any match is visible now; does not wait."""
        return bool(await self._look("visible"))

    async def count(self) -> int:
        """Return how many elements match now; does not wait."""
        return int(await self._look("count"))

    async def texts(self) -> list[str]:
        """Return the texts of all matches now; does not wait."""
        return [str(text) for text in await self._look("texts")]

    # Asserting ---------------------------------------------------------------------

    async def should(
        self,
        *,
        text: Text | None = None,
        contains: Text | None = None,
        texts: Sequence[Text] | None = None,
        value: Text | None = None,
        visible: bool | None = None,
        count: int | None = None,
        enabled: bool | None = None,
        editable: bool | None = None,
        checked: bool | None = None,
        focused: bool | None = None,
        attribute: Mapping[str, Text | None] | None = None,
        style: Mapping[str, Text] | None = None,
        timeout: float | None = None,
    ) -> None:
        """Assert, and try again until all of it holds at once.

        Args:
            text: The whole visible text.
            contains: A part of it.
            texts: Of all matches, in order.
            value: Of an input, textarea or select.
            visible: False holds for hidden and for absent elements.
            count: How many elements match.
            enabled: Whether it can be used.
            editable: Whether it can be used and is not read-only.
            checked: Whether it is ticked.
            focused: Whether it has the focus.
            attribute: Name to value; None for an absent attribute.
            style: Name of a computed property to its value.
            timeout: Seconds; the browser's unless given.

        Raises:
            ExpectationFailed: With what is the case instead. An AssertionError.
        """
        given = {
            "text": text,
            "contains": contains,
            "texts": texts,
            "value": value,
            "visible": visible,
            "count": count,
            "enabled": enabled,
            "editable": editable,
            "checked": checked,
            "focused": focused,
            "attribute": attribute,
            "style": style,
        }
        wanted = {key: to_page(v) for key, v in given.items() if v is not None}
        if not wanted:
            raise TypeError("should() needs at least one expectation")
        await self._engine.step(
            "should",
            f"{self._target} {_show_wanted(given)}",
            self._should(wanted, given, timeout),
        )

    async def _should(
        self, wanted: Mapping[str, Any], given: Mapping[str, Any], timeout: float | None
    ) -> None:
        limit = self._engine.timeout if timeout is None else timeout
        begun = time.monotonic()
        answer = await self._engine.ask(
            self._target, "expect", need=(), timeout=limit, expect=wanted
        )
        if "reason" in answer:
            failures = [
                f"{key} {given[key]!r}, but {why}"
                for key, why in answer.get("failures", ())
            ]
            raise ExpectationFailed(
                str(self._target),
                failures=failures or [answer["reason"]],
                waited=time.monotonic() - begun,
            )


class AsyncFrame(Finds[AsyncLocator]):
    """The document inside an iframe."""

    def __init__(self, engine: Engine, target: Target) -> None:
        self._engine = engine
        self._target = target

    def _made(self, target: Target) -> AsyncLocator:
        return AsyncLocator(self._engine, target)

    async def evaluate(self, source: str, arg: object = None) -> Any:
        """Evaluate an expression, or call a function with `arg`, inside the frame."""
        return await self._engine.backend.evaluate(
            self._target.frames, source, arg, None
        )


class AsyncBrowser(Finds[AsyncLocator]):
    """A browser with one current tab, and the verbs of a user.

    Not task-safe: one task at a time. Close it, or use it as a context manager.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._target = Target()

    def _made(self, target: Target) -> AsyncLocator:
        return AsyncLocator(self._engine, target)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End the browser and everything that was started for it. Idempotent."""
        if self._engine.trace:
            self._engine.trace.close()
        await self._engine.backend.close()

    # Pages -------------------------------------------------------------------------

    async def open(self, url: str = "/", *, timeout: float | None = None) -> None:
        """Open an address, relative to `base_url`, and wait until it has loaded.

        Raises:
            NavigationFailed: Nothing answers there, or not in time.
        """
        engine = self._engine
        full = urljoin(engine.base_url, url) if engine.base_url else url
        limit = max(engine.timeout, 30.0) if timeout is None else timeout
        await engine.step("open", full, engine.backend.goto(full, limit))
        engine.known_tabs.add(await engine.backend.current_tab())

    async def reload(self) -> None:
        """Load the page again."""
        await self._go("reload")

    async def back(self) -> None:
        """Go back one page."""
        await self._go("back")

    async def forward(self) -> None:
        """Go forward one page."""
        await self._go("forward")

    async def _go(self, where: str) -> None:
        engine = self._engine
        await engine.step(
            where, "", engine.backend.go(where, max(engine.timeout, 30.0))
        )

    async def url(self) -> str:
        """Return the address of the current tab."""
        return (await self._engine.backend.page_info())[0]

    async def title(self) -> str:
        """Return the title of the current tab."""
        return (await self._engine.backend.page_info())[1]

    async def should_be_at(self, url: Text, *, timeout: float | None = None) -> None:
        """Assert the address: a pattern as for `route`, or a regular expression."""
        base = self._engine.base_url
        pattern = glob_pattern(url, base) if isinstance(url, str) else url
        seen = ""

        async def look() -> bool | None:
            nonlocal seen
            seen = await self.url()
            return True if pattern.search(seen) else None

        try:
            await self._engine.until(look, "page", timeout)
        except NothingHappened as error:
            raise ExpectationFailed(
                "the page",
                failures=[f"url {url!r}, but it is {seen!r}"],
                waited=error.waited,
            ) from None

    async def evaluate(self, source: str, arg: object = None) -> Any:
        """Evaluate an expression, or call a function with `arg`; promises are awaited.

        Raises:
            ScriptFailed: The script threw.
        """
        engine = self._engine
        return await engine.step(
            "evaluate", source[:80], engine.backend.evaluate((), source, arg, None)
        )

    async def press(self, keys: str) -> None:
        """Press keys wherever the focus is."""
        engine = self._engine
        await engine.step("press", keys, engine.backend.press(None, split_keys(keys)))

    async def scroll(self, *, x: float = 0, y: float = 0) -> None:
        """Scroll the page by pixels."""
        await self.evaluate(
            "([x, y]) => scrollBy({left: x, top: y, behavior: 'instant'})", [x, y]
        )

    async def screenshot(
        self, path: str | os.PathLike[str] | None = None, *, full_page: bool = False
    ) -> bytes:
        """Return a PNG of the view or the whole page, and write it if a path is given."""
        return _kept(
            await self._engine.backend.screenshot(None, full_page=full_page), path
        )

    async def pdf(self, path: str | os.PathLike[str] | None = None) -> bytes:
        """Return the page printed as PDF, and write it if a path is given."""
        return _kept(await self._engine.backend.pdf(), path)

    # Tabs, dialogs, downloads ------------------------------------------------------

    async def tabs(self) -> list[Tab]:
        """Return the open tabs."""
        return await self._engine.backend.tabs()

    async def use_tab(self, tab: Tab | str) -> None:
        """Make a tab, or the tab with this title, the current one."""
        tabs = await self.tabs()
        wanted = tab.id if isinstance(tab, Tab) else None
        ids = [one.id for one in tabs if one.id == wanted or one.title == tab]
        if len(ids) != 1:
            raise BrowserError(
                f"{len(ids)} tabs are {tab!r}; open are {[one.title for one in tabs]}"
            )
        self._engine.known_tabs.add(ids[0])
        await self._engine.backend.use_tab(ids[0])

    async def new_tab(self, url: str | None = None) -> None:
        """Open a tab and make it the current one."""
        self._engine.known_tabs.add(await self._engine.backend.new_tab())
        if url is not None:
            await self.open(url)

    async def wait_for_tab(self, *, timeout: float | None = None) -> None:
        """Wait for a tab that the page opens, and make it the current one.

        Raises:
            NothingHappened: None opened.
        """
        engine = self._engine

        async def look() -> str | None:
            for tab in await engine.backend.tabs():
                if tab.id not in engine.known_tabs:
                    return tab.id
            return None

        tab = await engine.until(look, "tab", timeout)
        engine.known_tabs.add(tab)
        await engine.backend.use_tab(tab)

    async def close_tab(self) -> None:
        """Close the current tab; the first of the others becomes current."""
        await self._engine.backend.close_tab()

    @asynccontextmanager
    async def dialog(
        self,
        *,
        accept: bool = True,
        text: str | None = None,
        timeout: float | None = None,
    ) -> AsyncIterator[Dialog]:
        """Answer the alert, confirm or prompt that the block brings up.

        Outside of such a block dialogs are dismissed.

        Raises:
            NothingHappened: None came.
        """
        engine = self._engine
        limit = engine.timeout if timeout is None else timeout
        dialog = Dialog()
        await engine.backend.await_dialog(accept=accept, text=text)
        engine.in_dialog = True
        try:
            yield dialog
            message = await engine.backend.seen_dialog(limit)
        except BaseException:
            await engine.backend.await_dialog(accept=False, text=None)
            raise
        finally:
            engine.in_dialog = False
        if message is None:
            raise NothingHappened("dialog", waited=limit)
        dialog.message = message

    @asynccontextmanager
    async def download(
        self, *, timeout: float | None = None
    ) -> AsyncIterator[Download]:
        """Catch the file that the block downloads; it lies in the artifacts folder.

        Raises:
            NothingHappened: None came.
        """
        engine = self._engine
        limit = max(engine.timeout, 30.0) if timeout is None else timeout
        download = Download()
        await engine.backend.await_download()
        yield download
        seen = await engine.backend.seen_download(limit)
        if seen is None:
            raise NothingHappened("download", waited=limit)
        download.name, source = seen
        download.path = _free_path(engine.artifacts, download.name)
        source.replace(download.path)

    # The network, the console, the state --------------------------------------------

    @asynccontextmanager
    async def route(
        self,
        pattern: str,
        *,
        json: object = None,
        body: str | bytes = b"",
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        abort: bool = False,
    ) -> AsyncIterator[None]:
        """Answer matching requests instead of the server, inside the block.

        Args:
            pattern: The whole URL; `**` stands for any text, `*` for text without `/`.
            json: The answer as JSON.
            body: The answer as text or bytes, instead of `json`.
            status: Of the answer.
            headers: Of the answer.
            abort: Let the request fail as if the network were down.
        """
        made = route_of(
            glob_pattern(pattern, self._engine.base_url),
            json=json,
            body=body,
            status=status,
            headers=headers or {},
            abort=abort,
        )
        await self._engine.backend.route(made)
        try:
            yield
        finally:
            await self._engine.backend.unroute(made)

    def console(self) -> tuple[ConsoleMessage, ...]:
        """Return what the console got so far, uncaught errors included."""
        return tuple(self._engine.backend.console())

    def requests(self) -> tuple[Request, ...]:
        """Return the requests of the page so far."""
        return tuple(self._engine.backend.requests())

    async def wait_for_console(
        self, part: str, *, timeout: float | None = None
    ) -> ConsoleMessage:
        """Wait until the console has a message that contains a text."""

        async def look() -> ConsoleMessage | None:
            return next((m for m in self.console() if part in m.text), None)

        return await self._engine.until(look, f"console message with {part!r}", timeout)

    async def wait_for_request(
        self, pattern: str, *, timeout: float | None = None
    ) -> Request:
        """Wait until a matching request has been answered or has failed."""
        regex = glob_pattern(pattern, self._engine.base_url)

        async def look() -> Request | None:
            for request in self.requests():
                done = request.status is not None or request.failure is not None
                if done and regex.match(request.url):
                    return request
            return None

        return await self._engine.until(look, f"answer to {pattern!r}", timeout)

    async def cookies(self) -> list[dict[str, Any]]:
        """Return all cookies: name, value, domain, path, expires, httpOnly, secure."""
        return await self._engine.backend.cookies()

    async def set_cookies(self, cookies: Iterable[Mapping[str, Any]]) -> None:
        """Add cookies; each needs name, value and either url or domain."""
        await self._engine.backend.set_cookies([dict(cookie) for cookie in cookies])

    async def clear_cookies(self) -> None:
        """Remove all cookies."""
        await self._engine.backend.clear_cookies()

    async def storage_state(
        self, path: str | os.PathLike[str] | None = None
    ) -> dict[str, Any]:
        """Return cookies and the local storage of the current page's origin.

        The form is Playwright's, so that either back end reads the other's.
        """
        seen = await self._engine.backend.evaluate((), _READ_STORAGE, None, None)
        origins = [seen] if seen["localStorage"] else []
        state = {"cookies": await self.cookies(), "origins": origins}
        if path is not None:
            _kept(jsonlib.dumps(state, indent=1).encode(), path)
        return state

    async def load_storage_state(
        self, state: Mapping[str, Any] | str | os.PathLike[str]
    ) -> None:
        """Set cookies and local storage; opens each origin for a moment."""
        loaded = _state(state)
        await self.set_cookies(loaded.get("cookies", ()))
        for origin in loaded.get("origins", ()):
            await self.open(origin["origin"])
            await self.evaluate(_WRITE_STORAGE, origin["localStorage"])


_READ_STORAGE = """() => {
  let pairs = [];
  try { pairs = Object.entries(localStorage); } catch (e) { /* opaque origin */ }
  return {origin: location.origin, localStorage: pairs.map(([name, value]) => ({name, value}))};
}"""
_WRITE_STORAGE = (
    "(pairs) => { for (const p of pairs) localStorage.setItem(p.name, p.value); }"
)


def route_of(
    pattern: Any,
    *,
    json: object,
    body: str | bytes,
    status: int,
    headers: Mapping[str, str],
    abort: bool,
) -> Route:
    """Return a route; JSON and texts get their content type unless it is given."""
    kinds = {"content-type": "text/html; charset=utf-8"}
    data = body.encode() if isinstance(body, str) else body
    if json is not None:
        data = jsonlib.dumps(json).encode()
        kinds = {"content-type": "application/json"}
    lower = {name.lower(): value for name, value in headers.items()}
    return Route(
        pattern=pattern,
        status=status,
        headers={**kinds, **lower},
        body=data,
        abort=abort,
    )


def split_keys(keys: str) -> list[str]:
    """Return the keys of `Control+Shift+a`; `+` itself is `+` or ends like `Control++`."""
    if keys == "+":
        return ["+"]
    if keys.endswith("++"):
        return [*split_keys(keys[:-2]), "+"]
    names = keys.split("+")
    if not all(names):
        raise ValueError(f"keys must be like 'Enter' or 'Control+a', got {keys!r}")
    return names


def _show_wanted(given: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{key}={value!r}" for key, value in given.items() if value is not None
    )


def _kept(data: bytes, path: str | os.PathLike[str] | None) -> bytes:
    if path is not None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(data)
    return data


def _free_path(folder: Path, name: str) -> Path:
    """Return a path that is not taken; the name comes from the page, so only its last part."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted = folder / (Path(name).name or "download")
    path, number = wanted, 1
    while path.exists():
        number += 1
        path = wanted.with_name(f"{wanted.stem}-{number}{wanted.suffix}")
    return path


def _existing(paths: Iterable[str | os.PathLike[str]]) -> list[str]:
    files = [Path(path).absolute() for path in paths]
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(file)
    return [str(file) for file in files]


def _state(state: Mapping[str, Any] | str | os.PathLike[str]) -> Mapping[str, Any]:
    """Return a storage state, read from its file where a path is given."""
    if isinstance(state, Mapping):
        return state
    loaded: Mapping[str, Any] = jsonlib.loads(Path(state).read_text(encoding="utf-8"))
    return loaded
