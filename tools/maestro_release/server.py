"""Which server a command talks to."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Who answers, in one line for people and as data."""

    kind: str  # embedded, nexus, or other
    url: str
    version: str = ""
    started: bool = False

    def __str__(self) -> str:
        """Say which server this is and where."""
        if self.kind == "embedded":
            how = "started now, " if self.started else ""
            return (
                f"the embedded index at {self.url} "
                f"({how}stop it with .venv-release/bin/maestro-index stop)"
            )
        what = "a real Nexus" if self.kind == "nexus" else "a server that is no Nexus"
        return f"{what} at {self.url}" + (f" ({self.version})" if self.version else "")
