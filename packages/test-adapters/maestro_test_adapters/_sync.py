"""The verbs for code without an event loop: a thin shell over `_browser.py`."""

import os
import threading
import warnings
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from functools import partial
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from maestro_test_adapters._backend import (
    ConsoleMessage,
    Dialog,
    Download,
    Request,
    Tab,
)
from maestro_test_adapters._browser import AsyncBrowser, AsyncFrame, AsyncLocator
from maestro_test_adapters._endings import Closer
from maestro_test_adapters._locator import Finds, Narrows, Target, Text

T = TypeVar("T")


class Runs(Protocol):
    """Runs a coroutine to its end and returns its result."""

    def __call__(self, work: Coroutine[Any, Any, T], /) -> T:
        """Run."""
        ...


def drive(work: Coroutine[Any, Any, T], /) -> T:
    """Run a coroutine that never waits for anything, without an event loop."""
    try:
        work.send(None)
    except StopIteration as end:
        value: T = end.value
        return value
    work.close()
    raise RuntimeError("a synchronous back end waited for an event loop")


def _documented(peer: type) -> Callable[[type[T]], type[T]]:
    """Give methods and properties the docstrings of the asynchronous class."""

    def copy(cls: type[T]) -> type[T]:
        for name, member in vars(cls).items():
            said = getattr(getattr(peer, name, None), "__doc__", None)
            if said and not name.startswith("_"):
                if isinstance(member, property):
                    setattr(cls, name, property(member.fget, doc=said))
                elif not member.__doc__:
                    member.__doc__ = said
        return cls

    return copy


