"""Checking what callers give to decorators and constructors."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar, cast

from .errors import OptionError, did_you_mean

F = TypeVar("F", bound=Callable[..., Any])
C = TypeVar("C", bound=type)


def wrong(owner: str, option: str, expected: str, value: object) -> OptionError:
    """Return the error that says what was expected, and what came."""
    place = f" in {option}=" if owner else ""  # a document says where by itself
    owner = owner and f"{owner}: "
    return OptionError(
        option, f"{owner}expected {expected}{place}, got {value!r:.200}", value
    )


def refuse_unknown(owner: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raise when an option is given that there is not, with the nearest that there is."""
    known = tuple(known)
    for name in given:
        if name not in known:
            hint = did_you_mean(name, known) or f"; there is {', '.join(known)}"
            raise OptionError(name, f"{owner} has no option {name!r}{hint}")


def hinting(call: F, owner: str = "") -> F:
    """Let a function answer a misspelt option with the one that was meant."""
    code = call.__code__
    count = code.co_argcount + code.co_kwonlyargcount
    hidden = code.co_posonlyargcount
    known = tuple(n for n in code.co_varnames[hidden:count] if n != "self")
    owner = owner or f"{call.__name__}()"

    @functools.wraps(call)
    def checked(*args: Any, **options: Any) -> Any:
        refuse_unknown(owner, options, known)
        return call(*args, **options)

    return cast("F", checked)


def hinted(kind: C) -> C:
    """Do so for a class's constructor."""
    kind.__init__ = hinting(kind.__init__, kind.__name__)  # type: ignore[misc]
    return kind


def whole(owner: str, option: str, value: Any, low: int = 1) -> Any:
    """Return a whole number of at least `low`, or raise."""
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise wrong(owner, option, f"a whole number of {low} or more", value)
    return value


def named(owner: str, option: str, value: Any) -> Any:
    """Return a text that is not empty, or raise."""
    if not isinstance(value, str) or not value:
        raise wrong(owner, option, "a text that is not empty", value)
    return value


def flag(owner: str, option: str, value: Any) -> Any:
    """Return True or False, or raise."""
    if not isinstance(value, bool):
        raise wrong(owner, option, "True or False", value)
    return value


def mapping(owner: str, option: str, value: Any) -> dict[Any, Any]:
    """Return a copy of a mapping (nothing for None), or raise."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise wrong(owner, option, "a mapping such as {'db': 2}", value)
    return dict(value)


def units(owner: str, option: str, value: Any) -> dict[str, int]:
    """Return how many units of which pool, or raise."""
    pools = mapping(owner, option, value)
    for name, amount in pools.items():
        named(owner, f"{option}[...]", name)
        whole(owner, f"{option}[{name!r}]", amount)
    return pools


def texts(owner: str, option: str, value: Any) -> tuple[str, ...]:
    """Return several texts, or raise; one text is a mistake for a list of it."""
    if isinstance(value, str):
        raise wrong(owner, option, f"a list such as [{value!r}]", value)
    try:
        found = tuple(value)
    except TypeError:
        raise wrong(owner, option, "a list of texts", value) from None
    for text in found:
        named(owner, option, text)
    return found


def callback(owner: str, option: str, value: Any) -> Any:
    """Return something that can be called (or None), or raise."""
    if value is not None and not callable(value):
        raise wrong(owner, option, "a function", value)
    return value
