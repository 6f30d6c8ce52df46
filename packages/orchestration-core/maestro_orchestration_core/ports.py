"""What this package asks of others; each has a default here."""

from ._context import Strategy
from ._leases import LeaseStore
from ._log import EventStore
from ._messages import Model
from ._prices import Prices
from ._session import Workspace
from ._throttle import CallPolicy

__all__ = [
    "CallPolicy",
    "EventStore",
    "LeaseStore",
    "Model",
    "Prices",
    "Strategy",
    "Workspace",
]
