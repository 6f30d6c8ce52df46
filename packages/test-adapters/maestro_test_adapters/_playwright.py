"""Playwright: the same verbs over its own engine, for both worlds.

Its synchronous API refuses to run beside an event loop and leaves one behind. So the
asynchronous API is used throughout: on the caller's loop, or on a thread of its own.
"""

import asyncio
import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

try:
    from playwright.async_api import (
        Browser as PlaywrightBrowser,
    )
    from playwright.async_api import (
        BrowserContext,
        ElementHandle,
        Error,
        Page,
        Playwright,
        async_playwright,
    )
    from playwright.async_api import Dialog as PlaywrightDialog
    from playwright.async_api import Frame as PlaywrightFrame
    from playwright.async_api import Request as PlaywrightRequest
    from playwright.async_api import Route as PlaywrightRoute
    from playwright.async_api import TimeoutError as PlaywrightTimeout
except ImportError as error:
    raise ImportError(
        "PlaywrightAdapter needs Playwright: "
        'pip install "maestro-test-adapters[playwright]"'
    ) from error

from maestro_test_adapters._arguments import browser_settings, known_names
from maestro_test_adapters._backend import (
    ConsoleMessage,
    Frames,
    Gone,
    Request,
    Route,
    Tab,
    page_script,
)
from maestro_test_adapters._browser import AsyncBrowser, Engine
from maestro_test_adapters._endings import marked_environment
from maestro_test_adapters._find import chromium_flags, family, find_binary
from maestro_test_adapters._sync import Browser
from maestro_test_adapters._trace import trace_path
from maestro_test_adapters.errors import (
    BrowserError,
    NavigationFailed,
    ScriptFailed,
)

T = TypeVar("T")

_GONE_WORDS = (
    "context was destroyed",
    "context is not available",
    "cannot find context",
    "detached",
    "not attached",
    "disposed",
    "navigat",
    "outside of the viewport",
    "not visible",
)
_ACT_MS = 2000
_ABORTED = "net::ERR_ABORTED"
_CUT_OFF = re.compile(f"interrupted by another navigation|{_ABORTED}")
_TIMES_CUT_OFF = 3  # a page can reload itself while it is left; not for ever
_LATE_PAGE_S = 1.0  # for what came in between, and for what comes after it
_ERROR_PAGE_S = 5.0  # for Chromium to show it; it takes 0.1 s on an idle machine


class Launched:
    """A Playwright with one browser; contexts share it, the last one ends it."""

    def __init__(
        self, playwright: Playwright, browser: PlaywrightBrowser, folder: Path
    ) -> None:
        self.browser = browser
        self._playwright = playwright
        self._folder = folder
        self._users = 0

    def join(self) -> None:
        """Count one more user."""
        self._users += 1

    async def leave(self) -> None:
        """Count one user less; nobody left ends the browser."""
        self._users -= 1
        if self._users > 0:
            return
        try:
            await self.browser.close()
        except Error:
            pass  # it is gone already, which is what was wanted
        await self._playwright.stop()
        shutil.rmtree(self._folder, ignore_errors=True)


