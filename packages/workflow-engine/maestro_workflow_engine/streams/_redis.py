"""The only place that imports redis-py."""

from typing import Any

from maestro_workflow_engine._arguments import wrong

# redis-py's annotations allow text, bytes and None everywhere; these clients always
# answer bytes. Any says so once, instead of a cast at each call.
Client = Any

MISSING = (
    "maestro_workflow_engine.streams needs redis-py: "
    'pip install "maestro-workflow-engine[redis]"'
)
# A read blocks this long; the socket must wait longer, or it gives up first.
BLOCK_MS = 1000
SOCKET_TIMEOUT = 10.0
SCHEMES = ("redis://", "rediss://", "unix://")


def check_url(owner: str, url: object) -> None:
    """Refuse what is no URL of a Redis, before anything connects."""
    if not isinstance(url, str) or not url.startswith(SCHEMES):
        raise wrong(owner, "url", "a URL such as redis://127.0.0.1:6379/0", url)


def connect(url: str) -> Client:
    """Return a client that answers bytes.

    Raises:
        ImportError: redis-py is not installed.
        OptionError: this is no URL of a Redis.
    """
    check_url("connect()", url)
    try:
        import redis
    except ImportError as error:
        raise ImportError(MISSING) from error
    return redis.Redis.from_url(url, **_options())


def connect_async(url: str) -> Client:
    """Return an asyncio client that answers bytes.

    Raises:
        ImportError: redis-py is not installed.
    """
    try:
        import redis.asyncio as redis
    except ImportError as error:
        raise ImportError(MISSING) from error
    return redis.Redis.from_url(url, **_options())


def connection_errors() -> tuple[type[Exception], ...]:
    """Return what a lost or busy server raises; worth trying again."""
    from redis import exceptions

    return (
        exceptions.ConnectionError,
        exceptions.TimeoutError,
        exceptions.BusyLoadingError,
        exceptions.ReadOnlyError,
        OSError,
    )


def response_error() -> type[Exception]:
    """Return what the server raises for a command it refuses."""
    from redis import exceptions

    return exceptions.ResponseError


def _options() -> dict[str, Any]:
    return {
        "socket_timeout": SOCKET_TIMEOUT,
        "socket_connect_timeout": 5.0,
        "socket_keepalive": True,
        "decode_responses": False,
    }
