"""Bytes loaded, errors found, values changed; run by `make bench`."""

import dataclasses

from maestro_yaml_config_parser import SchemaError, load, loads

LINES = (5_000, 15_000, 50_000)


@dataclasses.dataclass
class Service:
    port: int
    name: str


def services(count, port="80"):
    return "".join(f"s{n}: {{port: {port}, name: shop {n}}}\n" for n in range(count))


def plain(count, _):
    text = services(count)
    return lambda: loads(text)


def checked(count, _):
    document = loads(services(count))
    return lambda: document.into(dict[str, Service])


def errors(count, _):
    document = loads(services(count, port="eighty"))

    def call():
        try:
            document.into(dict[str, Service])
        except SchemaError as error:
            assert len(error.diagnostics) == count  # noqa: PT017 - the count matters

    return call


def deep(count, _):
    """One list of `count` aliases to one anchor."""
    text = "base: &b {a: 1}\nall:\n" + "  - *b\n" * count
    return lambda: loads(text)


def overlay(count, folder):
    (folder / "base.yaml").write_text(services(count), encoding="utf-8")
    (folder / "over.yaml").write_text(services(count, port="81"), encoding="utf-8")
    return lambda: load(folder / "base.yaml", overlays=[folder / "over.yaml"])


CASES = {
    "lines loaded": (LINES, plain),
    "lines checked against a schema": (LINES, checked),
    "errors found and written": ((100, 300, 900), errors),
    "aliases": (LINES, deep),
    "lines overlaid": (LINES, overlay),
}