class PlaywrightBackend:
    """Drives one context of a Playwright browser."""

    name = "playwright"

    def __init__(self, launched: Launched, context: BrowserContext, page: Page) -> None:
        self.launched = launched
        self.context = context
        self._page = page
        self._console: list[ConsoleMessage] = []
        self._requests: dict[PlaywrightRequest, Request] = {}
        self._routes: dict[Route, Any] = {}
        self._dialog: tuple[bool, str | None] = (False, None)
        self._dialogs: asyncio.Queue[str] = asyncio.Queue()
        self._downloads: asyncio.Queue[Any] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()
        self._ids: dict[Page, str] = {}
        self._closed = False
        launched.join()
        self._listen()

    def _listen(self) -> None:
        context = self.context
        context.on("console", self._heard_console)
        context.on("weberror", self._heard_error)
        context.on("request", self._heard_request)
        context.on("requestfinished", self._heard_finish)
        context.on("requestfailed", self._heard_failure)
        context.on("dialog", self._heard_dialog)
        context.on("page", self._heard_page)
        for page in context.pages:
            self._heard_page(page)

    def _heard_page(self, page: Page) -> None:
        page.on("download", self._downloads.put_nowait)

    def _heard_console(self, message: Any) -> None:
        self._console.append(ConsoleMessage(kind=message.type, text=message.text))

    def _heard_error(self, error: Any) -> None:
        self._console.append(ConsoleMessage(kind="exception", text=str(error.error)))

    def _heard_request(self, request: PlaywrightRequest) -> None:
        self._requests[request] = Request(method=request.method, url=request.url)

    def _heard_finish(self, request: PlaywrightRequest) -> None:
        self._later(self._learn_status(request))

    async def _learn_status(self, request: PlaywrightRequest) -> None:
        response = await request.response()
        self._requests[request] = Request(
            method=request.method,
            url=request.url,
            status=response.status if response else None,
        )

    def _heard_failure(self, request: PlaywrightRequest) -> None:
        self._requests[request] = Request(
            method=request.method, url=request.url, failure=request.failure or "failed"
        )

    def _heard_dialog(self, dialog: PlaywrightDialog) -> None:
        self._later(self._answer_dialog(dialog))

    async def _answer_dialog(self, dialog: PlaywrightDialog) -> None:
        accept, text = self._dialog
        self._dialog = (False, None)
        if accept:
            await dialog.accept(text or "")
        else:
            await dialog.dismiss()
        self._dialogs.put_nowait(dialog.message)

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        async def quietly() -> None:
            try:
                await work
            except Error:
                pass  # the page went away meanwhile; there is nobody to tell

        task = asyncio.get_running_loop().create_task(quietly())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # Scripts and frames ---------------------------------------------------------------

    async def pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def _frame(self, frames: Frames) -> PlaywrightFrame:
        frame = self._page.main_frame
        for steps in frames:
            found = await self._ask(
                frame, {"act": "element", "steps": list(steps), "timeout": 0}
            )
            if isinstance(found, dict):
                raise Gone(f"no frame: {found['reason']}")
            inner = await found.content_frame()
            if inner is None:
                raise Gone("the element is not an iframe")
            frame = inner
        return frame

    async def _ask(self, frame: PlaywrightFrame, command: dict[str, Any]) -> Any:
        answer = await self._ask_once(frame, command)
        if isinstance(answer, dict) and "missing" in answer:
            # Once per document: sending 20 KB with every verb would double its time.
            await frame.evaluate(_INSTALL.replace("SCRIPT", page_script(), 1))
            answer = await self._ask_once(frame, command)
            if isinstance(answer, dict) and "missing" in answer:
                raise Gone("the page navigates")
        return answer

    async def _ask_once(self, frame: PlaywrightFrame, command: dict[str, Any]) -> Any:
        if command["act"] != "element":
            return await frame.evaluate(_PAGE, command)
        found = await frame.evaluate_handle(_PAGE, command)
        element = found.as_element()
        if element is not None:
            return element
        answer = await found.json_value()
        await found.dispose()
        return answer

    async def _guarded(self, work: Coroutine[Any, Any, T]) -> T:
        """Await; turn what a moving page throws into Gone."""
        try:
            return await work
        except PlaywrightTimeout as error:
            raise Gone(_first_line(error)) from error
        except Error as error:
            message = _first_line(error)
            ended = "has been closed" in message or "crashed" in message
            if not ended and any(word in message.lower() for word in _GONE_WORDS):
                raise Gone(message) from error
            raise BrowserError(message) from error

    async def page(self, frames: Frames, command: dict[str, Any]) -> Any:
        async def work() -> Any:
            return await self._ask(await self._frame(frames), command)

        return await self._guarded(work())

    async def evaluate(
        self, frames: Frames, source: str, arg: object, element: ElementHandle | None
    ) -> Any:
        given = [arg] if element is None else [element, arg]
        call = (
            "async (given) => { const made = ("
            + source.strip().rstrip(";")
            + "); return typeof made === 'function' ? made(...given) : made; }"
        )

        async def work() -> Any:
            frame = await self._frame(frames)
            return await frame.evaluate(call, given)

        try:
            return await self._guarded(work())
        except Gone:
            raise
        except BrowserError as error:
            if "has been closed" in str(error) or "crashed" in str(error):
                raise
            raise ScriptFailed(
                str(error).partition("evaluate: ")[2] or str(error)
            ) from error

    # Pages ------------------------------------------------------------------------------

    async def goto(self, url: str, timeout: float) -> None:
        await self._navigate(url, self._page.goto, timeout, url)

    async def go(self, where: str, timeout: float) -> None:
        verbs: dict[str, Callable[..., Awaitable[Any]]] = {
            "reload": self._page.reload,
            "back": self._page.go_back,
            "forward": self._page.go_forward,
        }
        await self._navigate(where, verbs[where], timeout)

    async def _navigate(
        self,
        where: str,
        verb: Callable[..., Awaitable[Any]],
        timeout: float,
        *given: str,
    ) -> None:
        page, shown = self._page, asyncio.Event()

        def loaded(_: Page) -> None:
            if page.url.startswith("chrome-error:"):
                shown.set()

        page.on("load", loaded)
        try:
            await self._undisturbed(verb, timeout, *given)
        except PlaywrightTimeout as error:
            await self._stop_loading(page)
            raise NavigationFailed(
                where, f"it did not load in {timeout:g} s"
            ) from error
        except Error as error:
            reason = _first_line(error)
            if "net::ERR_" in reason and "ERR_ABORTED" not in reason:
                # Chromium tells the failure first and shows its error page later,
                # which would cut off whatever is opened next.
                await _within(_ERROR_PAGE_S, shown.wait())
            raise NavigationFailed(where, reason) from error
        finally:
            page.remove_listener("load", loaded)

    async def _undisturbed(
        self, verb: Callable[..., Awaitable[Any]], timeout: float, *given: str
    ) -> None:
        """Navigate, also where what the last page had begun comes in between."""
        page, ends = self._page, time.monotonic() + timeout
        begun: asyncio.Queue[str]
        came: asyncio.Queue[str]

        def begins(request: PlaywrightRequest) -> None:
            if request.is_navigation_request() and not request.redirected_from:
                begun.put_nowait(request.url)

        def arrived(frame: PlaywrightFrame) -> None:
            if frame is page.main_frame:
                came.put_nowait(frame.url)

        def left() -> float:
            return max(ends - time.monotonic(), 0.001) * 1000

        page.on("request", begins)
        page.on("framenavigated", arrived)
        try:
            for more in range(_TIMES_CUT_OFF, -1, -1):
                begun, came = asyncio.Queue(), asyncio.Queue()  # of this try alone
                try:
                    await verb(*given, timeout=left())
                except Error as error:
                    reason = str(error)
                    if not more or not _CUT_OFF.search(reason):
                        raise
                    if _ABORTED in reason and not await _second(begun, left()):
                        raise  # its own doing: an answer without a page
                else:
                    return
                if _ABORTED not in reason:
                    # Playwright has given ours up; the browser still goes there.
                    ours = await _second(came, left())
                    if ours and not ours.startswith("chrome-error:"):
                        await page.wait_for_load_state("load", timeout=left())
                        return
        finally:
            page.remove_listener("request", begins)
            page.remove_listener("framenavigated", arrived)

    async def _stop_loading(self, page: Page) -> None:
        """End what still loads: it would come over what is opened next."""
        try:
            devtools = await self.context.new_cdp_session(page)
            await devtools.send("Page.stopLoading")
            await devtools.detach()
        except Error:
            pass  # not Chromium, or the page has gone: nothing to stop

    async def page_info(self) -> tuple[str, str]:
        return self._page.url, await self._guarded(self._page.title())

    # The pointer and the keyboard ---------------------------------------------------------

    async def click(self, handle: ElementHandle, button: Any, count: int) -> None:
        # force: the page's script has waited already, with reasons of its own.
        work = handle.click(
            button=button, click_count=count, force=True, timeout=_ACT_MS
        )
        try:
            await self._guarded(work)
        except Gone as gone:
            # A slow page that it opens is for the next verb to wait for, not a reason
            # to click again.
            if "click action done" not in str(gone.__cause__):
                raise

    async def hover(self, handle: ElementHandle) -> None:
        await self._guarded(handle.hover(force=True, timeout=_ACT_MS))

    async def type(self, handle: ElementHandle, text: str) -> None:
        await self._guarded(handle.evaluate(_CARET_TO_END))
        await self._guarded(self._page.keyboard.type(text))

    async def press(self, handle: ElementHandle | None, keys: Sequence[str]) -> None:
        if handle is not None:
            await self._guarded(handle.focus())
        chord = "+".join(keys)
        try:
            await self._page.keyboard.press(chord)
        except Error as error:
            if "Unknown key" in str(error):
                raise ValueError(
                    f"no key named {chord!r}; keys are named as in the DOM, like Enter"
                ) from error
            raise BrowserError(_first_line(error)) from error

    async def upload(self, handle: ElementHandle, paths: Sequence[str]) -> None:
        await self._guarded(handle.set_input_files(list(paths)))

    async def drag(self, source: ElementHandle, target: ElementHandle) -> None:
        mouse = self._page.mouse
        await self._guarded(source.hover(force=True, timeout=_ACT_MS))
        await mouse.down()
        box = await target.bounding_box()
        if box is None:
            await mouse.up()
            raise Gone("the drop target is gone")
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        await mouse.move(x, y, steps=4)
        await mouse.up()

    async def screenshot(
        self, handle: ElementHandle | None, *, full_page: bool
    ) -> bytes:
        if handle is not None:
            return await self._guarded(handle.screenshot())
        return await self._guarded(self._page.screenshot(full_page=full_page))

    async def pdf(self) -> bytes:
        return await self._guarded(self._page.pdf())

    # Tabs, dialogs, downloads ----------------------------------------------------------

    def _id(self, page: Page) -> str:
        return self._ids.setdefault(page, f"tab-{len(self._ids) + 1}")

    async def tabs(self) -> list[Tab]:
        return [
            Tab(
                id=self._id(page), url=page.url, title=await self._guarded(page.title())
            )
            for page in self.context.pages
        ]

    async def current_tab(self) -> str:
        return self._id(self._page)

    async def use_tab(self, tab: str) -> None:
        for page in self.context.pages:
            if self._id(page) == tab:
                self._page = page
                await self._guarded(page.bring_to_front())
                return
        raise BrowserError("the tab or window is closed")

    async def new_tab(self) -> str:
        self._page = await self._guarded(self.context.new_page())
        return self._id(self._page)

    async def close_tab(self) -> None:
        await self._guarded(self._page.close())
        if self.context.pages:
            await self.use_tab(self._id(self.context.pages[0]))

    async def await_dialog(self, *, accept: bool, text: str | None) -> None:
        while not self._dialogs.empty():
            self._dialogs.get_nowait()
        self._dialog = (accept, text)

    async def seen_dialog(self, timeout: float) -> str | None:
        try:
            return await _within(timeout, self._dialogs.get())
        finally:
            self._dialog = (False, None)

    async def await_download(self) -> None:
        while not self._downloads.empty():
            self._downloads.get_nowait()

    async def seen_download(self, timeout: float) -> tuple[str, Path] | None:
        download = await _within(timeout, self._downloads.get())
        if download is None:
            return None
        folder = Path(tempfile.mkdtemp(prefix="download-", dir=self.launched._folder))
        await download.save_as(folder / "file")
        return download.suggested_filename, folder / "file"

    def console(self) -> Sequence[ConsoleMessage]:
        return list(self._console)

    def requests(self) -> Sequence[Request]:
        return list(self._requests.values())

    async def route(self, route: Route) -> None:
        async def answer(asked: PlaywrightRoute) -> None:
            if route.abort:
                await asked.abort()
            else:
                await asked.fulfill(
                    status=route.status, headers=dict(route.headers), body=route.body
                )

        self._routes[route] = answer
        await self.context.route(route.pattern, answer)

    async def unroute(self, route: Route) -> None:
        await self.context.unroute(route.pattern, self._routes.pop(route))

    async def cookies(self) -> list[dict[str, Any]]:
        return [dict(cookie) for cookie in await self.context.cookies()]

    async def set_cookies(self, cookies: Sequence[Mapping[str, Any]]) -> None:
        wanted: list[Any] = []
        for one in cookies:
            if not ("url" in one or "domain" in one):
                raise ValueError(f"cookie {one.get('name')!r} needs url or domain")
            path = {} if "url" in one else {"path": "/"}
            wanted.append({**path, **one})
        await self.context.add_cookies(wanted)

    async def clear_cookies(self) -> None:
        await self.context.clear_cookies()

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        try:
            await self.context.close()
        except Error:
            pass  # it is gone already, which is what was wanted
        await self.launched.leave()


