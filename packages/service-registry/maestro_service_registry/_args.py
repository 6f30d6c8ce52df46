"""Arguments as users give them: refused at once, with what was probably meant.

Only where things are made; nothing here runs on a hot path.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from .errors import InvalidInput

__all__ = ["check_kind", "check_number", "named", "near", "pairs", "refuse", "words"]

P = ParamSpec("P")
T = TypeVar("T")


def near(wrong: object, known: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" when a known name is close, else nothing."""
    from difflib import get_close_matches

    close = get_close_matches(str(wrong), list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def words(field: str, value: Any) -> list[Any]:
    """Return several things as a list; a text alone would fall into its letters."""
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        example = value if isinstance(value, str) and value else "name"
        raise InvalidInput(field, value, f"a list of texts such as [{example!r}]")
    return list(value)


def pairs(field: str, value: Any) -> dict[Any, Any]:
    """Return a mapping as a dict of its own, None as an empty one."""
    if value is not None and not isinstance(value, Mapping):
        raise InvalidInput(field, value, 'a mapping such as {"name": "text"}')
    return dict(value or {})


def check_number(field: str, value: Any, low: float, high: float, unit: str) -> None:
    """Refuse what is no number from `low` to `high`."""
    good = isinstance(value, int | float) and not isinstance(value, bool)
    if not good or not low <= value <= high:
        limits = f"from {low:g} to {high:g}" if high < 1e15 else f"from {low:g} on"
        raise InvalidInput(field, value, f"a number {limits} ({unit})")


def check_kind(field: str, value: Any, kind: type, example: str) -> None:
    """Refuse what is not of a kind."""
    if not isinstance(value, kind):
        raise InvalidInput(field, value, f"a {kind.__name__} such as {example}")


def refuse(where: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Refuse keyword arguments that nobody takes, with the nearest that exists."""
    names = sorted(known)
    for name in given:
        if name not in names:
            expected = f"one of {', '.join(names)}{near(name, names)}"
            raise InvalidInput(f"argument of {where}", name, expected)


def names_of(function: Callable[..., Any]) -> tuple[str, ...]:
    """Return the names of a function's parameters, but self."""
    code = function.__code__
    every = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    return tuple(name for name in every if name not in ("self", "cls"))


def named(function: Callable[P, T]) -> Callable[P, T]:
    """Refuse misspelt keyword arguments before a missing one is complained of."""
    known = frozenset(names_of(function))

    @wraps(function)
    def call(*args: P.args, **more: P.kwargs) -> T:
        if not known.issuperset(more):
            refuse(f"{function.__name__}()", more, known)
        return function(*args, **more)

    return call
