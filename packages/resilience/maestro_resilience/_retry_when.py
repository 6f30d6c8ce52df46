"""What a Retry looks at in an outcome: is it worth another try, and how soon."""

from __future__ import annotations

import sys

from maestro_resilience import _checks
from maestro_resilience.errors import (
    CircuitOpen,
    ConfigurationError,
    DeadlineExceeded,
    Rejected,
    TimeoutExceeded,
)
from maestro_resilience.http import retry_after_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from tenacity import RetryCallState
    from tenacity.retry import retry_base

    from maestro_resilience._attempt import AttemptState
    from maestro_resilience._checks import ExceptionTest

    RetryTest = ExceptionTest | retry_base | Callable[[RetryCallState], bool]


def _is_tenacity(value: object) -> bool:
    """Tell one of tenacity's retry objects, which ask the state, from a predicate."""
    if "tenacity" not in sys.modules:  # then nobody can have made one
        return False
    from tenacity.retry import retry_base

    return isinstance(value, retry_base)


class When:
    """Which outcomes ask for another attempt: `on=` and `on_result=`."""

    __slots__ = ("_on", "_on_result", "asks_state")

    def __init__(
        self, me: str, on: RetryTest, on_result: Callable[[Any], bool] | None
    ) -> None:
        self.asks_state: Callable[[Any], Any] | None = None
        self._on: _checks.ExceptionFilter | None = None
        if _is_tenacity(on):
            self.asks_state = on  # type: ignore[assignment]  # a function of the state
        else:
            self._on = _checks.ExceptionFilter(me, "on", on)
        if on_result is not None and self.asks_state is not None:
            raise ConfigurationError(
                me, "on_result", on_result, "None beside one of tenacity's strategies"
            )
        self._on_result = (
            None
            if on_result is None
            else _checks.predicate(me, "on_result", on_result, "True to try again")
        )

    @property
    def ignores_results(self) -> bool:
        """Whether a returned value ends the call without anybody being asked."""
        return self._on_result is None and self.asks_state is None

    def wanted(self, state: AttemptState) -> Any:
        """Tell whether the outcome asks for another attempt; perhaps as an awaitable."""
        outcome = state.outcome
        if outcome is None:
            return False
        error = outcome.exception()
        try:
            if isinstance(error, DeadlineExceeded):
                return False
            if self.asks_state is not None:
                return self.asks_state(state)
            if error is None:
                test = self._on_result
                return test is not None and bool(test(outcome.result()))
            return self._on is not None and self._on(error)
        finally:
            del error, outcome  # error -> traceback -> this frame -> error


class AskedWait:
    """The wait that an error itself asks for."""

    __slots__ = ("_abandoned", "_honour", "_most")

    def __init__(self, *, honour: bool, most: float, abandoned: bool) -> None:
        self._honour = honour
        self._most = most
        self._abandoned = abandoned

    def heed(self, error: Exception, wait: float) -> tuple[float, str]:
        """Return the wait after the error had its say, or a reason to give up."""
        if isinstance(error, TimeoutExceeded):
            gone = error.abandoned and not self._abandoned
            return wait, "abandoned" if gone else ""
        if isinstance(error, CircuitOpen) and error.retry_after is None:
            return wait, "retry_after"
        if not self._honour:
            return wait, ""
        asked = retry_after_of(error)
        if asked is None:
            return wait, ""
        if asked > self._most:
            if isinstance(error, Rejected):
                return wait, "retry_after"  # waiting less would only be rejected again
            asked = self._most
        return max(wait, asked), ""
