"""The names under which metrics know events; low cardinality, never user data."""

from __future__ import annotations

import re

from maestro_resilience._state import State
from maestro_resilience.events import Event

STATES = tuple(state.value for state in State)


def event_name(event: Event) -> str:
    """Return the class name in snake case, such as "retry_scheduled"."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", type(event).__name__).lower()


def error_type(event: Event) -> str:
    """Return the class of the event's error, or the empty string."""
    error = getattr(event, "error", None)
    return "" if error is None else type(error).__qualname__
