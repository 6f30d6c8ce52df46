"""Redis Streams as job queues: jobs that survive their workers.

`Topology` says which streams and groups exist, `Queue` puts jobs, `Worker` runs
them. Delivery is at least once: a job whose worker dies is run again, a job that
fails too often goes to `<stream>:dlq` with the reason. Needs `[redis]`.

Everything loads on first use, so that importing this package costs nothing.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from maestro_workflow_engine.streams._queue import Queue, StreamStatus
    from maestro_workflow_engine.streams._topology import (
        AUTOMATION,
        Group,
        Stream,
        Topology,
    )
    from maestro_workflow_engine.streams._worker import (
        Job,
        StreamEvent,
        Worker,
        WorkerStats,
    )
    from maestro_workflow_engine.streams.errors import (
        BadPayload,
        QueueFull,
        Reject,
        StreamsError,
        TopologyDrift,
    )

__all__ = [
    "AUTOMATION",
    "BadPayload",
    "Group",
    "Job",
    "Queue",
    "QueueFull",
    "Reject",
    "Stream",
    "StreamEvent",
    "StreamStatus",
    "StreamsError",
    "Topology",
    "TopologyDrift",
    "Worker",
    "WorkerStats",
]

_HOME = {
    "_queue": ("Queue", "StreamStatus"),
    "_topology": ("AUTOMATION", "Group", "Stream", "Topology"),
    "_worker": ("Job", "StreamEvent", "Worker", "WorkerStats"),
    "errors": ("BadPayload", "QueueFull", "Reject", "StreamsError", "TopologyDrift"),
}


def __getattr__(name: str) -> object:
    for module, names in _HOME.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
