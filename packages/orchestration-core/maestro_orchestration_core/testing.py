"""Fakes and checks for tests of code that uses this package."""

from collections.abc import Callable
from typing import Any, final

from ._leases import LeaseStore
from ._messages import Reply, Request, Usage
from ._tokens import estimate_tokens, message_tokens
from .errors import LeaseError, OrchestrationError

__all__ = ["LeaseStoreChecks", "ScriptedModel", "UnusedStepsError"]

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
