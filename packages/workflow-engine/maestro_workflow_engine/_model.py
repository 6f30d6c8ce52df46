"""The values that the rest of the package speaks in: options, nodes, states."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, final

from ._arguments import hinted, whole, wrong
from .errors import OptionError

Kind = Literal["python", "async", "command", "gate", "barrier"]
RunOn = Literal["success", "failure", "always"]

# States of a step. Small integers, because a run keeps them in one bytearray.
PENDING, READY, RUNNING, WAITING, SUCCEEDED, FAILED, SKIPPED, CANCELLED = range(8)
INTERRUPTED = 8
STATE_NAMES = (
    "pending", "ready", "running", "waiting", "succeeded",
    "failed", "skipped", "cancelled", "interrupted",
)  # fmt: skip
DONE = (SUCCEEDED, FAILED, SKIPPED, CANCELLED)

# The one table of legal moves. A finished step never moves again.
LEGAL: Mapping[int, frozenset[int]] = {
    PENDING: frozenset({READY, WAITING, SUCCEEDED, FAILED, SKIPPED, CANCELLED}),
    READY: frozenset({RUNNING, WAITING, CANCELLED, SUCCEEDED, FAILED, SKIPPED}),
    RUNNING: frozenset({SUCCEEDED, FAILED, WAITING, CANCELLED, INTERRUPTED, READY}),
    WAITING: frozenset({READY, SUCCEEDED, FAILED, SKIPPED, CANCELLED}),
    INTERRUPTED: frozenset({READY, SUCCEEDED, SKIPPED, FAILED, CANCELLED, PENDING}),
    SUCCEEDED: frozenset(),
    FAILED: frozenset(),
    SKIPPED: frozenset(),
    CANCELLED: frozenset(),
}
# The same table as one string of bits: a lookup in the hot path.
MOVES = bytes(
    new in LEGAL.get(old, frozenset()) for old in range(16) for new in range(16)
)

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_UNITS["w"] = 7 * 86400.0
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|min|s|m|h|d|w)")


def seconds(value: float | str) -> float:
    """Return a duration in seconds: `90`, `"90s"`, `"1m30s"`, `"250ms"`, `"2h"`.

    Raises:
        OptionError: the text is no duration, or it is negative.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise _no_duration(value)
    if isinstance(value, int | float):
        if not 0 <= value < float("inf"):
            raise OptionError("", f"expected a duration of 0 or more, got {value!r}")
        return float(value)
    text = value.strip()
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    parts = _PART.findall(text)
    if not parts or _PART.sub("", text).strip():
        raise _no_duration(value)
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def _no_duration(value: object) -> OptionError:
    return OptionError(
        "", f"expected a duration such as '1m30s', '250ms' or 90, got {value!r}", value
    )


