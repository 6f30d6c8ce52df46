"""Check an existing Nexus against the wanted state; nothing is changed."""

from collections.abc import Iterator
from dataclasses import dataclass

from maestro_nexus._api import Api
from maestro_nexus._desired import Settings, resources
from maestro_nexus.provision import wrong


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: what is wrong, if anything, and what to do."""

    title: str
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def examine(api: Api, settings: Settings) -> Iterator[Finding]:
    """Yield a finding for each thing that provisioning would set."""
    status = api.get("/v1/system/eula")
    accepted = status is None or bool(status.get("accepted"))
    problem = "not accepted: every repository request is refused"
    yield Finding("licence", () if accepted else (problem,))
    anonymous = api.get("/v1/security/anonymous") or {}
    problem = "on: everybody who reaches the server can read"
    yield Finding("anonymous access", (problem,) if anonymous.get("enabled") else ())
    for resource in resources(settings):
        found = api.get(resource.read)
        problems = ["is missing"] if found is None else wrong(resource, found)
        yield Finding(resource.title, tuple(problems))