@_documented(AsyncLocator)
class Locator(Narrows["Locator"]):
    """Elements on a page: lazy, and strict for verbs that need one element.

    Every verb waits until the element is ready for it, up to `timeout` seconds (the
    browser's, unless given), and raises ElementNotReady with the reason.
    """

    def __init__(self, run: Runs, inner: AsyncLocator) -> None:
        self._run = run
        self._inner = inner
        self._target = inner._target

    def _made(self, target: Target) -> "Locator":
        return Locator(self._run, self._inner._made(target))

    def frame(self) -> "Frame":
        return Frame(self._run, self._inner.frame())

    def click(
        self, *, button: str = "left", count: int = 1, timeout: float | None = None
    ) -> None:
        self._run(self._inner.click(button=button, count=count, timeout=timeout))

    def dblclick(self, *, timeout: float | None = None) -> None:
        self._run(self._inner.dblclick(timeout=timeout))

    def hover(self, *, timeout: float | None = None) -> None:
        self._run(self._inner.hover(timeout=timeout))

    def fill(self, text: str, *, timeout: float | None = None) -> None:
        self._run(self._inner.fill(text, timeout=timeout))

    def clear(self, *, timeout: float | None = None) -> None:
        self._run(self._inner.clear(timeout=timeout))

    def type(self, text: str, *, timeout: float | None = None) -> None:
        self._run(self._inner.type(text, timeout=timeout))

    def press(self, keys: str, *, timeout: float | None = None) -> None:
        self._run(self._inner.press(keys, timeout=timeout))

    def check(self, *, timeout: float | None = None) -> None:
        self._run(self._inner.check(timeout=timeout))

    def uncheck(self, *, timeout: float | None = None) -> None:
        self._run(self._inner.uncheck(timeout=timeout))

    def select(self, *options: str, timeout: float | None = None) -> list[str]:
        return self._run(self._inner.select(*options, timeout=timeout))

    def upload(
        self, *paths: str | os.PathLike[str], timeout: float | None = None
    ) -> None:
        self._run(self._inner.upload(*paths, timeout=timeout))

    def drag_to(self, target: "Locator", *, timeout: float | None = None) -> None:
        self._run(self._inner.drag_to(target._inner, timeout=timeout))

    def focus(self, *, timeout: float | None = None) -> None:
        self._run(self._inner.focus(timeout=timeout))

    def blur(self, *, timeout: float | None = None) -> None:
        self._run(self._inner.blur(timeout=timeout))

    def scroll_into_view(self, *, timeout: float | None = None) -> None:
        self._run(self._inner.scroll_into_view(timeout=timeout))

    def evaluate(
        self, function: str, arg: object = None, *, timeout: float | None = None
    ) -> Any:
        return self._run(self._inner.evaluate(function, arg, timeout=timeout))

    def screenshot(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        timeout: float | None = None,
    ) -> bytes:
        return self._run(self._inner.screenshot(path, timeout=timeout))

    def text(self, *, timeout: float | None = None) -> str:
        return self._run(self._inner.text(timeout=timeout))

    def html(self, *, timeout: float | None = None) -> str:
        return self._run(self._inner.html(timeout=timeout))

    def value(self, *, timeout: float | None = None) -> str:
        return self._run(self._inner.value(timeout=timeout))

    def attribute(self, name: str, *, timeout: float | None = None) -> str | None:
        return self._run(self._inner.attribute(name, timeout=timeout))

    def style(self, name: str, *, timeout: float | None = None) -> str:
        return self._run(self._inner.style(name, timeout=timeout))

    def box(self, *, timeout: float | None = None) -> dict[str, float]:
        return self._run(self._inner.box(timeout=timeout))

    def is_checked(self, *, timeout: float | None = None) -> bool:
        return self._run(self._inner.is_checked(timeout=timeout))

    def is_enabled(self, *, timeout: float | None = None) -> bool:
        return self._run(self._inner.is_enabled(timeout=timeout))

    def is_editable(self, *, timeout: float | None = None) -> bool:
        return self._run(self._inner.is_editable(timeout=timeout))

    def is_focused(self, *, timeout: float | None = None) -> bool:
        return self._run(self._inner.is_focused(timeout=timeout))

    def is_visible(self) -> bool:
        return self._run(self._inner.is_visible())

    def count(self) -> int:
        return self._run(self._inner.count())

    def texts(self) -> list[str]:
        return self._run(self._inner.texts())

    def should(
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
        self._run(
            self._inner.should(
                text=text,
                contains=contains,
                texts=texts,
                value=value,
                visible=visible,
                count=count,
                enabled=enabled,
                editable=editable,
                checked=checked,
                focused=focused,
                attribute=attribute,
                style=style,
                timeout=timeout,
            )
        )


@_documented(AsyncFrame)
class Frame(Finds[Locator]):
    """The document inside an iframe."""

    def __init__(self, run: Runs, inner: AsyncFrame) -> None:
        self._run = run
        self._inner = inner
        self._target = inner._target

    def _made(self, target: Target) -> Locator:
        return Locator(self._run, self._inner._made(target))

    def evaluate(self, source: str, arg: object = None) -> Any:
        return self._run(self._inner.evaluate(source, arg))


@_documented(AsyncBrowser)
class Browser(Finds[Locator]):
    """A browser with one current tab, and the verbs of a user.

    Not thread-safe. Close it, or use it as a context manager.
    """

    def __init__(
        self, run: Runs, inner: AsyncBrowser, *, end: Callable[[], None] = lambda: None
    ) -> None:
        self._run = run
        self._inner = inner
        self._target = Target()
        self._closer = Closer(partial(_close, run, inner, end))

    def _made(self, target: Target) -> Locator:
        return Locator(self._run, self._inner._made(target))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        closer = getattr(self, "_closer", None)
        if closer is None or closer.done:
            return
        # On a thread: this one may be in the middle of anything.
        threading.Thread(target=closer, name="maestro-close").start()
        warnings.warn(f"{self!r} was not closed", ResourceWarning, stacklevel=2)

    def close(self) -> None:
        self._closer()

    def open(self, url: str = "/", *, timeout: float | None = None) -> None:
        self._run(self._inner.open(url, timeout=timeout))

    def reload(self) -> None:
        self._run(self._inner.reload())

    def back(self) -> None:
        self._run(self._inner.back())

    def forward(self) -> None:
        self._run(self._inner.forward())

    @property
    def url(self) -> str:
        return self._run(self._inner.url())

    @property
    def title(self) -> str:
        return self._run(self._inner.title())

    def should_be_at(self, url: Text, *, timeout: float | None = None) -> None:
        self._run(self._inner.should_be_at(url, timeout=timeout))

    def evaluate(self, source: str, arg: object = None) -> Any:
        return self._run(self._inner.evaluate(source, arg))

    def press(self, keys: str) -> None:
        self._run(self._inner.press(keys))

    def scroll(self, *, x: float = 0, y: float = 0) -> None:
        self._run(self._inner.scroll(x=x, y=y))

    def screenshot(
        self, path: str | os.PathLike[str] | None = None, *, full_page: bool = False
    ) -> bytes:
        return self._run(self._inner.screenshot(path, full_page=full_page))

    def pdf(self, path: str | os.PathLike[str] | None = None) -> bytes:
        return self._run(self._inner.pdf(path))

    @property
    def tabs(self) -> list[Tab]:
        return self._run(self._inner.tabs())

    def use_tab(self, tab: Tab | str) -> None:
        self._run(self._inner.use_tab(tab))

    def new_tab(self, url: str | None = None) -> None:
        self._run(self._inner.new_tab(url))

    def wait_for_tab(self, *, timeout: float | None = None) -> None:
        self._run(self._inner.wait_for_tab(timeout=timeout))

    def close_tab(self) -> None:
        self._run(self._inner.close_tab())

    @contextmanager
    def _entered(self, block: AbstractAsyncContextManager[T]) -> Iterator[T]:
        value = self._run(_enter(block))
        try:
            yield value
        except BaseException as error:
            if not self._run(_leave(block, error)):
                raise
        else:
            self._run(_leave(block, None))

    @contextmanager
    def dialog(
        self,
        *,
        accept: bool = True,
        text: str | None = None,
        timeout: float | None = None,
    ) -> Iterator[Dialog]:
        with self._entered(
            self._inner.dialog(accept=accept, text=text, timeout=timeout)
        ) as dialog:
            yield dialog

    @contextmanager
    def download(self, *, timeout: float | None = None) -> Iterator[Download]:
        with self._entered(self._inner.download(timeout=timeout)) as download:
            yield download

    @contextmanager
    def route(
        self,
        pattern: str,
        *,
        json: object = None,
        body: str | bytes = b"",
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        abort: bool = False,
    ) -> Iterator[None]:
        with self._entered(
            self._inner.route(
                pattern,
                json=json,
                body=body,
                status=status,
                headers=headers,
                abort=abort,
            )
        ):
            yield

    @property
    def console(self) -> tuple[ConsoleMessage, ...]:
        return self._inner.console()

    @property
    def requests(self) -> tuple[Request, ...]:
        return self._inner.requests()

    def wait_for_console(
        self, part: str, *, timeout: float | None = None
    ) -> ConsoleMessage:
        return self._run(self._inner.wait_for_console(part, timeout=timeout))

    def wait_for_request(
        self, pattern: str, *, timeout: float | None = None
    ) -> Request:
        return self._run(self._inner.wait_for_request(pattern, timeout=timeout))

    @property
    def cookies(self) -> list[dict[str, Any]]:
        return self._run(self._inner.cookies())

    def set_cookies(self, cookies: Iterable[Mapping[str, Any]]) -> None:
        self._run(self._inner.set_cookies(cookies))

    def clear_cookies(self) -> None:
        self._run(self._inner.clear_cookies())

    def storage_state(
        self, path: str | os.PathLike[str] | None = None
    ) -> dict[str, Any]:
        return self._run(self._inner.storage_state(path))

    def load_storage_state(
        self, state: Mapping[str, Any] | str | os.PathLike[str]
    ) -> None:
        self._run(self._inner.load_storage_state(state))


def _close(run: Runs, inner: AsyncBrowser, end: Callable[[], None]) -> None:
    try:
        run(inner.close())
    finally:
        end()


async def _enter(block: AbstractAsyncContextManager[T]) -> T:
    return await block.__aenter__()


async def _leave(
    block: AbstractAsyncContextManager[Any], error: BaseException | None
) -> bool | None:
    return await block.__aexit__(type(error) if error else None, error, None)
