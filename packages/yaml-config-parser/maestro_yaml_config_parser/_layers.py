"""Several documents as one: overlays and profiles over a base, place by place."""

import re
from collections.abc import Mapping
from typing import Any

from ._builder import Reset, Session
from ._diagnostics import did_you_mean
from ._document import Document, History, Place
from ._paths import Path, format_path
from .errors import LayerError

_STRATEGIES = ("merge", "replace", "append", "prepend")


class Layering:
    """Puts overlays over a base.

    Mappings are merged, lists and scalars replaced. `merge` changes that by
    path: `{"suites": "append", "suites[*].cases": "merge:name"}`; a tag on the
    overlay's value (`!append`, `!prepend`, `!override`) has the last word.
    """

    def __init__(
        self, session: Session, base: Document, merge: Mapping[str, str]
    ) -> None:
        self.session = session
        self.base = base
        self.history: History = base.history
        self.rules = [(_pattern(p), _checked(s, p, base)) for p, s in merge.items()]

    def over(self, root: Any, overlay: Document) -> Any:
        """Return the root with one overlay put over it."""
        if overlay.root is None:
            return root
        if not isinstance(overlay.root, dict) or not isinstance(root, dict | None):
            found = overlay.diagnostic(
                (), "an overlay and what is below it must be mappings", code="layer"
            )
            raise LayerError(found)
        self.overlay = overlay
        return self._mappings(root or {}, overlay.root, ())

    def without(self, root: dict[Any, Any], key: str) -> Any:
        """Return a root without one of its keys."""
        past = {k: self.base.places(root, k) for k in root if k != key}
        return self._remember({k: root[k] for k in past}, past)

    def _strategy(self, path: Path, value: Any) -> str:
        tagged = self.session.strategies.get(id(value))
        if tagged:
            return tagged
        if self.rules:
            text = format_path(path)
            for pattern, strategy in self.rules:
                if pattern.fullmatch(text):
                    return strategy
        return "merge" if isinstance(value, dict) else "replace"

    def _mappings(self, below: dict[Any, Any], over: dict[Any, Any], path: Path) -> Any:
        made: dict[Any, Any] = dict(below)
        past = {k: self.base.places(below, k) for k in below}
        for key, value in over.items():
            places = self.overlay.places(over, key)
            if isinstance(value, Reset):
                if key not in made:
                    raise self._nothing_to_reset(places[0], key, made)
                del made[key], past[key]
                continue
            here = (*path, key)
            if key in made:
                made[key] = self._combined(made[key], value, here)
                past[key] = (*places, *past[key])
            else:
                made[key] = value
                past[key] = places
        return self._remember(made, past)

    def _combined(self, below: Any, value: Any, path: Path) -> Any:
        strategy = self._strategy(path, value)
        if isinstance(below, dict) and isinstance(value, dict) and strategy == "merge":
            return self._mappings(below, value, path)
        if isinstance(below, list) and isinstance(value, list):
            if strategy == "append":
                return self._lists(below, value, self.base, self.overlay)
            if strategy == "prepend":
                return self._lists(value, below, self.overlay, self.base)
            if strategy.startswith("merge:"):
                return self._by_key(below, value, strategy.removeprefix("merge:"), path)
        return value

    def _lists(
        self, first: list[Any], second: list[Any], one: Document, two: Document
    ) -> Any:
        places = [one.places(first, i) for i in range(len(first))]
        places += [two.places(second, i) for i in range(len(second))]
        return self._remember([*first, *second], dict(enumerate(places)))

    def _by_key(self, below: list[Any], value: list[Any], key: str, path: Path) -> Any:
        made = list(below)
        past = {i: self.base.places(below, i) for i in range(len(below))}
        index = {v.get(key): i for i, v in enumerate(made) if isinstance(v, dict)}
        for i, item in enumerate(value):
            places = self.overlay.places(value, i)
            name = item.get(key) if isinstance(item, dict) else None
            at = index.get(name) if name is not None else None
            if at is None:
                past[len(made)] = places
                made.append(item)
            else:
                made[at] = self._mappings(made[at], item, (*path, at))
                past[at] = (*places, *past[at])
        return self._remember(made, past)

    def _remember(self, made: Any, past: dict[Any, tuple[Place, ...]]) -> Any:
        self.session.keep.append(made)
        self.history[id(made)] = past
        return made

    def _nothing_to_reset(
        self, place: Place, key: object, known: Mapping[Any, Any]
    ) -> LayerError:
        found = place.source.diagnostic(
            place.key,
            f"!reset of {key!r}, which no layer below sets",
            code="layer",
            hint=did_you_mean(key, known),
        )
        return LayerError(found)


def take_profile(base: Document, profile: str) -> Any:
    """Return the mapping of one profile from the key `profiles`."""
    profiles = base.root.get("profiles") if isinstance(base.root, dict) else None
    if not isinstance(profiles, dict) or profile not in profiles:
        known = profiles if isinstance(profiles, dict) else {}
        where: Path = ("profiles",) if isinstance(profiles, dict) else ()
        hint = did_you_mean(profile, known) or "profiles: " + (
            ", ".join(map(str, known)) or "none"
        )
        found = base.diagnostic(
            where, f"no profile {profile!r}", code="layer", hint=hint
        )
        raise LayerError(found)
    return profiles[profile]


def refuse_leftover_resets(document: Document) -> None:
    """A `!reset` that met nothing below it is a mistake."""
    for path, _, key, value in document._walk():
        if isinstance(value, Reset) and path[0] != "profiles":
            found = document.diagnostic(
                path, f"!reset of {key!r}, which no layer below sets", code="layer"
            )
            raise LayerError(found)


def _pattern(path: str) -> re.Pattern[str]:
    text = re.escape(path).replace(r"\[\*\]", r"\[\d+\]").replace(r"\*", r"[^.\[]+")
    return re.compile(text)


def _checked(strategy: str, path: str, base: Document) -> str:
    if strategy in _STRATEGIES or strategy.startswith("merge:"):
        return strategy
    found = base.diagnostic(
        (),
        f"unknown merge strategy {strategy!r} for {path!r}",
        code="layer",
        hint=did_you_mean(strategy, _STRATEGIES) or "or 'merge:<key>'",
    )
    raise LayerError(found)
