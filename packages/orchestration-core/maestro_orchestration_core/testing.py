"""Fakes and checks for tests of code that uses this package."""

import asyncio
from collections.abc import Callable
from typing import Any, final

from ._context import estimate_tokens, message_tokens
from ._messages import Reply, Request, Usage
from ._retry import CallPolicy
from ._touches import LeaseStore
from .errors import LeaseError, ModelError, OrchestrationError

__all__ = ["CallPolicyChecks", "LeaseStoreChecks", "ScriptedModel", "UnusedStepsError"]

Step = str | Reply | Exception | Callable[[Request], "str | Reply"]


class UnusedStepsError(OrchestrationError):
    """A script said more than was asked."""


@final
class ScriptedModel:
    """A model that answers from a list; `requests` keeps what it was asked.

    A step is a text, a Reply, an exception to raise, or a function of the
    request. Token counts are estimates when a reply has none.
    """

    def __init__(
        self, *steps: Step, name: str = "scripted", repeat: bool = False
    ) -> None:
        self.name = name
        self.requests: list[Request] = []
        self._steps = list(steps)
        self._repeat = repeat

    async def complete(self, request: Request) -> Reply:
        """Answer with the next step."""
        if not self._steps:
            raise UnusedStepsError(
                f"script of {self.name!r} is over after {len(self.requests)} answers"
            )
        self.requests.append(request)
        step = self._steps[0] if self._repeat else self._steps.pop(0)
        if isinstance(step, Exception):
            raise step
        answer = step(request) if callable(step) else step
        reply = answer if isinstance(answer, Reply) else Reply(answer)
        if reply.usage is None:
            usage = Usage(
                input_tokens=message_tokens(request.messages),
                output_tokens=estimate_tokens(reply.text),
            )
            return Reply(
                reply.text, reply.data, usage, reply.tool_calls, reply.finish,
                reply.handoff,
            )  # fmt: skip
        return reply

    def close(self) -> None:
        """Raise UnusedStepsError when answers are left."""
        if self._steps and not self._repeat:
            raise UnusedStepsError(f"{len(self._steps)} steps were not asked for")


class LeaseStoreChecks:
    """The contract of a lease store: subclass it in a test and give `make`."""

    def make(self) -> LeaseStore:
        """Return an empty store."""
        raise NotImplementedError

    def test_one_holder_at_a_time(self) -> None:
        """A second holder is refused until the first lets go."""
        store = self.make()
        store.take("build", "a", ttl=60)
        self._refused(store, "build", "b")
        store.release("build", "a")
        store.take("build", "b", ttl=60)

    def test_fences_grow(self) -> None:
        """Each lease has a larger fencing token than all before."""
        store = self.make()
        first = store.take("x", "a", ttl=60)
        store.release("x", "a")
        assert store.take("x", "b", ttl=60) > first

    def test_patterns_exclude(self) -> None:
        """Names are path patterns; those that can mean one file exclude each other."""
        store = self.make()
        store.take("src/api/**", "a", ttl=60)
        self._refused(store, "src/*/x.py", "b")
        store.take("docs/**", "b", ttl=60)

    def test_shared_leases_go_together(self) -> None:
        """Readers share; a writer waits for all of them."""
        store = self.make()
        store.take("docs/**", "a", ttl=60, shared=True)
        store.take("docs/x", "b", ttl=60, shared=True)
        self._refused(store, "docs/**", "c")

    def test_a_holder_may_take_again(self) -> None:
        """Taking again renews, with a larger token."""
        store = self.make()
        first = store.take("x", "a", ttl=0.0)
        assert store.take("x", "a", ttl=60) > first
        assert store.take("x", "a", ttl=60) > first + 1
        self._refused(store, "x", "b")

    def test_releasing_what_is_not_held_does_nothing(self) -> None:
        """Nobody can let go of another's lease."""
        store = self.make()
        store.take("x", "a", ttl=60)
        store.release("x", "b")
        store.release("y", "a")
        self._refused(store, "x", "b")

    def test_an_expired_lease_is_free(self) -> None:
        """A holder that does not come back loses its lease."""
        store = self.make()
        store.take("x", "a", ttl=0.0)
        store.take("x", "b", ttl=60)

    @staticmethod
    def _refused(store: Any, name: str, holder: str) -> None:
        try:
            store.take(name, holder, ttl=60)
        except LeaseError:
            return
        raise AssertionError(f"{holder} took {name} although it was held")


class CallPolicyChecks:
    """The contract of what surrounds a model call: subclass it and give `make`."""

    def make(self) -> CallPolicy:
        """Return a policy that tries at least three times, without real waits."""
        raise NotImplementedError

    def test_an_answer_passes(self) -> None:
        """What the call returns comes back, called once."""
        calls = _Calls("answer")
        assert self._run(calls) == "answer"
        assert calls.made == 1

    def test_what_may_pass_is_tried_again(self) -> None:
        """A ModelError with `retry` is not the end."""
        calls = _Calls(ModelError("busy", retry=True), ModelError("x", retry=True), "a")
        assert self._run(calls) == "a"
        assert calls.made == 3

    def test_what_cannot_pass_is_raised_at_once(self) -> None:
        """An error without `retry` comes out as it is."""
        error = ModelError("bad request", status=400)
        calls = _Calls(error, "never")
        assert self._caught(calls) is error
        assert calls.made == 1

    def test_foreign_errors_are_raised_at_once(self) -> None:
        """A mistake in the caller's code is not tried again."""
        error = KeyError("mistake")
        calls = _Calls(error, "never")
        assert self._caught(calls) is error
        assert calls.made == 1

    def test_it_gives_up(self) -> None:
        """A call that never succeeds ends with a ModelError."""
        calls = _Calls(*[ModelError("busy", retry=True)] * 1000)
        assert isinstance(self._caught(calls), ModelError)
        assert calls.made >= 3

    def test_cancelling_is_not_swallowed(self) -> None:
        """A cancelled call is cancelled, not tried again."""
        calls = _Calls(asyncio.CancelledError(), "never")
        assert isinstance(self._caught(calls), asyncio.CancelledError)
        assert calls.made == 1

    def _run(self, calls: "_Calls") -> str:
        async def main() -> str:
            return await self.make().call(calls.next)

        return asyncio.run(main())

    def _caught(self, calls: "_Calls") -> BaseException:
        try:
            self._run(calls)
        except BaseException as error:
            return error
        raise AssertionError("nothing was raised")


class _Calls:
    """A call that comes out as told, one step each time."""

    def __init__(self, *steps: str | BaseException) -> None:
        self._steps = list(steps)
        self.made = 0

    async def next(self) -> str:
        self.made += 1
        step = self._steps.pop(0)
        if isinstance(step, BaseException):
            raise step
        return step
