"""What the tests of this package share."""

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

import pytest
from maestro_resilience.testing import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    """Return a clock that only the test moves."""
    return FakeClock()


class Mode:
    """Run the same case with a sync or an async function."""

    def __init__(self, name: str) -> None:
        self.name = name

    def function(self, body: Callable[..., Any]) -> Callable[..., Any]:
        """Return `body` as a sync or async function."""
        if self.name == "sync":
            return body

        async def async_body(*args: Any, **kwargs: Any) -> Any:
            return body(*args, **kwargs)

        return async_body

    def run(self, guarded: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a guarded function to its end."""
        assert inspect.iscoroutinefunction(guarded) == (self.name == "async")
        if self.name == "sync":
            return guarded(*args, **kwargs)
        return asyncio.run(guarded(*args, **kwargs))


@pytest.fixture(params=["sync", "async"])
def mode(request: pytest.FixtureRequest) -> Mode:
    """Run the test twice: sync and async."""
    return Mode(request.param)
