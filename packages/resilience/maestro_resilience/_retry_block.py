"""The block form of a Retry: `for attempt in retry:` with `with attempt:` inside."""

from __future__ import annotations

from maestro_resilience._attempt import AttemptState
from maestro_resilience._policy import Guard
from maestro_resilience._runtime import SWITCH

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any, Self

    from maestro_resilience._retry import Retry


class Block:
    """The state of one `for attempt in retry:` loop."""

    __slots__ = ("retry", "running", "state", "wait")

    def __init__(self, retry: Retry) -> None:
        self.retry = retry
        self.running = True
        self.wait: float | None = None
        self.state = AttemptState(None, (), {}, retry._clock, retry._begin())

    def decide(self) -> bool:
        """Plan the next attempt; return whether there is one."""
        self.wait = self.retry._decide(self.state) if SWITCH.enabled else None
        if self.wait is None:
            self.running = False
        else:
            self.state.advance(self.wait)
        return self.running


class Attempt(Guard):
    """One try of a block; `number` counts from 1.

    An error inside the block is swallowed when another attempt follows, and
    passes through when none does.
    """

    __slots__ = ("_block", "_result", "number")

    def __init__(self, block: Block) -> None:
        self._block = block
        self._result: Any = None
        self.number = block.state.attempt_number

    def set_result(self, value: Any) -> None:
        """Give the value that `on_result` looks at."""
        self._result = value

    def __enter__(self) -> Self:
        # A block that succeeds, or is left by `break`, must not go on.
        self._block.running = False
        self._block.wait = None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        block = self._block
        if error is None:
            block.state.returned(self._result)
            if not block.retry._plain_result:
                block.running = True
                block.decide()
            return False
        if not isinstance(error, Exception):
            return False
        block.state.failed(error)
        block.running = True
        again = block.decide()
        block.state.outcome = None
        return again

    async def __aenter__(self) -> Self:
        return self.__enter__()
