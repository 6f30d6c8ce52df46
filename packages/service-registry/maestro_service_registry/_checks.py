"""Active health checks: what to ask, and how to read the answers.

A check that cannot be made (refused, timed out, bad answer) is a failure with the
cause as output, never an exception. One failure does not turn an instance critical:
`fails` in a row do, and `passes` in a row turn it back. An instance that flips too
often is held critical until it calms down.
"""

import inspect
import itertools
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, final
from urllib.parse import urlsplit

from ._args import words
from ._model import HEALTHS, Health, cut
from .errors import InvalidInput

__all__ = [
    "Call",
    "Check",
    "CheckState",
    "Grpc",
    "Http",
    "Script",
    "Tcp",
    "Ttl",
    "Verdict",
]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one run of a check said."""

    status: Health
    output: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Timing:
    """What all checks share; times in seconds.

    Attributes:
        interval: time between two runs, jittered by a tenth.
        timeout: a run that takes longer has failed.
        fails: this many failures in a row make it critical.
        passes: this many successes in a row make it passing again.
        initial: what it says before the first run.
    """

    interval: float = 10.0
    timeout: float = 2.0
    fails: int = 2
    passes: int = 1
    initial: Health = "passing"
    name: str = ""

    def __post_init__(self) -> None:
        for field_name in ("interval", "timeout"):
            value = getattr(self, field_name)
            if not isinstance(value, int | float) or not 0.01 <= value <= 86_400:
                raise InvalidInput(field_name, value, "0.01 to 86400 seconds")
        for field_name in ("fails", "passes"):
            value = getattr(self, field_name)
            if not isinstance(value, int) or not 1 <= value <= 100:
                raise InvalidInput(field_name, value, "a number from 1 to 100")
        if self.initial not in HEALTHS:
            raise InvalidInput("initial", self.initial, f"one of {', '.join(HEALTHS)}")


@dataclass(frozen=True, slots=True)
class Http(_Timing):
    """GET a path: 2xx passes, 429 warns, anything else fails.

    A path is asked at the instance's own host and port. A whole URL to another host
    needs `foreign=True`: a registry that fetches any URL it is given is a way into
    the network behind it.
    """

    kind: ClassVar[str] = "http"
    target: str = "/"
    method: str = "GET"
    headers: tuple[tuple[str, str], ...] = ()
    foreign: bool = False
    verify_tls: bool = True

    def __post_init__(self) -> None:
        _Timing.__post_init__(self)
        target: Any = self.target  # whatever the types say
        if not isinstance(target, str) or not target.startswith(
            ("/", "http://", "https://")
        ):
            raise InvalidInput("http check", target, "a path or an http(s) URL")
        if any(c in "\r\n\0 " for c in self.target + self.method):
            raise InvalidInput("http check", self.target, "no spaces or line breaks")
        pairs: list[Any] = [
            tuple(p) if isinstance(p, list) else p
            for p in words("http check headers", self.headers)
        ]
        object.__setattr__(self, "headers", tuple(pairs))  # hashed for each request
        for pair in pairs:
            if not isinstance(pair, tuple) or list(map(type, pair)) != [str] * 2:
                expected = 'pairs of texts such as (("Accept", "text/plain"),)'
                raise InvalidInput("http check headers", pair, expected)
            if any(c in "\r\n\0" for c in "".join(pair)):
                raise InvalidInput("http check header", pair, "no line breaks")

    def url_for(self, host: str, port: int, scheme: str) -> str:
        """Return the address to ask, or refuse one on a foreign host."""
        if self.target.startswith("/"):
            name = f"[{host}]" if ":" in host else host
            plain = scheme if scheme in ("http", "https") else "http"
            return f"{plain}://{name}:{port}{self.target}"
        asked = urlsplit(self.target).hostname
        if asked != host and not self.foreign:
            expected = f"an address on the instance's own host {host} (or foreign=True)"
            raise InvalidInput("http check", self.target, expected)
        return self.target


@dataclass(frozen=True, slots=True)
class Tcp(_Timing):
    """Open a connection; to the instance's own port unless another is given."""

    kind: ClassVar[str] = "tcp"
    port: int | None = None

    def __post_init__(self) -> None:
        _Timing.__post_init__(self)
        port: Any = self.port
        if port is not None and (type(port) is not int or not 1 <= port <= 65535):
            raise InvalidInput("tcp check", port, "a port from 1 to 65535, or None")