_PAGE = """(command) => {
  const page = globalThis[Symbol.for("maestro.page")];
  if (!page) return {missing: true};
  return page(command).catch((e) => ({reason: String(e), kind: "wrong"}));
}"""
_INSTALL = """() => {
  Object.defineProperty(globalThis, Symbol.for("maestro.page"), {value: SCRIPT});
}"""
_CARET_TO_END = """(el) => {
  el.focus();
  if (el.setSelectionRange && el.value !== undefined) {
    try { el.setSelectionRange(el.value.length, el.value.length); } catch (e) { /* number */ }
  } else if (el.isContentEditable) {
    getSelection().selectAllChildren(el);
    getSelection().collapseToEnd();
  }
}"""


async def _second(of: asyncio.Queue[str], ms: float) -> str | None:
    """What comes after the first, or None if it is long in coming."""
    limit = min(_LATE_PAGE_S, ms / 1000)
    await _within(limit, of.get())
    return await _within(limit, of.get())


async def _within(seconds: float, work: Awaitable[T]) -> T | None:
    try:
        return await asyncio.wait_for(work, seconds)
    except TimeoutError:
        return None


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]


async def _launch(
    browser: str,
    *,
    headless: bool,
    binary: str | os.PathLike[str] | None,
    window: tuple[int, int],
    args: Sequence[str],
) -> Launched:
    kind = family(browser)
    program = find_binary(kind, binary)
    folder = Path(tempfile.mkdtemp(prefix="maestro-browser-"))
    playwright = await async_playwright().start()
    try:
        extra = (f"--window-size={window[0]},{window[1]}", *args)
        flags = chromium_flags(headless=headless, extra=extra, profile=None)
        type_ = getattr(playwright, kind)
        started = await type_.launch(
            executable_path=program,
            headless=headless,
            args=flags if kind == "chromium" else list(args),
            handle_sigint=False,
            handle_sigterm=False,
            handle_sighup=False,
            env={**marked_environment(folder)},
        )
    except Error as error:
        await playwright.stop()
        shutil.rmtree(folder, ignore_errors=True)
        raise BrowserError(f"{kind} did not start: {_first_line(error)}") from error
    return Launched(playwright, started, folder)


