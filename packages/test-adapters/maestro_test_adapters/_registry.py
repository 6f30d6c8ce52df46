"""Adapters by name: ours, those that a program registers, those that packages bring."""

from collections.abc import Callable
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from maestro_test_adapters.errors import AdapterNotFound

ENTRY_POINTS = "maestro.test_adapters"

_OURS = {
    "behave": "_robot:BehaveAdapter",
    "command": "_command:CommandAdapter",
    "playwright": "_playwright:PlaywrightAdapter",
    "pytest": "_pytest:PytestAdapter",
    "robot": "_robot:RobotAdapter",
    "selenium": "_selenium:SeleniumAdapter",
    "unittest": "_unittest:UnittestAdapter",
}


class Registry:
    """Adapters by name. Thread-safe for reading; register before threads start."""

    def __init__(self) -> None:
        self._made: dict[str, Callable[..., Any]] = {}

    def register(self, name: str, adapter: Callable[..., Any]) -> None:
        """Make an adapter known by a name; the last one registered wins."""
        if not name or not name.isascii() or name != name.strip():
            raise ValueError(f"an adapter's name must be plain text, got {name!r}")
        self._made[name] = adapter

    def names(self) -> list[str]:
        """Return the known names."""
        found = {point.name for point in entry_points(group=ENTRY_POINTS)}
        return sorted({*_OURS, *self._made, *found})

    def get(self, name: str) -> Callable[..., Any]:
        """Return what makes the adapter of a name: usually its class.

        Raises:
            AdapterNotFound: With the names that there are.
            ImportError: The adapter needs an extra; carries the install line.
        """
        if name in self._made:
            return self._made[name]
        if name in _OURS:
            module, _, attribute = _OURS[name].partition(":")
            made: Callable[..., Any] = getattr(
                import_module(f"maestro_test_adapters.{module}"), attribute
            )
            return made
        for point in entry_points(group=ENTRY_POINTS, name=name):
            loaded: Callable[..., Any] = point.load()
            return loaded
        raise AdapterNotFound(name, self.names())


_default = Registry()


def get_adapter(name: str) -> Callable[..., Any]:
    """Return the adapter class of a name; see `Registry.get`."""
    return _default.get(name)


def register_adapter(name: str, adapter: Callable[..., Any]) -> None:
    """Make an adapter known to `get_adapter`, the plans and the command line."""
    _default.register(name, adapter)


def adapter_names() -> list[str]:
    """Return the names that `get_adapter` knows."""
    return _default.names()
