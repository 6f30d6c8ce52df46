"""Arguments are looked at before anything starts: what was given, what to give."""

import math
import os
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from maestro_test_adapters.errors import ArgumentError, did_you_mean

P = ParamSpec("P")
T = TypeVar("T")


def known_names(function: Callable[P, T]) -> Callable[P, T]:
    """Refuse a misspelt keyword with the name that was meant."""
    known = names_of(function)
    shown = function.__qualname__.removesuffix(".__init__")

    @wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> T:
        for name in kwargs:
            if name not in known:
                raise unknown_name(shown, name, known)
        return function(*args, **kwargs)

    return checked


def names_of(function: Any) -> list[str]:
    """Return the names that a function takes as keywords."""
    code = getattr(function, "__wrapped__", function).__code__
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    return [name for name in names if name not in ("self", "cls")]


def unknown_name(where: str, name: str, known: Iterable[str]) -> ArgumentError:
    """Return the error for a keyword that a function does not have."""
    near = did_you_mean(name, known)
    has = near or f"; it has {', '.join(known)}"
    return ArgumentError(f"{where}: no argument {name!r}{has}")


def wrong(where: str, name: str, expected: str, value: object) -> ArgumentError:
    """Return the error for an argument of the wrong kind."""
    shown = repr(value)
    shown = shown if len(shown) <= 100 else shown[:97] + "..."
    return ArgumentError(f"{where}: {name} must be {expected}, got {shown}")


def words(where: str, name: str, value: Any) -> list[str]:
    """Return a list of texts or paths as texts; one text is not a list of one."""
    expected = "a list of texts"
    if isinstance(value, str | os.PathLike):
        raise wrong(where, name, f"{expected}, such as [{str(value)!r}]", value)
    if isinstance(value, bytes | Mapping) or not isinstance(value, Iterable):
        raise wrong(where, name, expected, value)
    made = []
    for word in value:
        if not isinstance(word, str | os.PathLike):
            raise wrong(where, name, expected, value)
        made.append(os.fspath(word))
    return made


def seconds(where: str, name: str, value: Any, *, zero: bool = False) -> None:
    """Refuse what is no time."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not (0 <= value < math.inf) or (value == 0 and not zero):
        least = "from 0" if zero else "more than 0"
        raise wrong(where, name, f"a number of seconds, {least}", value)


def count(where: str, name: str, value: Any) -> None:
    """Refuse what is no whole number from 0."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise wrong(where, name, "a whole number, 0 or more", value)


def path(where: str, name: str, value: Any) -> None:
    """Refuse what names no file or folder."""
    if not isinstance(value, str | os.PathLike):
        raise wrong(where, name, "a path", value)


def browser_settings(where: str, **given: Any) -> None:
    """Refuse settings of a browser that it would stumble over later."""
    if not isinstance(given["browser"], str):
        raise wrong(where, "browser", "a name such as 'chromium'", given["browser"])
    seconds(where, "timeout", given["timeout"], zero=True)
    words(where, "args", given["args"])
    path(where, "artifacts", given["artifacts"])
    for name in ("base_url", "remote_url"):
        if not isinstance(given.get(name), str | None):
            raise wrong(where, name, "an address", given[name])
    for name in ("binary", "driver"):
        if given.get(name) is not None:
            path(where, name, given[name])
    window = given["window"]
    if (
        not isinstance(window, tuple | list)
        or len(window) != 2
        or not all(type(size) is int and size > 0 for size in window)
    ):
        raise wrong(where, "window", "width and height, such as (1280, 720)", window)