@dataclass(frozen=True, slots=True)
class Grpc(_Timing):
    """Ask the standard gRPC health service; needs the extra `[grpc]`."""

    kind: ClassVar[str] = "grpc"
    service: str = ""


@dataclass(frozen=True, slots=True)
class Script(_Timing):
    """Run a command: exit code 0 passes, 1 warns, anything else fails."""

    kind: ClassVar[str] = "script"
    command: Sequence[str] = ()

    def __post_init__(self) -> None:
        _Timing.__post_init__(self)
        words = self.command
        good = not isinstance(words, str) and words
        if not good or not all(isinstance(word, str) for word in words):
            expected = 'a list of words such as ["pg_isready", "-q"], no shell line'
            raise InvalidInput("script check", words, expected)


@dataclass(frozen=True, slots=True)
class Call(_Timing):
    """Call a function: True, None or a Verdict passes or says; False or an error fails.

    It may be a coroutine function.
    """

    kind: ClassVar[str] = "call"
    function: Callable[[], Any] = lambda: True

    def __post_init__(self) -> None:
        _Timing.__post_init__(self)
        if not callable(self.function):
            raise InvalidInput("call check", self.function, "a function to call")


@dataclass(frozen=True, slots=True)
class Ttl(_Timing):
    """Critical when the service did not report for `interval` seconds."""

    kind: ClassVar[str] = "ttl"


Check = Http | Tcp | Grpc | Script | Call | Ttl


def checks_of(value: Any) -> tuple[Check, ...]:
    """Return the checks that a user gave, or say what they should be."""
    if isinstance(value, Check):
        raise InvalidInput("checks", value, f"a list: [{type(value).__name__}(...)]")
    found = words("checks", value)
    for check in found:
        if not isinstance(check, Check):
            text = isinstance(check, str) and check.startswith("/")
            example = f"Http({check!r})" if text else 'Http("/health"), Tcp() or Ttl()'
            raise InvalidInput("checks", check, f"a check such as {example}")
    return tuple(found)


def verdict_of(answer: Any) -> Verdict:
    """Read what a called function returned."""
    if isinstance(answer, Verdict):
        return answer
    if answer is None or answer is True:
        return Verdict("passing")
    if answer is False:
        return Verdict("critical", "returned False")
    return Verdict("critical", f"returned {answer!r}, expected True, False or Verdict")


@final
class CheckState:
    """Turns single results into a status: thresholds and a guard against flapping.

    The guard follows Nagios: of the last `window` results, more than `high` changes
    start flapping, fewer than `low` end it. While it flaps the status stays critical.
    """

    def __init__(
        self,
        *,
        fails: int,
        passes: int,
        initial: Health,
        window: int = 20,
        high: float = 0.5,
        low: float = 0.25,
    ) -> None:
        self.status: Health = initial
        self.output = ""
        self.flapping = False
        self._fails, self._passes = fails, passes
        self._high, self._low = high, low
        self._streak = 0
        self._good: bool | None = None
        self._recent: deque[bool] = deque(maxlen=window)

    def add(self, verdict: Verdict) -> Health:
        """Take one result and return the status after it."""
        good = verdict.status != "critical"
        self._streak = self._streak + 1 if good == self._good else 1
        self._good = good
        self._recent.append(good)
        self.output = cut(verdict.output)
        self._guard()
        if self.flapping:
            self.status = "critical"
            self.output = cut(f"flapping; {verdict.output}")
        elif good and (
            self.status in ("passing", "warning") or self._streak >= self._passes
        ):
            self.status = verdict.status
        elif not good and self._streak >= self._fails:
            self.status = "critical"
        return self.status

    def _guard(self) -> None:
        results = list(self._recent)
        if len(results) < (self._recent.maxlen or 0) // 2:
            return
        pairs = itertools.pairwise(results)
        share = sum(a != b for a, b in pairs) / (len(results) - 1)
        if share > self._high:
            self.flapping = True
        elif share < self._low:
            self.flapping = False


async def call_function(function: Callable[[], Any]) -> Verdict:
    """Run a callable check, plain ones on a thread."""
    import asyncio

    if inspect.iscoroutinefunction(function):
        return verdict_of(await function())
    answer = await asyncio.to_thread(function)
    if isinstance(answer, Awaitable):
        answer = await answer
    return verdict_of(answer)
