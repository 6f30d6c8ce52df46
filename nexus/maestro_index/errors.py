"""What can go wrong in the index.

IndexFault                 root
    Refused                an upload or request the server answers with a 4xx
    UpstreamFault          the upstream index did not answer
    ControlFault           the server cannot be started, found or stopped
"""


class IndexFault(Exception):
    """Anything this package raises on purpose."""


class Refused(IndexFault):
    """A request that is answered with `status` and a sentence."""

    def __init__(self, status: int, message: str) -> None:
        """Keep the HTTP status beside the message."""
        super().__init__(message)
        self.status = status


class UpstreamFault(IndexFault):
    """The upstream index did not answer, or not with a page."""


class ControlFault(IndexFault):
    """The server cannot be started, found or stopped; says what to do."""
