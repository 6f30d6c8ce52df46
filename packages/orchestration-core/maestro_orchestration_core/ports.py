"""What this package asks of others; each has a default here."""

from ._context import Strategy
from ._log import EventStore
from ._messages import Model, Prices
from ._retry import CallPolicy
from ._session import Workspace
from ._touches import LeaseStore

__all__ = [
    "CallPolicy",
    "EventStore",
    "LeaseStore",
    "Model",
    "Prices",
    "Strategy",
    "Workspace",
]
