"""The seams: what this package asks of others, as protocols with a default each.

| protocol      | asks for                     | default             | from a sibling             |
|---------------|------------------------------|---------------------|----------------------------|
| `Model`       | an answer to a model call    | `OpenAICompatible`  |                            |
| `CallPolicy`  | what surrounds a model call  | `Retry`             | `integrations.resilience`  |
| `LeaseStore`  | who may change what          | `JournalLeases`     | `integrations.registry`    |
| `EventStore`  | where events of a run go     | `Journal`           | copied by `integrations.audit` |
| `Prices`      | what a model costs           | `PriceTable`        | `integrations.prices`      |
| `Strategy`    | shorter conversations        | `sliding` and others|                            |
| `Workspace`   | the folder of a task         | a worktree          |                            |
"""

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
