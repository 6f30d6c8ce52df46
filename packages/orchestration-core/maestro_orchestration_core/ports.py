"""What this package asks of others; each has a default here."""

from ._context import Strategy
from ._journal import EventStore
from ._leases import LeaseStore
from ._messages import Model
from ._prices import Prices
from ._throttle import CallPolicy
from ._turn import Workspace

__all__ = [
    "CallPolicy",
    "EventStore",
    "LeaseStore",
    "Model",
    "Prices",
    "Strategy",
    "Workspace",
]