@hinted
@dataclass(frozen=True, slots=True)
class Retry:
    """How often a step is tried, and how long it rests in between.

    Args:
        attempts: tries in all, the first included; at least 1.
        wait: rest before a retry: `"2s"` always, `"1s..30s"` doubling from one to
            the other.
        on: the exceptions worth a retry; a lost worker and a timeout always are.

    Raises:
        OptionError: one of these does not fit.
    """

    attempts: int = 3
    wait: float | str = 0.0
    on: tuple[type[BaseException], ...] = (Exception,)
    _range: tuple[float, float] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        whole("Retry", "attempts", self.attempts)
        first, dots, last = (
            self.wait.partition("..") if isinstance(self.wait, str) else ("", "", "")
        )
        try:
            low = seconds(first if dots else self.wait)
            high = seconds(last) if dots else low
        except OptionError:
            some = "a duration such as '2s', or a range such as '1s..30s'"
            raise wrong("Retry", "wait", some, self.wait) from None
        if high < low:
            raise wrong("Retry", "wait", "a range that grows", self.wait)
        on: Any = self.on
        kinds = tuple(on) if isinstance(on, tuple | list) else (on,)
        if not all(isinstance(k, type) and issubclass(k, BaseException) for k in kinds):
            raise wrong("Retry", "on", "exceptions such as (OSError,)", self.on)
        object.__setattr__(self, "on", kinds)
        object.__setattr__(self, "_range", (low, high))

    def delay(self, failed: int) -> float:
        """Return the rest in seconds after the `failed`-th failed attempt."""
        low, high = self._range
        return float(min(high, low * 2 ** min(failed - 1, 60)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """What a step does and how: shared by all nodes that one `@step` makes."""

    name: str
    kind: Kind = "python"
    target: Callable[..., Any] | None = None
    ref: str | None = None
    argv: tuple[Any, ...] = ()
    cwd: str | None = None
    env: Mapping[str, str] | None = None
    retry: Retry | None = None
    timeout: float | None = None
    pools: tuple[tuple[str, int], ...] = ()
    estimate: float | None = None
    cache: bool = False
    version: str | None = None
    once: bool = False
    compensate: Spec | None = None
    run_on: RunOn = "success"
    wants_ctx: bool = False
    capture: Literal["text", "lines", "json", "none"] = "text"


@final
class Ref:
    """A placeholder for the result of a step that has not run yet.

    `ref["key"]` and `ref[0]` stand for a part of the result. It has no truth
    value and cannot be iterated: those need the value itself.
    """

    __slots__ = ("index", "name", "path")

    def __init__(self, index: int, name: str, path: tuple[Any, ...] = ()) -> None:
        self.index = index
        self.name = name
        self.path = path

    def __getitem__(self, key: Any) -> Ref:
        return Ref(self.index, self.name, (*self.path, key))

    def __bool__(self) -> bool:
        raise TypeError(
            f"the result of {self.name!r} is not known while the workflow is defined; "
            "give it to a step, or to when="
        )

    def __iter__(self) -> Iterator[Any]:
        raise TypeError(
            f"the result of {self.name!r} is not known while the workflow is defined; "
            "use a_step.map(...) to run a step for each item"
        )

    def __repr__(self) -> str:
        return f"<result of {self.name}{''.join(f'[{p!r}]' for p in self.path)}>"

    def pick(self, value: Any) -> Any:
        """Return the part of `value` that this placeholder stands for."""
        for key in self.path:
            value = value[key]
        return value


class Late(Protocol):
    """Something in a step's arguments that is worked out when the step starts."""

    def evaluate(self, result_of: Callable[[str], Any], params: Any) -> Any: ...


class Mapping_(NamedTuple):  # noqa: N801 - Mapping is taken, and this is private
    """How a node fans out: the items, items per step, and a guess for plans."""

    items: Any
    chunk: int
    expect: int


@final
class Node:
    """One step of one workflow: what to call, with what, after which others."""

    __slots__ = (
        "after", "args", "direct", "kwargs", "mapping", "name", "needs", "spec", "when",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        spec: Spec,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        needs: tuple[int, ...] = (),
        after: tuple[int, ...] = (),
        when: Any = True,  # noqa: FBT002 - private
        mapping: Mapping_ | None = None,
        direct: bool = False,  # noqa: FBT001, FBT002 - private
    ) -> None:
        self.name = name
        self.spec = spec
        self.args = args
        self.kwargs = kwargs
        self.needs = needs  # every step it waits for, as positions in the workflow
        self.after = after  # those of them whose result it does not use
        self.when = when
        self.mapping = mapping
        # Always run, with the results of `needs` in their order and nothing else: most
        # steps of large graphs are like that, and much about them is simpler.
        self.direct = direct

    def __repr__(self) -> str:
        return f"<step {self.name}>"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepContext:
    """What a step can know about itself: ask for it with a parameter named `ctx`.

    `idempotency_key` stays the same over all attempts of a step in a run, resumed
    or not: give it to services that drop repeated requests.
    """

    run_id: str
    step: str
    attempt: int
    idempotency_key: str
    flag: Sequence[bool] = ()

    @property
    def cancelled(self) -> bool:
        """Whether the step was told to stop; long steps on threads look now and then."""
        return bool(self.flag)


@final
class Attempt:
    """One try of one step, as an executor gets it. Treat it as read-only.

    `args` and `kwargs` are complete. `chunked` means that `args[0]` is a list, and
    that the function is called once for each of its items.
    """

    __slots__ = (
        "args", "chunked", "epoch", "flag", "index", "kwargs", "number", "run_id",
        "spec", "step", "stopped",
    )  # fmt: skip

    def __init__(
        self,
        run_id: str,
        index: int,
        step: str,
        number: int,
        spec: Spec,
        args: Sequence[Any],
        kwargs: dict[str, Any],
        chunked: bool,  # noqa: FBT001 - private
        epoch: int = 0,
    ) -> None:
        self.run_id = run_id
        self.index = index
        self.step = step
        self.number = number
        self.spec = spec
        self.args = args
        self.kwargs = kwargs
        self.chunked = chunked
        self.epoch = epoch
        self.flag: list[bool] | None = None
        self.stopped: str | None = None  # why the scheduler asked it to stop

    @property
    def id(self) -> str:
        """A name that no other attempt has, in this run or another."""
        return f"{self.run_id}/{self.step}/{self.number}/{self.epoch}"

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt of this step in this run."""
        return f"{self.run_id}/{self.step}"

    def context(self) -> StepContext:
        """Return what `ctx` is where the attempt runs, outside this process."""
        return StepContext(
            run_id=self.run_id,
            step=self.step,
            attempt=self.number,
            idempotency_key=self.idempotency_key,
        )

    def call(self) -> Any:
        """Call the step's function; for executors that run Python."""
        target = self.spec.target
        assert target is not None
        if self.chunked:
            return [target(item, **self.kwargs) for item in self.args[0]]
        return target(*self.args, **self.kwargs)


class Outcome(NamedTuple):
    """How an attempt ended: what an executor hands back through `done`.

    `error` is None for a success. `started` and `ended` are wall-clock times
    (`time.time()`); `worker` names what ran it. `lost` means that the worker died
    before it could answer, `unstarted` that the attempt never began.
    """

    attempt: Attempt
    value: Any
    error: BaseException | None
    started: float
    ended: float
    worker: str
    lost: bool = False
    unstarted: bool = False


class StepExecutor(Protocol):
    """Where attempts run: a batch in, one callback for each.

    The engine keeps graph, journal, retries and results; an executor only runs
    attempts. `start` must not block for the length of a step (the inline executor,
    which has nothing else, excepted). `cancel` leads to a call of `done` too: at
    once when the work cannot be stopped, else when it has. `done` may be called
    from any thread, once for each attempt.
    """

    slots: int

    def start(
        self, attempts: Sequence[Attempt], done: Callable[[Outcome], None]
    ) -> None: ...

    def cancel(self, attempt: Attempt) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that happened in a run, as listeners get it. `at` is epoch seconds."""

    run_id: str
    step: str
    attempt: int
    kind: str
    at: float
    note: str | None = None
    seconds: float | None = None
    worker: str | None = None