async def _backend(launched: Launched, window: tuple[int, int]) -> PlaywrightBackend:
    context = await launched.browser.new_context(
        viewport={"width": window[0], "height": window[1]}, accept_downloads=True
    )
    return PlaywrightBackend(launched, context, await context.new_page())


class AsyncPlaywrightAdapter(AsyncBrowser):
    """A browser driven by Playwright on the caller's event loop.

    async with await AsyncPlaywrightAdapter.start(base_url=url) as browser:
        await browser.open("/")
    """

    def __init__(self, engine: Engine, window: tuple[int, int]) -> None:
        super().__init__(engine)
        self._window = window

    @classmethod
    async def start(
        cls,
        browser: str = "chromium",
        *,
        headless: bool = True,
        base_url: str | None = None,
        timeout: float = 5.0,
        artifacts: str | os.PathLike[str] = "artifacts",
        trace: bool | str | os.PathLike[str] = False,
        binary: str | os.PathLike[str] | None = None,
        window: tuple[int, int] = (1280, 720),
        testid_attribute: str = "data-testid",
        args: Sequence[str] = (),
    ) -> Self:
        """Start a browser. Arguments as for `PlaywrightAdapter`."""
        launched = await _launch(
            browser, headless=headless, binary=binary, window=window, args=args
        )
        try:
            backend = await _backend(launched, window)
        except BaseException:
            await launched.leave()
            raise
        engine = Engine(
            backend,
            base_url=base_url,
            timeout=timeout,
            testid_attribute=testid_attribute,
            artifacts=Path(artifacts),
            trace=trace_path(trace, artifacts),
        )
        return cls(engine, window)

    async def new_context(self) -> Self:
        """Return a browser that shares no state with this one, but its process."""
        old = self._engine
        assert isinstance(old.backend, PlaywrightBackend)
        engine = Engine(
            await _backend(old.backend.launched, self._window),
            base_url=old.base_url,
            timeout=old.timeout,
            testid_attribute=old.testid,
            artifacts=old.artifacts,
            trace=None,
        )
        return type(self)(engine, self._window)


