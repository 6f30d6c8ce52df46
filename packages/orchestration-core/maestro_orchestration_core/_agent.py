"""Agents and tools: a persona with something that does the work, and who takes what."""

import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, get_type_hints

from ._context import Window
from ._messages import Model, Usage
from ._persona import EFFECTS, Persona
from ._retry import CallPolicy, Throttle
from .errors import NoAgentError, SettingsError, did_you_mean


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


Effect = Literal["pure", "idempotent", "unsafe"]
Guard = Callable[[str], str | None]
_JSON: Final = {str: "string", int: "integer", float: "number", bool: "boolean",
                list: "array", dict: "object"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Agent:
    """A persona and its body: any callable taking a Turn, or a model.

    `effect` says what a repeat after a crash may do. `pure` and `idempotent`
    run again (with the same `turn.key`); `unsafe` ends in doubt for a person
    to look at. A callable is `idempotent` unless it says otherwise.
    """

    persona: Persona
    body: Callable[..., Any] | Model
    effect: Effect | None = field(default=None, kw_only=True)
    upper: Usage | None = field(default=None, kw_only=True)
    """The most that one call of a callable takes, for hard budgets."""
    window: Window | None = field(default=None, kw_only=True)
    throttle: Throttle | None = field(default=None, kw_only=True)
    retry: CallPolicy | None = field(default=None, kw_only=True)
    """Around each model call: a Retry, or anything with `async call(fn)`."""
    input_guards: tuple[Guard, ...] = field(default=(), kw_only=True)
    """Each returns None, or why the text is refused."""
    output_guards: tuple[Guard, ...] = field(default=(), kw_only=True)
    max_steps: int = field(default=20, kw_only=True)
    """Model calls for one answer, tools included."""

    def __post_init__(self) -> None:
        if not isinstance(self.persona, Persona):
            raise SettingsError(
                f"expected a Persona, got {self.persona!r}; "
                "write Agent(Persona(name=...), ...)",
                key="agent",
            )
        if type(self.max_steps) is not int or self.max_steps < 1:
            raise SettingsError(
                f"expected a whole number from 1, got {self.max_steps!r}",
                key=f"agent {self.persona.name}.max_steps",
            )
        if not callable(self.body) and not hasattr(self.body, "complete"):
            raise SettingsError(
                f"expected a callable or a model, got {self.body!r}",
                key=f"agent {self.persona.name}",
            )
        if self.retry is not None and not callable(getattr(self.retry, "call", None)):
            raise SettingsError(
                f"expected an object with `async call(fn)`, got {self.retry!r}",
                key=f"agent {self.persona.name}.retry",
            )
        if self.effect is not None and self.effect not in EFFECTS:
            raise SettingsError(
                f"{self.effect!r} is not one of {', '.join(EFFECTS)}"
                f"{did_you_mean(self.effect, EFFECTS)}",
                key=f"agent {self.persona.name}.effect",
            )

    @property
    def name(self) -> str:
        """The persona's name."""
        return self.persona.name

    @property
    def model(self) -> Model | None:
        """The model, or None for a callable."""
        body: Any = self.body
        return body if hasattr(body, "complete") else None

    @property
    def effect_class(self) -> str:
        """What a repeat may do: the agent's word, the persona's, or idempotent."""
        return self.effect or self.persona.effect or "idempotent"


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that a model may call; its signature makes the schema."""

    fn: Callable[..., Any | Awaitable[Any]]
    effect: Effect = field(default="idempotent", kw_only=True)
    name: str = field(default="", kw_only=True)
    description: str = field(default="", kw_only=True)
    parameters: Mapping[str, Any] = field(default_factory=dict, kw_only=True)

    def __post_init__(self) -> None:
        name = self.name or getattr(self.fn, "__name__", "")
        object.__setattr__(self, "name", name)
        if not self.description:
            doc = inspect.getdoc(self.fn) or ""
            object.__setattr__(self, "description", doc.split("\n\n")[0])
        if not self.parameters:
            object.__setattr__(self, "parameters", _schema(self.fn))

    def spec(self) -> dict[str, Any]:
        """Return the tool as chat endpoints want it."""
        function = {
            "name": self.name,
            "description": self.description,
            "parameters": dict(self.parameters),
        }
        return {"type": "function", "function": function}


def _schema(fn: Callable[..., Any]) -> dict[str, Any]:
    hints = get_type_hints(fn)
    properties: dict[str, Any] = {}
    required = []
    for name, parameter in inspect.signature(fn).parameters.items():
        hint = hints.get(name, str)
        kind = _JSON.get(getattr(hint, "__origin__", hint), "string")
        properties[name] = {"type": kind}
        if parameter.default is parameter.empty:
            required.append(name)
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }
