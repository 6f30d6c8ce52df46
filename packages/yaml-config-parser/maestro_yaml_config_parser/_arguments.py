"""Arguments are looked at before any work: what was given, and what to give."""

import os
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from ._diagnostics import closest
from ._source import Limits
from .errors import argument_error

P = ParamSpec("P")
T = TypeVar("T")


def known_names(function: Callable[P, T]) -> Callable[P, T]:
    """Refuse a misspelt keyword with the name that was meant."""
    code = function.__code__
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    known = [n for n in names if n != "self"]
    shown = function.__qualname__.removesuffix(".__init__") + "()"

    @wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> T:
        for name in kwargs:
            if name not in known:
                near = closest(name, known)
                hint = (
                    f"did you mean {near!r}?" if near else "it has " + ", ".join(known)
                )
                raise argument_error(shown, f"no argument {name!r}", hint)
        return function(*args, **kwargs)

    return checked


def check_file(where: str, name: str, value: object, hint: str = "") -> None:
    """Refuse what is not the name of a file."""
    check_is(where, name, "the name of a file", value, str | os.PathLike, hint)


def check_files(where: str, name: str, value: Any) -> tuple[Any, ...]:
    """Return a list of files as a tuple; one file is not a list of one."""
    if isinstance(value, str | os.PathLike):
        hint = f"write {name}=[{os.fspath(value)!r}]"
        raise _wrong(where, name, "a list of files", value, hint)
    if isinstance(value, bytes | Mapping) or not isinstance(value, Iterable):
        raise _wrong(where, name, "a list of files", value)
    files = tuple(value)
    for i, file in enumerate(files):
        check_file(where, f"{name}[{i}]", file)
    return files


def check_is(
    where: str, name: str, expected: str, value: object, kind: Any, hint: str = ""
) -> None:
    """Refuse a value of another type than `kind`."""
    if not isinstance(value, kind):
        raise _wrong(where, name, expected, value, hint)


def check_options(where: str, **given: Any) -> None:
    """Refuse options of the wrong type; None stands for an option not given."""
    for name, value in given.items():
        if value is None:
            continue
        expected, fits, hint = _OPTIONS[name]
        if not fits(value):
            raise _wrong(where, name, expected, value, hint)


def _wrong(where: str, name: str, expected: str, value: object, hint: str = "") -> Any:
    shown = repr(value)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    return argument_error(where, f"{name} is {expected}, got {shown}", hint)


def _is_mapping(value: object) -> bool:
    return isinstance(value, Mapping)


_OPTIONS: dict[str, tuple[str, Callable[[Any], bool], str]] = {
    "name": ("a text", lambda v: isinstance(v, str), ""),
    "profile": ("the name of a profile", lambda v: isinstance(v, str), ""),
    "merge": (
        "a mapping of paths to strategies", _is_mapping,
        'such as {"suites": "append"}',
    ),
    "env": ("a mapping of names to values", _is_mapping, "write env=os.environ"),
    "secrets": (
        "a mapping or a function", lambda v: isinstance(v, Mapping) or callable(v), "",
    ),
    "values": ("a mapping of names to values", _is_mapping, ""),
    "root": ("a folder", lambda v: isinstance(v, str | os.PathLike), ""),
    "limits": (
        "a Limits object", lambda v: isinstance(v, Limits),
        "such as Limits(depth=50)",
    ),
    "tags": (
        "a mapping of tags to functions", _is_mapping, 'such as {"!upper": str.upper}',
    ),
    "unknown_tags": (
        "'refuse' or 'ignore'", lambda v: v in ("refuse", "ignore"), "",
    ),
    "references": ("'refuse' or 'keep'", lambda v: v in ("refuse", "keep"), ""),
}  # fmt: skip
