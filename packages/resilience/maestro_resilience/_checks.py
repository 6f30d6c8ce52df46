"""Checks of settings: each names the policy, the field, the value, the range."""

from __future__ import annotations

from math import isfinite

from maestro_resilience.errors import ConfigurationError, UnknownSetting

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Self

    ExceptionTest = (
        type[Exception]
        | tuple[type[Exception] | Callable[[Exception], bool], ...]
        | Callable[[Exception], bool]
    )


def number(
    policy: str,
    field: str,
    value: object,
    *,
    above: float | None = None,
    least: float | None = None,
    most: float | None = None,
) -> float:
    """Return a finite number within the range, as a float."""
    allowed = "a number"
    if above is not None:
        allowed = f"a number above {above:g}"
    elif least is not None and most is not None:
        allowed = f"a number from {least:g} to {most:g}"
    elif least is not None:
        allowed = f"a number of at least {least:g}"
    if above is not None and most is not None:
        allowed += f" and at most {most:g}"
    good = isinstance(value, (int, float)) and not isinstance(value, bool)
    if good:
        found = float(value)  # type: ignore[arg-type]  # a number, as tested above
        good = isfinite(found) and not (
            (above is not None and found <= above)
            or (least is not None and found < least)
            or (most is not None and found > most)
        )
        if good:
            return found
    raise ConfigurationError(policy, field, value, allowed)


def whole(policy: str, field: str, value: object, *, least: int = 1) -> int:
    """Return an integer of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigurationError(
            policy, field, value, f"a whole number of at least {least}"
        )
    return value


def flag(policy: str, field: str, value: object) -> bool:
    """Return True or False; refuse what merely counts as one of them."""
    if not isinstance(value, bool):
        raise ConfigurationError(policy, field, value, "True or False")
    return value


class Checked:
    """A class whose misspelt settings are refused before Python does, with a hint."""

    __slots__ = ()

    if not TYPE_CHECKING:  # type checkers see the typed __init__ of each class

        def __new__(cls, *_args: Any, **given: Any) -> Self:
            # The code object knows the names; `inspect` would cost an import.
            code = getattr(cls.__init__, "__code__", None)
            if given and code is not None and not code.co_flags & _TAKES_ANY:
                known = code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount]
                for field in given:
                    if field not in known:
                        raise UnknownSetting(cls.__name__, field, known)
            return object.__new__(cls)


def offers(policy: str, field: str, value: object, allowed: str, *methods: str) -> None:
    """Refuse an object that lacks one of these methods."""
    if isinstance(value, type) or not all(
        callable(getattr(value, method, None)) for method in methods
    ):
        raise ConfigurationError(policy, field, value, allowed)


def name(policy: str, value: object) -> str:
    """Return a usable policy name."""
    if not isinstance(value, str) or not value or value != value.strip():
        raise ConfigurationError(
            policy, "name", value, "a string that is not empty, without outer blanks"
        )
    return value


def predicate(
    policy: str, field: str, value: Any, meaning: str
) -> Callable[[Any], bool]:
    """Return a function of one argument; refuse classes, which are callable too."""
    if isinstance(value, type) or not callable(value):
        raise ConfigurationError(policy, field, value, f"a function: {meaning}")
    found: Callable[[Any], bool] = value
    return found


def choice(policy: str, field: str, value: object, allowed: tuple[str, ...]) -> str:
    """Return one of the allowed words; suggest the nearest for another one."""
    if isinstance(value, str) and value in allowed:
        return value
    import difflib

    words = ", ".join(repr(word) for word in allowed)
    near = difflib.get_close_matches(str(value), allowed, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise ConfigurationError(policy, field, value, f"one of {words}{hint}")


_TAKES_ANY = 0x08  # inspect.CO_VARKEYWORDS
_ALLOWED = (
    "an Exception class, a function of the exception, or a tuple of these "
    "(KeyboardInterrupt, SystemExit, GeneratorExit and CancelledError "
    "always pass through)"
)


def exceptions(
    policy: str, field: str, value: Any
) -> tuple[tuple[type[Exception], ...], tuple[Callable[[Exception], bool], ...]]:
    """Split a setting such as `on=` into exception classes and predicates."""
    parts = value if isinstance(value, tuple) else (value,)
    types: list[type[Exception]] = []
    tests: list[Callable[[Exception], bool]] = []
    for part in parts:
        if isinstance(part, type):
            if not issubclass(part, Exception):
                raise ConfigurationError(policy, field, value, _ALLOWED)
            types.append(part)
        elif callable(part):
            tests.append(part)
        else:
            raise ConfigurationError(policy, field, value, _ALLOWED)
    return tuple(types), tuple(tests)


class ExceptionFilter:
    """Decide whether an exception is meant by a setting such as `on=`."""

    __slots__ = ("tests", "types")

    def __init__(self, policy: str, field: str, value: Any) -> None:
        self.types, self.tests = exceptions(policy, field, value)

    def __call__(self, error: Exception) -> bool:
        if isinstance(error, self.types):
            return True
        return any(test(error) for test in self.tests)
