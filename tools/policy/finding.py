"""One thing that is not as the house has it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """Where it is, what is wrong, what is expected."""

    path: str  # relative to the root
    message: str
    line: int | None = None

    def __str__(self) -> str:
        """Return `path:line: message`, which editors can open."""
        place = f"{self.path}:{self.line}" if self.line else self.path
        return f"{place}: {self.message}"
