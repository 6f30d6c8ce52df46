"""Timeout: stop waiting for a call that takes too long.

Async calls are cancelled. A sync call cannot be stopped from outside in Python, so
there are three ways, each with its price; see `Timeout`.
"""

from __future__ import annotations

from maestro_resilience import _checks
from maestro_resilience._deadline import DEADLINE
from maestro_resilience._policy import Guard, Policy, settings
from maestro_resilience._runtime import SWITCH, renew_after_fork
from maestro_resilience._signals import tell
from maestro_resilience.errors import (
    DeadlineExceeded,
    TimeoutExceeded,
    WorkersExhausted,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable
    from contextvars import Token
    from types import TracebackType
    from typing import Any, Self

    from maestro_resilience._runtime import Clock
    from maestro_resilience._watchdog import Watchdog, Watchdogs
    from maestro_resilience._workers import Job
    from maestro_resilience.events import Listener


class Timeout(Policy):
    """Raise TimeoutExceeded when a call takes longer than `seconds`.

    Inside a Retry it limits each attempt, outside it limits all of them together.
    An enclosing `deadline()` or Timeout can only shorten it; `time_remaining()`
    tells the code inside what is left.

    An async call is cancelled, with the rules of asyncio.timeout(). For a sync call:

    - ``sync="thread"`` runs it on a daemon thread and stops waiting. The call itself
      runs on to its end (`WorkAbandoned`, then `AbandonedWorkEnded` are told), and
      thread-local state of the caller is not seen in it; context variables are.
    - ``sync="deadline"`` runs it in place and only sets the deadline, so whatever
      looks at `time_remaining()` stops in time; nothing is interrupted.
    - ``sync="signal"`` interrupts it in place by SIGALRM: main thread only, and only
      if nothing else uses that timer.

    Args:
        seconds: more than 0.
        sync: what to do for sync functions.
        max_abandoned: with so many timed-out calls still running, further sync
            calls are rejected with WorkersExhausted.
        name: appears in errors and events.
        clock: time source for deadlines; the waiting itself is real.
        listeners: functions that get this policy's events.
    """

    __slots__ = ("_abandoned", "_dogs", "_max_abandoned", "_mode", "seconds")

    kind = "timeout"
    _instead = "decorate a function, or use sync='deadline' or sync='signal'"

    def __init__(
        self,
        seconds: float,
        *,
        sync: str = "thread",
        max_abandoned: int = 16,
        name: str | None = None,
        clock: Clock | None = None,
        listeners: Iterable[Listener] = (),
    ) -> None:
        config = settings(locals(), type(self).__init__)
        super().__init__(name, clock=clock, listeners=listeners, config=config)
        me = f"Timeout {self.name!r}"
        self.seconds = _checks.number(me, "seconds", seconds, above=0)
        self._mode = _checks.choice(me, "sync", sync, ("thread", "deadline", "signal"))
        self._max_abandoned = _checks.whole(me, "max_abandoned", max_abandoned)
        self._abandoned: set[Job] = set()
        self._dogs: Watchdogs | None = None  # asyncio is imported with the first task
        renew_after_fork(self)

    def _after_fork(self) -> None:
        self._abandoned = set()  # their threads stayed behind in the parent

    @property
    def abandoned(self) -> int:
        """How many timed-out sync calls still run."""
        return len(self._abandoned)

    def _until(self) -> tuple[float, float, bool]:
        """Return now, the end, and whether an outer deadline sets it."""
        now = self._clock.monotonic()
        until = now + self.seconds
        outer = DEADLINE.get()
        if outer is None or outer >= until:
            return now, until, False
        if outer <= now:
            raise DeadlineExceeded(self.name)
        return now, outer, True

    def _expired(
        self, seconds: float, *, clamped: bool, abandoned: bool = False
    ) -> TimeoutExceeded:
        tell(self, "TimedOut", seconds=seconds)
        error = DeadlineExceeded if clamped else TimeoutExceeded
        return error(self.name, seconds, abandoned=abandoned)

    # --- async ------------------------------------------------------------------------

    def _all_dogs(self) -> Watchdogs:
        if self._dogs is None:
            from maestro_resilience._watchdog import Watchdogs

            self._dogs = Watchdogs()
        return self._dogs

    def _async(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        async def timeout(*args: Any, **kwargs: Any) -> Any:
            if not SWITCH.enabled:
                return await fn(*args, **kwargs)
            watch = Watch(self)
            watch.enter()
            try:
                result = await fn(*args, **kwargs)
            except BaseException as error:
                if watch.leave(error):
                    raise self._expired(watch.seconds, clamped=watch.clamped) from error
                raise
            watch.leave(None)
            return result

        return timeout

    # --- sync -------------------------------------------------------------------------

    def _sync(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        shell = {
            "thread": self._in_thread,
            "deadline": self._in_place,
            "signal": self._by_signal,
        }[self._mode]

        def timeout(*args: Any, **kwargs: Any) -> Any:
            if not SWITCH.enabled:
                return fn(*args, **kwargs)
            return shell(fn, args, kwargs)

        return timeout

    def _in_place(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        _, until, _ = self._until()
        outer = DEADLINE.get()
        try:
            DEADLINE.set(until)
            return fn(*args, **kwargs)
        finally:  # not reset(token): a ^C may come before the token is stored
            DEADLINE.set(outer)

    def _by_signal(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        with SignalGuard(self):
            return fn(*args, **kwargs)

    def _in_thread(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        from maestro_resilience._workers import WORKERS, Job

        now, until, clamped = self._until()
        if len(self._abandoned) >= self._max_abandoned:
            self._forget_ended()
        if len(self._abandoned) >= self._max_abandoned:
            rejected = WorkersExhausted(self.name, None, len(self._abandoned))
            tell(self, "CallRejected", error=rejected)
            raise rejected
        outer = DEADLINE.get()
        try:
            DEADLINE.set(until)  # the job copies the context
            job = Job(fn, args, kwargs)
        finally:
            DEADLINE.set(outer)
        seconds = until - now
        try:
            WORKERS.start(job)
            ended = job.done.acquire(timeout=seconds)
        except BaseException:  # ^C while waiting: the call runs on all the same
            self._abandon(job, now)
            raise
        if not ended:
            abandoned = self._abandon(job, now)
            if abandoned or job.dropped:
                raise self._expired(seconds, clamped=clamped, abandoned=abandoned)
        return job.outcome()

    def _abandon(self, job: Job, started: float) -> bool:
        # Noted before the handover, so that the end of the call always finds it.
        self._abandoned.add(job)
        if not job.abandon(lambda job: self._ended_late(job, started)):
            self._abandoned.discard(job)
            return False
        tell(self, "WorkAbandoned", running=len(self._abandoned))
        return True

    def _forget_ended(self) -> None:
        # A second ^C, while the first one abandons a call, may leave it noted.
        for job in list(self._abandoned):
            if job.finished or job.dropped:
                self._abandoned.discard(job)

    def _ended_late(self, job: Job, started: float) -> None:
        self._abandoned.discard(job)
        spent = self._clock.monotonic() - started
        tell(self, "AbandonedWorkEnded", seconds=spent, error=job.error)

    def guard(self) -> Guard:
        """Return a context manager for one block.

        `async with` cancels the block. `with` needs sync="deadline" or "signal": a
        block cannot move to another thread.
        """
        return TimeoutGuard(self)


class Watch:
    """One async passage: the deadline set, the task under the watchdog's eye."""

    __slots__ = ("_dog", "_handle", "_timeout", "_token", "clamped", "seconds")

    def __init__(self, timeout: Timeout) -> None:
        self._timeout = timeout
        self._handle: asyncio.TimerHandle | None = None
        self._dog: Watchdog | None = None
        self._token: Token[float | None] | None = None
        self.seconds = timeout.seconds
        self.clamped = False

    def enter(self) -> None:
        """Start watching the current task."""
        import asyncio

        now, until, self.clamped = self._timeout._until()
        self.seconds = until - now
        loop = asyncio.get_running_loop()
        task = asyncio.current_task(loop)
        if task is None:
            raise RuntimeError("a Timeout needs a running asyncio task")
        dog = self._dog = self._timeout._all_dogs().find(loop)
        token = self._token = DEADLINE.set(until)
        if self.clamped:
            # It ends before its turn in the queue. The extra moment lets an outer
            # Timeout, which set this end, be the one that speaks.
            self._handle = loop.call_later(
                self.seconds + 0.001, dog.expire, id(token), task, task.cancelling()
            )
            return
        end = loop.time() + self.seconds
        dog.pending[id(token)] = (task, end, task.cancelling())
        if not dog.armed:
            dog.arm(loop, end)

    def leave(self, error: BaseException | None) -> bool:
        """Stop watching; tell whether the error is this timeout's own cancellation."""
        dog, token = self._dog, self._token
        if dog is None or token is None:
            return False
        DEADLINE.reset(token)
        if self._handle is not None:
            self._handle.cancel()
        dog.pending.pop(id(token), None)
        expiry = dog.expired.pop(id(token), None)
        return expiry is not None and expiry.timed_out(error)


class TimeoutGuard(Guard):
    """One block under a Timeout."""

    __slots__ = ("_block", "_timeout", "_watch")

    def __init__(self, timeout: Timeout) -> None:
        self._timeout = timeout
        self._watch: Watch | None = None
        self._block: Any = None

    def __enter__(self) -> Self:
        mode = self._timeout._mode
        if mode == "thread":
            raise TypeError(
                "Timeout(sync='thread') cannot guard a block of sync code: a block "
                f"cannot move to a thread; {self._timeout._instead}"
            )
        if SWITCH.enabled:
            kind = SignalGuard if mode == "signal" else DeadlineGuard
            self._block = kind(self._timeout)
            self._block.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._block is not None:
            self._block.__exit__(kind, error, trace)

    async def __aenter__(self) -> Self:
        if SWITCH.enabled:
            self._watch = Watch(self._timeout)
            self._watch.enter()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        watch = self._watch
        if watch is not None and watch.leave(error):
            raise self._timeout._expired(
                watch.seconds, clamped=watch.clamped
            ) from error


class DeadlineGuard:
    """Set the deadline for a block, without interrupting it."""

    __slots__ = ("_outer", "_timeout")

    def __init__(self, timeout: Timeout) -> None:
        self._timeout = timeout
        self._outer: float | None = None

    def __enter__(self) -> None:
        _, until, _ = self._timeout._until()
        self._outer = DEADLINE.get()
        try:
            DEADLINE.set(until)
        except BaseException:  # a ^C in this very moment
            self.__exit__()
            raise

    def __exit__(self, *exception: object) -> None:
        DEADLINE.set(self._outer)


class SignalGuard:
    """Interrupt a block of the main thread by SIGALRM."""

    __slots__ = ("_clamped", "_handler", "_outer", "_seconds", "_timeout")

    def __init__(self, timeout: Timeout) -> None:
        self._timeout = timeout
        self._outer: float | None = None
        self._handler: Any = None
        self._clamped = False
        self._seconds = 0.0

    def __enter__(self) -> None:
        import signal
        import threading

        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError(
                "Timeout(sync='signal') works in the main thread only; "
                "use sync='thread' or sync='deadline' here"
            )
        left, _ = signal.getitimer(signal.ITIMER_REAL)
        if left:
            raise RuntimeError("the interval timer of this process is already in use")
        now, until, self._clamped = self._timeout._until()
        self._seconds = until - now
        self._outer = DEADLINE.get()
        self._handler = signal.getsignal(signal.SIGALRM)
        try:
            DEADLINE.set(until)
            signal.signal(signal.SIGALRM, self._ring)
            signal.setitimer(signal.ITIMER_REAL, self._seconds)
        except BaseException:  # a ^C before the block has begun
            self.__exit__()
            raise

    def _ring(self, signum: int, frame: object) -> None:
        raise self._timeout._expired(self._seconds, clamped=self._clamped)

    def __exit__(self, *exception: object) -> None:
        import signal

        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self._handler)
        DEADLINE.set(self._outer)
