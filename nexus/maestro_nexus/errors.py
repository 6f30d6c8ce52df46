"""What can go wrong with a real Nexus.

NexusError          root; the message says what was asked and what came back
    NexusAway       it did not answer in time
"""


class NexusError(Exception):
    """An answer that was not expected."""


class NexusAway(NexusError):
    """The server did not answer in time."""
