"""What the queues raise.

WorkflowError                   the root of this package
    StreamsError                anything about the queues
        BadPayload              a payload that is no JSON, too large, or of another shape
        QueueFull               the stream has reached its max_length
        TopologyDrift           what is in Redis differs from the topology
        Reject                  raise it in a handler: no retry, to the dead letters
"""

from maestro_workflow_engine.errors import WorkflowError


class StreamsError(WorkflowError):
    """Anything about the queues."""


class BadPayload(StreamsError):
    """A payload that cannot be sent or understood; the message says why."""


class QueueFull(StreamsError):
    """The stream holds as many jobs as its topology allows."""

    def __init__(self, stream: str, length: int, limit: int) -> None:
        """Keep the figures for programs."""
        super().__init__(
            f"{stream} holds {length} jobs, max_length is {limit}: wait for the "
            "workers, or raise max_length in the topology"
        )
        self.stream = stream
        self.length = length
        self.limit = limit


class TopologyDrift(StreamsError):
    """Redis differs from the topology; `differences` lists how."""

    def __init__(self, differences: list[str]) -> None:
        """Keep the list for programs."""
        super().__init__("; ".join(differences))
        self.differences = differences


class Reject(StreamsError):
    """Raise it in a handler when trying again is pointless."""
