"""Write events in the formats that log systems and auditors read.

An exporter is any object with `write(events, stream) -> int`. The built-in
ones are made by name: `exporter("ocsf", version="1.8.0")`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from maestro_audit_logger._event import Event
from maestro_audit_logger.errors import UnknownFormat

if TYPE_CHECKING:
    from maestro_audit_logger.exporters._syslog import SyslogExporter, SyslogSender

__all__ = [
    "Exporter",
    "SyslogExporter",
    "SyslogSender",
    "export_to",
    "exporter",
    "names",
]

_BUILT_IN = {
    "cef": ("_siem", "CefExporter"),
    "cloudevents": ("_json", "CloudEventsExporter"),
    "csv": ("_csv", "CsvExporter"),
    "ecs": ("_json", "EcsExporter"),
    "jsonl": ("_json", "JsonlExporter"),
    "leef": ("_siem", "LeefExporter"),
    "ocsf": ("_ocsf", "OcsfExporter"),
    "otel": ("_otel", "OtelExporter"),
    "parquet": ("_parquet", "ParquetExporter"),
    "syslog": ("_syslog", "SyslogExporter"),
}


class Exporter(Protocol):
    """What writes events in one format."""

    def write(self, events: Iterable[Event], stream: BinaryIO) -> int:
        """Write the events; return how many."""


def names() -> list[str]:
    """Return the names of the built-in formats."""
    return sorted(_BUILT_IN)


def exporter(name: str, **options: Any) -> Exporter:
    """Make a built-in exporter.

    Raises:
        UnknownFormat: there is none of that name.
        ImportError: it needs an extra; the message says which.
        TypeError: it has no such option.
    """
    try:
        module, kind = _BUILT_IN[name]
    except KeyError:
        raise UnknownFormat(name, names()) from None
    make = getattr(import_module(f"{__name__}.{module}"), kind)
    if options:
        known = _options(make)
        for option in options:
            if option not in known:
                near = get_close_matches(option, known, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise TypeError(
                    f"format {name!r} has no option {option!r}, there are "
                    f"{', '.join(known) or 'none'}{hint}"
                )
    made: Exporter = make(**options)
    return made


def _options(make: Callable[..., Exporter]) -> list[str]:
    from inspect import Parameter, signature

    several = {Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD}
    parameters = signature(make).parameters
    return [name for name, one in parameters.items() if one.kind not in several]


def export_to(
    path: str | os.PathLike[str],
    form: str | Exporter,
    events: Iterable[Event],
    options: Mapping[str, Any],
) -> int:
    """Write events to a file that appears only when it is complete."""
    made = exporter(form, **options) if isinstance(form, str) else form
    with whole_file(path) as stream:
        return made.write(events, stream)


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a file for writing that appears only when the block has ended well."""
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as stream:
            yield stream
        temporary.replace(target)
    except BaseException as error:
        if isinstance(error, OSError) and error.filename == str(temporary):
            error.filename = str(target)  # the name that the caller knows
        temporary.unlink(missing_ok=True)
        raise


def write_each(
    events: Iterable[Event], stream: BinaryIO, encode: Callable[[Event], bytes]
) -> int:
    """Write the encoding of each event; return how many there were."""
    count = 0
    for event in events:
        stream.write(encode(event))
        count += 1
    return count


def __getattr__(name: str) -> Any:
    if name in {"SyslogExporter", "SyslogSender"}:
        return getattr(import_module(f"{__name__}._syslog"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
