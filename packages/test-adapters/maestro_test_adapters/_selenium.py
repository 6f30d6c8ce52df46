"""Selenium: the same verbs over WebDriver and BiDi."""

import base64
import functools
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

try:
    from selenium.common import exceptions as errors
    from selenium.webdriver import ActionChains, Remote
    from selenium.webdriver.chrome.options import Options as ChromiumOptions
    from selenium.webdriver.chrome.service import Service as ChromiumService
    from selenium.webdriver.chrome.webdriver import WebDriver as ChromiumDriver
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.firefox.options import Options as FirefoxOptions
    from selenium.webdriver.firefox.service import Service as FirefoxService
    from selenium.webdriver.firefox.webdriver import WebDriver as FirefoxDriver
    from selenium.webdriver.remote.webdriver import WebDriver
    from selenium.webdriver.remote.webelement import WebElement
except ImportError as error:
    raise ImportError(
        'SeleniumAdapter needs Selenium: pip install "maestro-test-adapters[selenium]"'
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
from maestro_test_adapters._find import chromium_flags, family, find_binary, find_driver
from maestro_test_adapters._sync import Browser, drive
from maestro_test_adapters._trace import trace_path
from maestro_test_adapters.errors import (
    BrowserError,
    NavigationFailed,
    ScriptFailed,
    Unsupported,
)

_SCRIPT_LIMIT_S = 60
_ROUTED_WAIT_MS = 30
_EVENTS_END_S = 2.0
_GONE = (
    errors.StaleElementReferenceException,
    errors.NoSuchFrameException,
    errors.ElementClickInterceptedException,
    errors.ElementNotInteractableException,
    errors.MoveTargetOutOfBoundsException,
)
_GONE_WORDS = (
    "context",
    "document unloaded",
    "navigat",
    "frame was detached",
    "target frame",
    "aborted by",
    "node with given id",
    "no such shadow",
)
_PAGE = """
const done = arguments[arguments.length - 1];
const page = globalThis[Symbol.for("maestro.page")];
if (!page) { done({missing: true}); return; }
page(arguments[0]).then(done, (e) => done({reason: String(e), kind: "wrong"}));
"""
_ERROR_PAGE = """
if (!/^(chrome-error:|about:neterror)/.test(document.documentURI)) return "";
const code = document.querySelector(".error-code, #errorShortDesc");
return (code && code.textContent.trim()) || document.title || "the browser's error page";
"""
_INSTALL = """
Object.defineProperty(globalThis, Symbol.for("maestro.page"), {value: SCRIPT});
"""
_CALL = """
const done = arguments[arguments.length - 1];
const given = arguments[0];
Promise.resolve().then(() => {
  const made = (SOURCE);
  return typeof made === "function" ? made(...given) : made;
}).then((value) => done({value: value === undefined ? null : value}),
        (e) => done({error: String(e)}));
"""


class SeleniumBackend:
    """Drives one WebDriver session."""

    name = "selenium"

    def __init__(
        self, driver: WebDriver, *, downloads: Path | None, bidi: bool
    ) -> None:
        self.driver = driver
        self._downloads = downloads
        self._before: set[str] = set()
        self._frames: Frames = ()
        self._dialog: tuple[bool, str | None] = (False, None)
        self._console: list[tuple[float, ConsoleMessage]] = []
        self._requests: dict[str, Request] = {}
        self._routes: list[Route] = []
        self._route_handler: Any = None
        self._bidi = bidi
        self._firefox = driver.capabilities.get("browserName") == "firefox"
        self._closers: list[Callable[[], None]] = []
        driver.set_script_timeout(_SCRIPT_LIMIT_S)
        if bidi:
            self._listen()

    def on_close(self, closer: Callable[[], None]) -> None:
        """Call this after the session has ended."""
        self._closers.append(closer)

    # Scripts and frames -------------------------------------------------------------

    async def pause(self, seconds: float) -> None:
        time.sleep(seconds)  # noqa: ASYNC251 - never runs on an event loop

    def _enter(self, frames: Frames) -> None:
        if frames == self._frames:
            return
        self.driver.switch_to.default_content()
        self._frames = ()
        for depth, steps in enumerate(frames):
            found = self._page({"act": "element", "steps": list(steps), "timeout": 0})
            if isinstance(found, dict):
                raise Gone(f"no frame: {found['reason']}")
            self.driver.switch_to.frame(found)
            self._frames = frames[: depth + 1]

    def _page(self, command: dict[str, Any]) -> Any:
        answer = self.driver.execute_async_script(_PAGE, command)
        if isinstance(answer, dict) and "missing" in answer:
            # Once per document: sending 20 KB with every verb would double its time.
            self.driver.execute_script(_INSTALL.replace("SCRIPT", page_script(), 1))
            answer = self.driver.execute_async_script(_PAGE, command)
            if isinstance(answer, dict) and "missing" in answer:
                raise Gone("the page navigates")
        return answer

    def _guarded(self, work: Callable[[], Any]) -> Any:
        """Do something; turn what a moving page throws into Gone."""
        try:
            return self._past_dialogs(work)
        except _GONE as error:
            self._forget_frames()
            raise Gone(_first_line(error)) from error
        except errors.NoSuchWindowException as error:
            raise BrowserError("the tab or window is closed") from error
        except errors.InvalidSessionIdException as error:
            raise BrowserError("the browser is closed or has crashed") from error
        except Exception as error:
            if type(error).__module__.startswith("urllib3"):  # nobody answers any more
                raise BrowserError("the browser is closed or has crashed") from error
            if not isinstance(error, errors.WebDriverException):
                raise
            message = _first_line(error)
            if any(word in message.lower() for word in _GONE_WORDS):
                self._forget_frames()
                raise Gone(message) from error
            raise BrowserError(message) from error

    def _past_dialogs(self, work: Callable[[], Any]) -> Any:
        """Do something; dialogs that nobody awaits are dismissed, as a user would."""
        while True:
            try:
                return work()
            except errors.UnexpectedAlertPresentException:
                try:
                    self.driver.switch_to.alert.dismiss()
                except errors.NoAlertPresentException:
                    pass  # it went away by itself

    def _forget_frames(self) -> None:
        """Start from the top next time: which frame is current is not known."""
        self._frames = ()
        try:
            self.driver.switch_to.default_content()
        except errors.WebDriverException:
            pass  # the next command says what is wrong

    async def page(self, frames: Frames, command: dict[str, Any]) -> Any:
        if self._routes:
            # The driver runs one command of a session at a time: while it waits in
            # the page, the answers of our routes would wait behind it.
            command = {**command, "timeout": min(command["timeout"], _ROUTED_WAIT_MS)}

        def work() -> Any:
            self._enter(frames)
            return self._page(command)

        answer = self._guarded(work)
        if self._routes and isinstance(answer, dict) and "reason" in answer:
            await self.pause(_ROUTED_WAIT_MS / 1000)
        return answer

    async def evaluate(
        self, frames: Frames, source: str, arg: object, element: Any | None
    ) -> Any:
        def work() -> Any:
            self._enter(frames)
            given = [arg] if element is None else [element, arg]
            return self.driver.execute_async_script(
                _CALL.replace("SOURCE", source.strip().rstrip(";")), given
            )

        try:
            answer = self._guarded(work)
        except Gone:
            raise
        except BrowserError as error:
            if isinstance(error.__cause__, errors.JavascriptException):
                raise ScriptFailed(str(error)) from error
            raise
        if "error" in answer:
            raise ScriptFailed(answer["error"])
        return answer["value"]

    # Pages --------------------------------------------------------------------------

    async def goto(self, url: str, timeout: float) -> None:
        await self._load(url, lambda: self._navigate(url), timeout)

    def _navigate(self, url: str) -> None:
        if self._routes:
            # A classic navigation hangs in Chrome while BiDi intercepts requests
            # (SeleniumHQ/selenium#17373).
            raise Unsupported(
                "opening a page inside of route()",
                where="Selenium",
                instead="open it before the block, or use Playwright",
            )
        self.driver.get(url)

    async def go(self, where: str, timeout: float) -> None:
        verbs = {
            "reload": self.driver.refresh,
            "back": self.driver.back,
            "forward": self.driver.forward,
        }
        await self._load(where, verbs[where], timeout)

    async def _load(self, url: str, start: Callable[[], None], timeout: float) -> None:
        self._frames = ()
        try:
            self.driver.set_page_load_timeout(timeout)
            self._past_dialogs(start)
        except errors.TimeoutException as error:
            raise NavigationFailed(url, f"it did not load in {timeout:g} s") from error
        except errors.WebDriverException as error:
            raise NavigationFailed(url, _first_line(error)) from error
        why = self._error_page()
        if why:
            raise NavigationFailed(url, why)

    def _error_page(self) -> str:
        """Return what the browser's own page says if it shows that instead of ours."""
        try:
            return str(self.driver.execute_script(_ERROR_PAGE) or "")
        except errors.WebDriverException:
            return ""  # a dialog is open, or the page goes on to another: it loaded

    async def page_info(self) -> tuple[str, str]:
        info: tuple[str, str] = self._guarded(
            lambda: (self.driver.current_url, self.driver.title)
        )
        return info

    # The pointer and the keyboard ------------------------------------------------------

    def _actions(self) -> ActionChains:
        return ActionChains(self.driver, duration=20)

    async def click(self, handle: WebElement, button: str, count: int) -> None:
        if button == "left" and count == 1:
            self._guarded(handle.click)
            return
        actions = self._actions().move_to_element(handle)
        numbers = {"left": 0, "middle": 1, "right": 2}
        pointer: Any = actions.w3c_actions.pointer_action
        for _ in range(count):
            pointer.pointer_down(button=numbers[button])
            pointer.pointer_up(button=numbers[button])
        self._guarded(actions.perform)

    async def hover(self, handle: WebElement) -> None:
        self._guarded(self._actions().move_to_element(handle).perform)

    async def type(self, handle: WebElement, text: str) -> None:
        self._guarded(lambda: handle.send_keys(text))

    async def press(self, handle: WebElement | None, keys: Sequence[str]) -> None:
        if handle is not None:
            self._guarded(
                lambda: self.driver.execute_script("arguments[0].focus()", handle)
            )
        codes = [_key(key) for key in keys]
        actions = self._actions()
        for code in codes[:-1]:
            actions.key_down(code)
        actions.send_keys(codes[-1])
        for code in reversed(codes[:-1]):
            actions.key_up(code)
        self._guarded(actions.perform)

    async def upload(self, handle: WebElement, paths: Sequence[str]) -> None:
        self._guarded(lambda: handle.send_keys("\n".join(paths)))

    async def drag(self, source: WebElement, target: WebElement) -> None:
        actions = self._actions().move_to_element(source).click_and_hold()
        # A first small move starts a drag; a jump would not be seen as one.
        actions.move_by_offset(5, 5).move_to_element(target).move_by_offset(1, 1)
        actions.pause(0.05).release()
        self._guarded(actions.perform)

    async def screenshot(self, handle: WebElement | None, *, full_page: bool) -> bytes:
        if handle is not None:
            return bytes(self._guarded(lambda: handle.screenshot_as_png))
        if not full_page:
            return bytes(self._guarded(self.driver.get_screenshot_as_png))
        if isinstance(self.driver, FirefoxDriver):
            return bytes(self._guarded(self.driver.get_full_page_screenshot_as_png))
        shot = self._cdp(
            "Page.captureScreenshot", {"format": "png", "captureBeyondViewport": True}
        )
        return base64.b64decode(shot["data"])

    def _cdp(self, command: str, arguments: dict[str, Any]) -> dict[str, Any]:
        if self._firefox:
            raise Unsupported(command, where="Selenium with Firefox")
        # A remote session does not know the command by its name.
        paths: dict[str, Any] = self.driver.command_executor._commands  # type: ignore[union-attr]
        path = "/session/$sessionId/goog/cdp/execute"
        paths.setdefault("executeCdpCommand", ("POST", path))
        given = {"cmd": command, "params": arguments}
        done = self._guarded(lambda: self.driver.execute("executeCdpCommand", given))
        value: dict[str, Any] = done["value"]
        return value

    async def pdf(self) -> bytes:
        return base64.b64decode(self._guarded(self.driver.print_page))

    # Tabs and dialogs -------------------------------------------------------------------

    async def tabs(self) -> list[Tab]:
        def work() -> list[Tab]:
            driver = self.driver
            here = driver.current_window_handle
            seen = []
            handles = driver.window_handles
            for handle in handles:
                if handle != here or len(handles) > 1:
                    driver.switch_to.window(handle)
                seen.append(Tab(id=handle, url=driver.current_url, title=driver.title))
            if len(handles) > 1:
                driver.switch_to.window(here)
                self._frames = ()
            return seen

        found: list[Tab] = self._guarded(work)
        return found

    async def current_tab(self) -> str:
        return str(self._guarded(lambda: self.driver.current_window_handle))

    async def use_tab(self, tab: str) -> None:
        self._frames = ()
        self._guarded(lambda: self.driver.switch_to.window(tab))

    async def new_tab(self) -> str:
        self._frames = ()
        self._guarded(lambda: self.driver.switch_to.new_window("tab"))
        return await self.current_tab()

    async def close_tab(self) -> None:
        self._frames = ()
        self._guarded(self.driver.close)
        handles = self._guarded(lambda: self.driver.window_handles)
        if handles:
            await self.use_tab(handles[0])

    async def await_dialog(self, *, accept: bool, text: str | None) -> None:
        self._dialog = (accept, text)

    async def seen_dialog(self, timeout: float) -> str | None:
        until = time.monotonic() + timeout
        while True:
            try:
                alert = self.driver.switch_to.alert
                message = alert.text
                accept, text = self._dialog
                if accept and text is not None:
                    alert.send_keys(text)
                (alert.accept if accept else alert.dismiss)()
                return message
            except errors.NoAlertPresentException:
                if time.monotonic() > until:
                    return None
            time.sleep(0.02)  # noqa: ASYNC251 - never runs on an event loop

    async def await_download(self) -> None:
        if self._downloads is None:
            raise Unsupported("downloads", where="Selenium over a remote URL")
        self._before = {entry.name for entry in self._downloads.iterdir()}

    async def seen_download(self, timeout: float) -> tuple[str, Path] | None:
        assert self._downloads is not None
        until = time.monotonic() + timeout
        while time.monotonic() <= until:
            new = [e for e in self._downloads.iterdir() if e.name not in self._before]
            partial = [
                entry
                for entry in new
                if entry.suffix in (".crdownload", ".part", ".tmp")
                or entry.name.startswith(".")
            ]
            if new and not partial:
                return new[0].name, new[0]
            time.sleep(0.02)  # noqa: ASYNC251 - never runs on an event loop
        return None

    # Console, network ----------------------------------------------------------------

    def _listen(self) -> None:
        """Subscribe to console and network events.

        Selenium tells each on a thread of its own, so that they come in any order.
        """
        script, network = self.driver.script, self.driver.network
        script.add_console_message_handler(self._heard_console)
        script.add_javascript_error_handler(self._heard_error)
        network.add_event_handler("before_request_sent", self._heard_request)
        network.add_event_handler("response_completed", self._heard_response)
        network.add_event_handler("fetch_error", self._heard_failure)

    def _heard_console(self, entry: Any) -> None:
        kind = str(_part(entry, "method") or _part(entry, "level") or "log")
        kind = {"warn": "warning"}.get(kind, kind)
        self._keep(entry, kind)

    def _heard_error(self, entry: Any) -> None:
        self._keep(entry, "exception")

    def _keep(self, entry: Any, kind: str) -> None:
        message = ConsoleMessage(kind=kind, text=str(_part(entry, "text")))
        self._console.append((_part(entry, "timestamp") or 0, message))

    def _heard_request(self, event: Any) -> None:
        request = _part(event, "request")
        # The answer may be here already, and stands.
        self._requests.setdefault(str(_part(request, "request")), _request(request))

    def _heard_response(self, event: Any) -> None:
        self._answered(event, status=int(_part(_part(event, "response"), "status")))

    def _heard_failure(self, event: Any) -> None:
        self._answered(event, failure=str(_part(event, "error_text", "errorText")))

    def _answered(self, event: Any, **outcome: Any) -> None:
        request = _part(event, "request")
        self._requests[str(_part(request, "request"))] = _request(request, **outcome)

    def console(self) -> Sequence[ConsoleMessage]:
        self._need_bidi("the console")
        kept = sorted(self._console, key=lambda one: one[0])
        return [message for _, message in kept]

    def requests(self) -> Sequence[Request]:
        self._need_bidi("the network log")
        return list(self._requests.values())

    def _need_bidi(self, what: str) -> None:
        if not self._bidi:
            raise Unsupported(
                what, where="Selenium without BiDi", instead="pass bidi=True"
            )

    async def route(self, route: Route) -> None:
        self._need_bidi("routes")
        self._routes.append(route)
        if self._route_handler is None:
            network: Any = self.driver.network
            self._route_handler = network.add_request_handler(self._answer)

    async def unroute(self, route: Route) -> None:
        self._routes.remove(route)
        if not self._routes:
            network: Any = self.driver.network
            network.remove_request_handler(self._route_handler)
            self._route_handler = None

    def _answer(self, request: Any) -> None:
        """Answer an intercepted request; what is left alone goes to the server."""
        for route in reversed(self._routes):
            if route.pattern.match(request.url):
                if route.abort:
                    request.fail()
                else:
                    request.provide_response(
                        status=route.status,
                        headers=dict(route.headers),
                        body=_wire(route.body),
                    )
                return

    # State ------------------------------------------------------------------------------

    async def cookies(self) -> list[dict[str, Any]]:
        if self._firefox:
            return [_cookie(one) for one in self.driver.get_cookies()]
        return [_cookie(one) for one in self._cdp("Storage.getCookies", {})["cookies"]]

    async def set_cookies(self, cookies: Sequence[Mapping[str, Any]]) -> None:
        if self._firefox:
            for one in cookies:
                self._guarded(functools.partial(self.driver.add_cookie, dict(one)))
            return
        wanted = []
        for one in cookies:
            if not ("url" in one or "domain" in one):
                raise ValueError(f"cookie {one.get('name')!r} needs url or domain")
            wanted.append(
                {k: v for k, v in one.items() if not (k == "expires" and v == -1)}
            )
        self._cdp("Storage.setCookies", {"cookies": wanted})

    async def clear_cookies(self) -> None:
        if self._firefox:
            self._guarded(self.driver.delete_all_cookies)
            return
        self._cdp("Storage.clearCookies", {})

    def _end_events(self) -> None:
        """End the stream of events, so that the thread that reads it wakes and ends.

        Selenium closes the socket under that thread, which may then sleep for 10 s
        (of websocket-client's select), and waits for it.
        """
        try:
            events: Any = self.driver._websocket_connection
            events._ws.sock.sock.shutdown(socket.SHUT_RDWR)
            events._ws_thread.join(_EVENTS_END_S)
        except (AttributeError, OSError):
            pass  # without BiDi, closed by now, or a Selenium that keeps it elsewhere

    async def close(self) -> None:
        self._end_events()
        try:
            self.driver.quit()
        except errors.WebDriverException:
            pass
        closers, self._closers = self._closers, []
        for closer in closers:
            closer()


class SeleniumAdapter(Browser):
    """A browser driven by Selenium: this machine's, or one behind a WebDriver URL.

    Nothing is downloaded: browser and driver are found on PATH or named.

    Args:
        browser: `chromium`, `chrome` or `firefox`.
        headless: Without a window.
        base_url: What relative addresses are relative to.
        timeout: Seconds that a verb waits for its element.
        artifacts: The folder for downloads and traces.
        trace: Keep every verb with picture and DOM: True for `trace.html` in the
            artifacts folder, or a path.
        binary: The browser's program, if it is not on PATH.
        driver: The WebDriver program, if it is not on PATH.
        remote_url: A WebDriver server, such as a grid, instead of a driver here.
        bidi: Console, network log and routes, over WebDriver BiDi.
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
        driver: str | os.PathLike[str] | None = None,
        remote_url: str | None = None,
        bidi: bool = True,
        window: tuple[int, int] = (1280, 720),
        testid_attribute: str = "data-testid",
        args: Sequence[str] = (),
    ) -> None:
        browser_settings(
            "SeleniumAdapter",
            browser=browser,
            base_url=base_url,
            timeout=timeout,
            artifacts=artifacts,
            binary=binary,
            driver=driver,
            remote_url=remote_url,
            window=window,
            args=args,
        )
        kind = family(browser)
        folder = Path(tempfile.mkdtemp(prefix="maestro-browser-"))
        try:
            session = _session(
                kind,
                folder,
                headless=headless,
                binary=find_binary(kind, binary) if binary or not remote_url else None,
                driver=None if remote_url else find_driver(kind, driver),
                remote_url=remote_url,
                bidi=bidi,
                args=(f"--window-size={window[0]},{window[1]}", *args)
                if kind == "chromium"
                else (f"--width={window[0]}", f"--height={window[1]}", *args),
            )
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        try:
            backend = SeleniumBackend(
                session,
                downloads=None if remote_url else folder / "downloads",
                bidi=bidi,
            )
        except BaseException:
            session.quit()
            shutil.rmtree(folder, ignore_errors=True)
            raise
        backend.on_close(lambda: shutil.rmtree(folder, ignore_errors=True))
        self.driver = session
        self._settings: dict[str, Any] = {
            "browser": browser,
            "headless": headless,
            "base_url": base_url,
            "timeout": timeout,
            "artifacts": artifacts,
            "binary": binary,
            "driver": driver,
            "remote_url": remote_url,
            "bidi": bidi,
            "window": window,
            "testid_attribute": testid_attribute,
            "args": args,
        }
        engine = Engine(
            backend,
            base_url=base_url,
            timeout=timeout,
            testid_attribute=testid_attribute,
            artifacts=Path(artifacts),
            trace=trace_path(trace, artifacts),
        )
        super().__init__(drive, AsyncBrowser(engine))

    def new_context(self) -> "SeleniumAdapter":
        """Return a browser that shares no state with this one: a session of its own."""
        return SeleniumAdapter(**self._settings)


def _session(
    kind: str,
    folder: Path,
    *,
    headless: bool,
    binary: str | None,
    driver: str | None,
    remote_url: str | None,
    bidi: bool,
    args: tuple[str, ...],
) -> WebDriver:
    downloads = folder / "downloads"
    downloads.mkdir()
    options: ChromiumOptions | FirefoxOptions
    if kind == "chromium":
        options = ChromiumOptions()
        for flag in chromium_flags(
            headless=headless, extra=args, profile=folder / "profile"
        ):
            options.add_argument(flag)
        options.add_experimental_option(
            "prefs",
            {
                "download.default_directory": str(downloads),
                "download.prompt_for_download": False,
            },
        )
    else:
        options = FirefoxOptions()
        for flag in (*(("-headless",) if headless else ()), *args):
            options.add_argument(flag)
        options.set_preference("browser.download.folderList", 2)
        options.set_preference("browser.download.dir", str(downloads))
    if binary:
        options.binary_location = binary
    # With BiDi, "dismiss" would answer dialogs before the user's block could.
    options.unhandled_prompt_behavior = "ignore"
    options.web_socket_url = bidi
    try:
        if remote_url:
            return Remote(command_executor=remote_url, options=options)
        assert driver is not None
        # A session of its own: ^C is ours, and we close the browser after it.
        env, popen = marked_environment(folder), {"start_new_session": True}
        if isinstance(options, ChromiumOptions):
            service = ChromiumService(driver, env=env, popen_kw=popen)
            return ChromiumDriver(options, service)
        return FirefoxDriver(options, FirefoxService(driver, env=env, popen_kw=popen))
    except errors.WebDriverException as error:
        raise BrowserError(f"{kind} did not start: {_first_line(error)}") from error


def _first_line(error: errors.WebDriverException) -> str:
    return (error.msg or type(error).__name__).strip().split("\n")[0]


def _request(told: Any, **outcome: Any) -> Request:
    method, url = _part(told, "method"), _part(told, "url")
    return Request(method=str(method), url=str(url), **outcome)


def _part(value: Any, *names: str) -> Any:
    """Return a part of an event, which is a mapping or an object by version."""
    for name in names:
        found = (
            value.get(name)
            if isinstance(value, Mapping)
            else getattr(value, name, None)
        )
        if found is not None:
            return found
    return None


def _wire(body: bytes) -> Any:
    """Return a body as BiDi takes it: text where it is text, else base64."""
    import base64

    try:
        return body.decode("utf-8")
    except UnicodeDecodeError:
        return {"type": "base64", "value": base64.b64encode(body).decode()}


def _key(name: str) -> str:
    """Return WebDriver's code of a key that is named as in the DOM."""
    names = {
        "Control": Keys.CONTROL,
        "Shift": Keys.SHIFT,
        "Alt": Keys.ALT,
        "Meta": Keys.META,
        "Enter": Keys.ENTER,
        "Escape": Keys.ESCAPE,
        "Tab": Keys.TAB,
        "Space": " ",
        "Backspace": Keys.BACKSPACE,
        "Delete": Keys.DELETE,
        "Insert": Keys.INSERT,
        "Home": Keys.HOME,
        "End": Keys.END,
        "PageUp": Keys.PAGE_UP,
        "PageDown": Keys.PAGE_DOWN,
        "ArrowLeft": Keys.ARROW_LEFT,
        "ArrowRight": Keys.ARROW_RIGHT,
        "ArrowUp": Keys.ARROW_UP,
        "ArrowDown": Keys.ARROW_DOWN,
        **{f"F{number}": getattr(Keys, f"F{number}") for number in range(1, 13)},
    }
    if name in names:
        return str(names[name])
    if len(name) == 1:
        return name
    raise ValueError(f"no key named {name!r}; keys are named as in the DOM, like Enter")


def _cookie(cookie: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": cookie["name"],
        "value": cookie["value"],
        "domain": cookie.get("domain", ""),
        "path": cookie.get("path", "/"),
        "expires": cookie.get("expires", cookie.get("expiry", -1)),
        "httpOnly": cookie.get("httpOnly", False),
        "secure": cookie.get("secure", False),
        "sameSite": cookie.get("sameSite", "Lax"),
    }
