"""Read Retry-After as servers send it.

Source: RFC 9110, section 10.2.3 (delay-seconds or HTTP-date).
"""

from __future__ import annotations

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["parse_retry_after", "retry_after_of"]


def parse_retry_after(
    value: object, *, wall_clock: Callable[[], float] = time.time
) -> float | None:
    """Return the seconds that a Retry-After value asks for, or None.

    A date in the past, a negative number and anything unreadable give None.
    """
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, (int, float)):
        return _usable(float(value))
    text = str(value).strip()
    if text.isascii() and text.replace(".", "", 1).isdigit():
        return _usable(float(text))
    from email.utils import parsedate_to_datetime

    try:
        when = parsedate_to_datetime(text)
    except (TypeError, ValueError, IndexError):
        return None
    if when.tzinfo is None:
        from datetime import UTC

        when = when.replace(tzinfo=UTC)
    return _usable(when.timestamp() - wall_clock())


def _usable(seconds: float) -> float | None:
    return seconds if 0.0 <= seconds < float("inf") else None


def retry_after_of(error: BaseException) -> float | None:
    """Return the wait that an error carries, in seconds, or None.

    Looks at `error.retry_after`, then at a Retry-After header in `error.headers`
    and in `error.response.headers`: that covers urllib, requests, httpx, aiohttp.
    """
    found = parse_retry_after(getattr(error, "retry_after", None))
    if found is not None:
        return found
    for holder in (error, getattr(error, "response", None)):
        headers = getattr(holder, "headers", None)
        get = getattr(headers, "get", None)
        if get is None:
            continue
        # A plain dict is case-sensitive; HTTP field names are not.
        for key in ("Retry-After", "retry-after"):
            found = parse_retry_after(get(key))
            if found is not None:
                return found
    return None
