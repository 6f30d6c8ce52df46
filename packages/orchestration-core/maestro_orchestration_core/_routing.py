"""Choose who takes a task, without a model call and with an explanation."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ._persona import Persona
from .errors import NoAgentError, did_you_mean


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """How well one persona fits."""

    persona: str
    fits: bool
    score: int
    """Higher is better: surplus level on what is needed, less idle breadth."""
    why: str


def rank(needs: Mapping[str, int], personas: Iterable[Persona]) -> list[Match]:
    """Return every persona with its score, the best first, then by name."""
    found = [_match(needs, persona) for persona in personas]
    return sorted(found, key=lambda m: (not m.fits, -m.score, m.persona))


def route(
    needs: Mapping[str, int],
    personas: Iterable[Persona],
    *,
    task: str = "",
    agent: str | None = None,
) -> Match:
    """Return the best match, or the named agent; raise NoAgentError."""
    everyone = list(personas)
    if agent is not None:
        names = [p.name for p in everyone]
        if agent not in names:
            raise NoAgentError(
                task,
                f"no agent is called {agent!r}; there are {', '.join(names)}"
                f"{did_you_mean(agent, names)}",
            )
        return Match(persona=agent, fits=True, score=0, why="named by the task")
    ranked = rank(needs, everyone)
    if not ranked or not ranked[0].fits:
        raise NoAgentError(
            task, "; ".join(f"{m.persona}: {m.why}" for m in ranked) or "no agents"
        )
    return ranked[0]


def _match(needs: Mapping[str, int], persona: Persona) -> Match:
    has = persona.capabilities
    lacking = [
        f"{tag} {level} needed, has {has.get(tag, 0)}"
        for tag, level in needs.items()
        if has.get(tag, 0) < level
    ]
    if lacking:
        why = "lacks " + ", ".join(lacking)
        return Match(persona=persona.name, fits=False, score=0, why=why)
    surplus = sum(has[tag] - level for tag, level in needs.items())
    breadth = sum(1 for tag in has if tag not in needs)
    score = 10 * len(needs) + surplus - breadth
    listed = ", ".join(f"{t} {has[t]}" for t in needs) or "nothing needed"
    why = f"has {listed}; {breadth} other capabilities"
    return Match(persona=persona.name, fits=True, score=score, why=why)
