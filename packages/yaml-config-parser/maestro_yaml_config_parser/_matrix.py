"""A matrix of values: the product of its axes, with include, exclude and a maximum."""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ._diagnostics import did_you_mean
from ._paths import Path

_RESERVED = ("include", "exclude", "max")
_DEFAULT_MAX = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Combination:
    """One choice of a value per axis; `id` is made of the values."""

    values: Mapping[str, Any]
    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """Axes and their values.

    `include` adds to the combinations that it agrees with, or else adds a new
    one; `exclude` removes those it agrees with; more than `max` is an error.
    Source: the matrix of GitHub Actions.
    """

    axes: Mapping[str, list[Any]] = field(default_factory=dict)
    include: tuple[Mapping[str, Any], ...] = ()
    exclude: tuple[Mapping[str, Any], ...] = ()
    max: int = _DEFAULT_MAX

    @property
    def size(self) -> int:
        """How many combinations the axes make, before include and exclude."""
        return math.prod(len(v) for v in self.axes.values()) if self.axes else 0

    def expand(self) -> list[Combination]:
        """Return the combinations, first axis slowest.

        Raises:
            ValueError: there would be more than `max`.
        """
        if self.size > self.max:
            raise ValueError(
                f"the matrix has {self.size} combinations, more than max: {self.max}"
            )
        names = list(self.axes)
        product = itertools.product(*self.axes.values()) if names else iter(())
        rows = [dict(zip(names, values, strict=True)) for values in product]
        rows = [r for r in rows if not any(_agrees(r, e) for e in self.exclude)]
        originals = [dict(r) for r in rows]
        for extra in self.include:
            on_axes = {k: v for k, v in extra.items() if k in self.axes}
            hits = [
                row
                for row, original in zip(rows, originals, strict=False)
                if _agrees(original, on_axes)
            ]
            if hits and len(on_axes) < len(extra):
                for row in hits:
                    row.update(extra)
            elif not hits:
                rows.append(dict(extra))
        if len(rows) > self.max:
            raise ValueError(
                f"the matrix has {len(rows)} combinations, more than max: {self.max}"
            )
        return _named(rows)

    @classmethod
    def __config__(cls, value: Any, context: Any, path: Path) -> Any:
        """Read the matrix of a file: axes beside include, exclude and max."""
        if not isinstance(value, dict):
            return context.mismatch(value, dict, path)
        before = len(context.found)
        axes = {k: v for k, v in value.items() if k not in _RESERVED}
        for name, values in axes.items():
            if not isinstance(values, list):
                context.mismatch(values, list[Any], (*path, name))
            elif not values:
                context.error(
                    (*path, name), f"axis {name!r} has no values", code="matrix"
                )
        rows: dict[str, list[Any]] = {}
        for kind in ("include", "exclude"):
            here = (*path, kind)
            got = context.convert(value.get(kind, []), list[dict[str, Any]], here)
            rows[kind] = got if isinstance(got, list) else []
        _check_excludes(rows["exclude"], axes, context, (*path, "exclude"))
        most = context.convert(value.get("max", _DEFAULT_MAX), int, (*path, "max"))
        if len(context.found) > before:
            return context.bad
        made = cls(
            axes=axes,
            include=tuple(rows["include"]),
            exclude=tuple(rows["exclude"]),
            max=most,
        )
        try:
            made.expand()
        except ValueError as e:
            return context.error(path, str(e), code="matrix")
        return made

    @classmethod
    def __config_schema__(cls, defs: dict[str, Any]) -> dict[str, Any]:
        row = {"type": "array", "items": {"type": "object"}}
        return {
            "type": "object",
            "description": "Axes with their values; include, exclude and max.",
            "properties": {
                "include": row,
                "exclude": row,
                "max": {"type": "integer", "default": _DEFAULT_MAX},
            },
            "additionalProperties": {"type": "array", "minItems": 1},
        }


def _check_excludes(
    rows: list[Any], axes: Mapping[str, Any], context: Any, path: Path
) -> None:
    for i, row in enumerate(rows):
        for key, value in row.items():
            here = (*path, i, key)
            if key not in axes:
                hint = did_you_mean(key, axes) or "axes: " + ", ".join(axes)
                context.error(
                    here, f"exclude names no axis {key!r}",
                    code="matrix", hint=hint, key=True,
                )  # fmt: skip
            elif isinstance(axes[key], list) and value not in axes[key]:
                context.error(
                    here, f"axis {key!r} has no value {value!r}",
                    code="matrix", hint=did_you_mean(value, axes[key]),
                )  # fmt: skip


def _agrees(row: Mapping[str, Any], part: Mapping[str, Any]) -> bool:
    return all(k in row and row[k] == v for k, v in part.items())


def _named(rows: list[dict[str, Any]]) -> list[Combination]:
    seen: dict[str, int] = {}
    made = []
    for row in rows:
        name = "-".join(_word(v) for v in row.values())
        seen[name] = seen.get(name, 0) + 1
        unique = name if seen[name] == 1 else f"{name}~{seen[name]}"
        made.append(Combination(values=row, id=unique))
    return made


def _word(value: Any) -> str:
    if isinstance(value, dict):
        return _word(value.get("name", next(iter(value.values()), "")))
    if isinstance(value, list):
        return ",".join(_word(v) for v in value)
    return (
        str(value).lower() if isinstance(value, bool) or value is None else str(value)
    )