class _LoopThread:
    """An event loop on a thread of its own, shared by the contexts of one browser."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._users = 1
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="maestro-playwright", daemon=True
        )
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T], /) -> T:
        """Run a coroutine over there and wait for it here."""
        if not self._thread.is_alive():
            work.close()
            raise BrowserError("the browser is closed")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # ^C here must not leave the verb running there
            raise

    def join(self) -> "_LoopThread":
        """Count one more user."""
        self._users += 1
        return self

    def end(self) -> None:
        """Count one user less; nobody left ends the thread."""
        self._users -= 1
        if self._users > 0:
            return
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class PlaywrightAdapter(Browser):
    """A browser driven by Playwright, for code with or without an event loop.

    Nothing is downloaded: the system's browser is found on PATH or named. Playwright
    runs on a thread of its own, so that asyncio in the caller's thread is not touched.

    Args:
        browser: `chromium`, `chrome` or `firefox` (Playwright drives only its own
            build of Firefox: name it with `binary`).
        headless: Without a window.
        base_url: What relative addresses are relative to.
        timeout: Seconds that a verb waits for its element.
        artifacts: The folder for downloads and traces.
        trace: Keep every verb with picture and DOM: True for `trace.html` in the
            artifacts folder, or a path.
        binary: The browser's program, if it is not on PATH.
        window: Width and height.
        testid_attribute: What `testid=` looks at.
        args: More flags for the browser.
    """

    @known_names
    def __init__(
        self,
        browser: str = "chromium",
        *,
        headless: bool = True,
        base_url: str | None = None,
        timeout: float = 5.0,
        artifacts: str | os.PathLike[str] = "artifacts",
        trace: bool | str | os.PathLike[str] = False,
        binary: str | os.PathLike[str] | None = None,
        window: tuple[int, int] = (1280, 720),
        testid_attribute: str = "data-testid",
        args: Sequence[str] = (),
    ) -> None:
        browser_settings(
            "PlaywrightAdapter",
            browser=browser,
            base_url=base_url,
            timeout=timeout,
            artifacts=artifacts,
            binary=binary,
            window=window,
            args=args,
        )
        self._thread = _LoopThread()
        try:
            inner = self._thread.run(
                AsyncPlaywrightAdapter.start(
                    browser,
                    headless=headless,
                    base_url=base_url,
                    timeout=timeout,
                    artifacts=artifacts,
                    trace=trace,
                    binary=binary,
                    window=window,
                    testid_attribute=testid_attribute,
                    args=args,
                )
            )
        except BaseException:
            self._thread.end()
            raise
        self._async = inner
        super().__init__(self._thread.run, inner, end=self._thread.end)

    def new_context(self) -> Browser:
        """Return a browser that shares no state with this one, but its process."""
        inner = self._thread.run(self._async.new_context())
        thread = self._thread.join()
        return Browser(thread.run, inner, end=thread.end)
