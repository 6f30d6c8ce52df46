"""The way from a policy to those who listen, without importing the event classes.

Policies call `tell()` only when somebody listens, so the event classes (and the
dataclasses module) are loaded at the first event, not at import.
"""

from __future__ import annotations

from maestro_resilience._runtime import SWITCH

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from maestro_resilience._policy import Policy


def heard(policy: Policy) -> bool:
    """Tell whether anybody listens to this policy."""
    return bool(policy._listeners or SWITCH.listeners)


def tell(policy: Policy, event: str, **fields: Any) -> None:
    """Send one event to the policy's own listeners, then to the global ones.

    A listener that raises is logged and otherwise ignored: telling somebody must
    not change what happens to the call.
    """
    own = policy._listeners
    everyone = SWITCH.listeners
    if not own and not everyone:
        return
    from maestro_resilience import events

    message = getattr(events, event)(
        policy=policy.name, policy_type=policy.kind, **fields
    )
    for listener in (*own, *everyone):
        try:
            listener(message)
        except Exception:
            import logging

            logging.getLogger("maestro_resilience").exception(
                "a listener of %r raised on %s", policy.name, event
            )
