"""What a circuit breaker takes for a failure, and how many are too many."""

from __future__ import annotations

from maestro_resilience import _checks
from maestro_resilience._window import FAILED, OK
from maestro_resilience.errors import ConfigurationError, Rejected

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from maestro_resilience._checks import ExceptionTest


class BadResult(Exception):
    """Stand for a returned value that `on_result` calls a failure."""


class Judge:
    """Decide what one outcome says about the service."""

    __slots__ = ("_ignore", "_record", "_record_all", "on_result")

    def __init__(
        self,
        me: str,
        record: ExceptionTest,
        ignore: ExceptionTest,
        on_result: Callable[[Any], bool] | None,
    ) -> None:
        self._record = _checks.ExceptionFilter(me, "record", record)
        self._record_all = record is Exception
        self._ignore = (
            _checks.ExceptionFilter(me, "ignore", ignore) if ignore != () else None
        )
        self.on_result = (
            None
            if on_result is None
            else _checks.predicate(me, "on_result", on_result, "True for a failure")
        )

    def verdict(self, error: BaseException) -> int | None:
        """Return FAILED, OK, or None when the exception counts as neither."""
        if not isinstance(error, Exception) or isinstance(error, Rejected):
            return None
        if isinstance(error, BadResult):
            return FAILED
        if self._ignore is not None and self._ignore(error):
            return None
        return FAILED if self._record_all or self._record(error) else OK


class Rates:
    """The shares of failed and of slow calls that open the circuit."""

    __slots__ = ("_failure_rate", "_minimum_calls", "_slow_rate", "slow_call")

    def __init__(
        self,
        me: str,
        failure_rate: float,
        minimum_calls: int,
        slow_call: float | None,
        slow_rate: float,
    ) -> None:
        self._failure_rate = _checks.number(
            me, "failure_rate", failure_rate, above=0, most=1
        )
        self._minimum_calls = _checks.whole(me, "minimum_calls", minimum_calls)
        self.slow_call = (
            None
            if slow_call is None
            else _checks.number(me, "slow_call", slow_call, above=0)
        )
        self._slow_rate = _checks.number(me, "slow_rate", slow_rate, above=0, most=1)

    def fit_into(self, me: str, window_calls: int | None) -> int | None:
        """Return the size of the count window if `minimum_calls` fits into it."""
        if window_calls is None:
            return None
        _checks.whole(me, "window_calls", window_calls)
        if window_calls < self._minimum_calls:
            raise ConfigurationError(
                me,
                "minimum_calls",
                self._minimum_calls,
                f"at most window_calls ({window_calls}): the window never holds more",
            )
        return window_calls

    def cause(self, calls: int, failures: int, slow: int) -> str:
        """Return why these counts open the circuit; empty when they do not."""
        if calls < self._minimum_calls:
            return ""
        if failures / calls >= self._failure_rate:
            return f"{failures} of {calls} calls failed"
        if self.slow_call is not None and slow / calls >= self._slow_rate:
            return f"{slow} of {calls} calls took {self.slow_call:g} s or more"
        return ""
