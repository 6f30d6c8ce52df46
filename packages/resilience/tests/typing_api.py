"""What type checkers must agree on; mypy --strict runs over this file in a test."""

from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, assert_type

from maestro_resilience import (
    Bulkhead,
    CircuitBreaker,
    Fallback,
    Hedge,
    Pipeline,
    Retry,
    State,
    Timeout,
    deadline,
    time_remaining,
)

breaker = CircuitBreaker("billing", failure_rate=0.5, ignore=(ValueError,))
pipeline = Pipeline(Fallback(value=None), Retry(attempts=2), breaker, Bulkhead(3))


@pipeline
def plain(user: str, *, limit: int = 3) -> list[str]:
    return [user] * limit


@Retry(on=(OSError, lambda error: "soft" in str(error)), wait=[0.1, 0.5])
async def later(user: str) -> int:
    return len(user)


@breaker
def stream(n: int) -> Iterator[int]:
    yield from range(n)


@breaker
async def async_stream(n: int) -> AsyncIterator[int]:
    yield n


class Client:
    @Timeout(2.0)
    def get(self, key: str) -> bytes:
        return key.encode()

    @Hedge(0.1)
    async def fetch(self, key: str) -> bytes:
        return key.encode()

    @breaker
    @classmethod
    def make(cls, size: int) -> "Client":
        return cls()


def check(client: Client) -> None:
    assert_type(plain("ada", limit=2), list[str])
    # Annotated, not asserted: pyright names the same thing CoroutineType.
    first: Coroutine[Any, Any, int] = later("ada")
    assert_type(stream(3), Iterator[int])
    assert_type(async_stream(3), AsyncIterator[int])
    assert_type(client.get("k"), bytes)
    second: Coroutine[Any, Any, bytes] = client.fetch("k")
    get: Callable[[str], bytes] = client.get
    get("k")
    first.close()
    second.close()
    assert_type(Client.make(3), Client)
    assert_type(breaker.call(plain, "ada", limit=1), list[str])
    assert_type(breaker.state, State)
    assert_type(time_remaining(), float | None)
    with deadline(5.0), breaker.guard():
        pass
    for attempt in Retry(attempts=3):
        with attempt:
            assert_type(attempt.number, int)


def refused(client: Client) -> None:
    # mypy reports an ignore that hides nothing, so each of these must be an error.
    plain(3)  # type: ignore[arg-type]
    plain("ada", limits=2)  # type: ignore[call-arg]
    client.get()  # type: ignore[call-arg]
    breaker.call(plain, 3)  # type: ignore[arg-type]
