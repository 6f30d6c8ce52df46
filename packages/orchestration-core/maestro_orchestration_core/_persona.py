"""Personas: who an agent is, as data, with inheritance and provenance.

A file holds one persona. `extends` names others, applied left to right, then
the file's own keys. Tables merge key by key, lists append what is new,
`{replace = [...]}` replaces a list, and JSON `null` (TOML: "$delete") deletes.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, final

from ._budget import Budget
from .errors import PersonaCycleError, PersonaError, SettingsError, did_you_mean

_KEYS: Final[dict[str, type | tuple[type, ...]]] = {
    "name": str, "extends": list, "abstract": bool, "summary": str,
    "instructions": str, "instruction_files": list, "capabilities": (dict, list),
    "model": dict, "budget": dict, "tools": list, "handoff": dict, "team": str,
    "effect": str, "concurrency": int, "output": dict, "tags": list,
}  # fmt: skip
_MODEL_KEYS: Final = {
    "name",
    "temperature",
    "max_output",
    "window",
    "seed",
    "extra",
}
_HANDOFF_KEYS: Final = {"to", "needs"}
_DELETE: Final = "$delete"
_MAX_BYTES: Final = 1_000_000
EFFECTS: Final = ("pure", "idempotent", "unsafe")


@dataclass(frozen=True, slots=True, kw_only=True)
class Persona:
    """Who an agent is: instructions, capabilities, limits and rules."""

    name: str
    summary: str = ""
    instructions: str = ""
    instruction_files: tuple[str, ...] = ()
    """Read at each call, relative to the workspace, such as AGENTS.md."""
    capabilities: Mapping[str, int] = field(default_factory=dict)
    """Tag to level, 1 or more."""
    model: Mapping[str, Any] = field(default_factory=dict)
    budget: Budget | None = None
    tools: tuple[str, ...] = ()
    handoff_to: tuple[str, ...] = ()
    """Personas it may hand over to; empty means anybody."""
    handoff_needs: tuple[str, ...] = ()
    """Keys that its answer must carry when it hands over."""
    team: str = ""
    effect: str = ""
    """pure, idempotent or unsafe; empty leaves it to the agent."""
    concurrency: int = 0
    """Tasks at the same time, 0 for as many as there are workers."""
    output: Mapping[str, Any] | None = None
    """JSON schema of its answers."""
    tags: tuple[str, ...] = ()
    provenance: Mapping[str, str] = field(default_factory=dict, compare=False)
    """Where each key came from: key to persona names in order of application."""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise PersonaError(f"expected text, got {self.name!r}", key="name")
        if not self.name or not all(c.isalnum() or c in "-_." for c in self.name):
            raise PersonaError(
                f"name {self.name!r} must be letters, digits, '-', '_' or '.'",
                key="name",
            )
        if not isinstance(self.capabilities, Mapping):
            raise PersonaError(
                f"expected levels by tag such as {{'prose': 1}}, "
                f"got {self.capabilities!r}",
                source=self.name,
                key="capabilities",
            )
        for key in ("tools", "handoff_to", "handoff_needs", "tags"):
            if not isinstance(getattr(self, key), (tuple, list)):
                raise PersonaError(
                    f"expected a tuple of texts, got {getattr(self, key)!r}",
                    source=self.name,
                    key=key,
                )
        for tag, level in self.capabilities.items():
            if type(level) is not int or level < 1:
                raise PersonaError(
                    f"level {level!r} must be a whole number from 1",
                    source=self.name,
                    key=f"capabilities.{tag}",
                )
        if self.effect and self.effect not in EFFECTS:
            raise PersonaError(
                f"{self.effect!r} is not one of {', '.join(EFFECTS)}"
                f"{did_you_mean(self.effect, EFFECTS)}",
                source=self.name,
                key="effect",
            )


@final
class PersonaRegistry(Mapping[str, Persona]):
    """Personas by name, inheritance resolved. Immutable once made."""

    def __init__(self, personas: Sequence[Persona] = ()) -> None:
        self._personas = {persona.name: persona for persona in personas}
        if len(self._personas) != len(personas):
            raise PersonaError("two personas have the same name", key="name")

    @classmethod
    def load(
        cls,
        *paths: str | Path,
        readers: Mapping[str, Callable[[Path], Mapping[str, Any]]] | None = None,
    ) -> "PersonaRegistry":
        """Read persona files or folders of them: .toml, .json, .yaml with [yaml].

        Raises PersonaError with file and key for the first thing that is wrong;
        `check` returns them all.
        """
        registry, problems = cls.check(*paths, readers=readers)
        if problems:
            raise problems[0]
        return registry

    @classmethod
    def check(
        cls,
        *paths: str | Path,
        readers: Mapping[str, Callable[[Path], Mapping[str, Any]]] | None = None,
    ) -> tuple["PersonaRegistry", list[PersonaError]]:
        """Read what can be read; return it with everything that is wrong."""
        problems: list[PersonaError] = []
        raw: dict[str, _Source] = {}
        for file in _files(paths, problems):
            try:
                source = _read(file, readers or {})
                if source.name in raw:
                    raise PersonaError(
                        f"{source.name!r} is in {raw[source.name].file} already",
                        source=str(file),
                        key="name",
                    )
                raw[source.name] = source
            except PersonaError as error:
                problems.append(error)
        return cls._resolve(raw, problems), problems

    @classmethod
    def from_dicts(cls, personas: Sequence[Mapping[str, Any]]) -> "PersonaRegistry":
        """Make personas from plain data, the same as from files."""
        raw: dict[str, _Source] = {}
        for n, data in enumerate(personas):
            source = _checked(dict(data), f"personas[{n}]", str(data.get("name", "")))
            raw[source.name] = source
        problems: list[PersonaError] = []
        registry = cls._resolve(raw, problems)
        if problems:
            raise problems[0]
        return registry

    @classmethod
    def _resolve(
        cls, raw: Mapping[str, "_Source"], problems: list[PersonaError]
    ) -> "PersonaRegistry":
        made = []
        for name, source in raw.items():
            try:
                merged, origin = _flatten(name, raw, ())
                if not source.data.get("abstract"):
                    made.append(_build(name, merged, origin, source.file))
            except PersonaError as error:
                if str(error) not in {str(e) for e in problems}:
                    problems.append(error)
        return cls(made)

    def __getitem__(self, name: str) -> Persona:
        try:
            return self._personas[name]
        except KeyError:
            raise PersonaError(
                f"no persona {name!r}; there are: {', '.join(self) or 'none'}"
                f"{did_you_mean(name, self)}"
            ) from None

    def __contains__(self, name: object) -> bool:
        return name in self._personas

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._personas))

    def __len__(self) -> int:
        return len(self._personas)

    def explain(self, name: str) -> str:
        """Return each key of a persona, its value and where it came from."""
        persona = self[name]
        lines = [f"{persona.name}: {persona.summary}".rstrip(": ")]
        for key, origin in sorted(persona.provenance.items()):
            value = _shown(persona, key)
            lines.append(f"  {key:18} {value:50} from {origin}")
        return "\n".join(lines)


def _shown(persona: Persona, key: str) -> str:
    if key == "handoff":
        value: Any = {"to": persona.handoff_to, "needs": persona.handoff_needs}
    else:
        value = getattr(persona, key, "")
    text = (
        str(value if isinstance(value, str) else dict(value))
        if isinstance(value, (str, Mapping))
        else str(value)
    )
    text = " ".join(text.split())
    return text if len(text) <= 50 else text[:47] + "..."


@dataclass(frozen=True, slots=True)
class _Source:
    name: str
    file: str
    data: dict[str, Any]


def _files(paths: Sequence[str | Path], problems: list[PersonaError]) -> Iterator[Path]:
    for path in map(Path, paths):
        if path.is_dir():
            for file in sorted(path.iterdir()):
                if file.suffix in {".toml", ".json", ".yaml", ".yml"}:
                    yield file
        elif path.exists():
            yield path
        else:
            problems.append(PersonaError("there is no such file", source=str(path)))


def _read(
    file: Path, readers: Mapping[str, Callable[[Path], Mapping[str, Any]]]
) -> _Source:
    try:
        data = read_settings(file, readers)
    except SettingsError as error:
        raise PersonaError(str(error)) from error
    return _checked(data, str(file), file.stem)


def read_settings(
    file: Path,
    readers: Mapping[str, Callable[[Path], Mapping[str, Any]]] | None = None,
) -> dict[str, Any]:
    """Return the table in a .toml, .json or, with the extra, .yaml file."""
    if readers and file.suffix in readers:
        return dict(readers[file.suffix](file))
    try:
        if file.stat().st_size > _MAX_BYTES:
            raise SettingsError(f"larger than {_MAX_BYTES} bytes", source=str(file))
        if file.suffix in {".yaml", ".yml"}:
            from .integrations.yaml import read_yaml

            return read_yaml(file)
        text = file.read_text(encoding="utf-8")
        if file.suffix == ".json":
            data = json.loads(text)
        else:
            import tomllib

            data = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"cannot be read: {error}", source=str(file)) from error
    except OSError as error:
        raise SettingsError(
            f"cannot be read: {error.strerror}", source=str(file)
        ) from error
    if not isinstance(data, dict):
        raise SettingsError("must hold one table", source=str(file))
    return data


def _checked(data: dict[str, Any], file: str, default_name: str) -> _Source:
    for key, value in data.items():
        if key not in _KEYS:
            raise PersonaError(
                f"unknown key{did_you_mean(key, _KEYS)}", source=file, key=key
            )
        if isinstance(value, dict) and set(value) == {"replace"}:
            value = value["replace"]  # noqa: PLW2901 - the list inside
        wanted = _KEYS[key]
        right = isinstance(value, wanted) and not (
            wanted is int and isinstance(value, bool)
        )
        if value is not None and value != _DELETE and not right:
            names = wanted if isinstance(wanted, tuple) else (wanted,)
            raise PersonaError(
                f"expected {' or '.join(t.__name__ for t in names)}, got {value!r}",
                source=file,
                key=key,
            )
    for key, known in (("model", _MODEL_KEYS), ("handoff", _HANDOFF_KEYS)):
        table = data.get(key)
        for inner in table if isinstance(table, dict) else ():
            if inner not in known:
                raise PersonaError(
                    f"unknown key{did_you_mean(inner, known)}",
                    source=file,
                    key=f"{key}.{inner}",
                )
    return _Source(str(data.get("name") or default_name), file, data)


def _flatten(
    name: str, raw: Mapping[str, _Source], path: tuple[str, ...]
) -> tuple[dict[str, Any], dict[str, str]]:
    if name in path:
        raise PersonaCycleError(
            (*path[path.index(name) :], name), source=raw[name].file
        )
    source = raw[name]
    merged: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for parent in source.data.get("extends") or ():
        if parent not in raw:
            raise PersonaError(
                f"no persona {parent!r}{did_you_mean(str(parent), raw)}",
                source=source.file,
                key="extends",
            )
        theirs, from_where = _flatten(parent, raw, (*path, name))
        _merge(merged, theirs)
        for key, where in from_where.items():
            origin[key] = f"{origin[key]}, {where}" if key in origin else where
    own = {
        k: v for k, v in source.data.items() if k not in {"name", "extends", "abstract"}
    }
    _merge(merged, own)
    for key, value in own.items():
        keeps = key in origin and isinstance(value, (dict, list))
        origin[key] = f"{origin[key]}, {name}" if keeps else name
    return merged, {key: where for key, where in origin.items() if key in merged}


def _merge(into: dict[str, Any], new: Mapping[str, Any]) -> None:
    for key, raw_value in new.items():
        value = raw_value
        if key == "capabilities" and isinstance(value, list):
            value = dict.fromkeys(value, 1)
        old = into.get(key)
        if value is None or value == _DELETE:
            into.pop(key, None)
        elif isinstance(value, dict) and set(value) == {"replace"}:
            into[key] = value["replace"]
        elif isinstance(value, dict):
            table = dict(old) if isinstance(old, dict) else {}
            _merge(table, value)
            into[key] = table
        elif isinstance(value, list) and isinstance(old, list):
            into[key] = [*old, *(item for item in value if item not in old)]
        else:
            into[key] = value


def _build(
    name: str, data: Mapping[str, Any], origin: Mapping[str, str], file: str
) -> Persona:
    handoff = data.get("handoff", {})
    caps = data.get("capabilities", {})
    try:
        return Persona(
            name=name,
            summary=data.get("summary", ""),
            instructions=data.get("instructions", ""),
            instruction_files=tuple(data.get("instruction_files", ())),
            capabilities=dict.fromkeys(caps, 1) if isinstance(caps, list) else caps,
            model=data.get("model", {}),
            budget=Budget.from_dict(data["budget"]) if "budget" in data else None,
            tools=tuple(data.get("tools", ())),
            handoff_to=tuple(handoff.get("to", ())),
            handoff_needs=tuple(handoff.get("needs", ())),
            team=data.get("team", ""),
            effect=data.get("effect", ""),
            concurrency=data.get("concurrency", 0),
            output=data.get("output"),
            tags=tuple(data.get("tags", ())),
            provenance=origin,
        )
    except SettingsError as error:
        if error.source == file:
            raise
        message = str(error).removeprefix(f"{name}: ")
        raise PersonaError(message, source=file) from error
