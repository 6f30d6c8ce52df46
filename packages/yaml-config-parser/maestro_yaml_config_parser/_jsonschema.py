"""Export dataclasses as JSON Schema (draft 2020-12), for editors."""

import dataclasses
import enum
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Union

from ._schema import fields_of

_SCALARS: dict[Any, dict[str, Any]] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    type(None): {"type": "null"},
    None: {"type": "null"},
    Any: {},
    object: {},
}
_BOUNDS = {
    "ge": "minimum",
    "gt": "exclusiveMinimum",
    "le": "maximum",
    "lt": "exclusiveMaximum",
    "pattern": "pattern",
}


def json_schema(cls: type, *, title: str = "") -> dict[str, Any]:
    """Return the JSON Schema of a dataclass.

    Put `# yaml-language-server: $schema=plan.schema.json` on the first line of
    a YAML file and editors complete and check it.
    """
    defs: dict[str, Any] = {}
    top = schema_of(cls, defs)
    name = top["$ref"].rsplit("/", 1)[-1] if "$ref" in top else ""
    body = defs.pop(name, top)
    if name and f'"#/$defs/{name}"' in repr((body, defs)).replace("'", '"'):
        defs[name] = body
    result = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": title or cls.__name__,
        **body,
    }
    if defs:
        result["$defs"] = dict(sorted(defs.items()))
    return result


def schema_of(kind: Any, defs: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of one type; dataclasses go to `defs`."""
    if kind in _SCALARS:
        return dict(_SCALARS[kind])
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return _bounded(schema_of(args[0], defs), args[1:])
    if origin is Union or origin is types.UnionType:
        return {"anyOf": [schema_of(a, defs) for a in args]}
    if origin is Literal:
        return {"enum": list(args)}
    if isinstance(kind, type) and hasattr(kind, "__config_schema__"):
        return _defined(kind, defs, lambda: kind.__config_schema__(defs))
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _defined(kind, defs, lambda: _object(kind, defs))
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return {"enum": [m.value for m in kind]}
    plain = origin or kind
    if plain in (list, tuple, set, frozenset, Sequence):
        item = next((a for a in args if a is not Ellipsis), Any)
        return {"type": "array", "items": schema_of(item, defs)}
    if plain in (dict, Mapping):
        value = args[1] if args else Any
        return {"type": "object", "additionalProperties": schema_of(value, defs)}
    raise TypeError(f"maestro-config has no JSON Schema for {kind!r}")


def _defined(kind: type, defs: dict[str, Any], make: Any) -> dict[str, Any]:
    name = kind.__name__
    if name not in defs:
        defs[name] = {}
        defs[name] = make()
    return {"$ref": f"#/$defs/{name}"}


def _object(cls: type, defs: dict[str, Any]) -> dict[str, Any]:
    properties: dict[str, Any] = {}
    required = []
    for field in fields_of(cls):
        schema = schema_of(field.type, defs)
        if field.description:
            schema["description"] = field.description
        if isinstance(field.default, str | int | float) and field.default != "":
            schema["default"] = field.default
        for key in field.keys:
            properties[key] = schema
        if field.required:
            required.append(field.keys[0])
    result: dict[str, Any] = {"type": "object"}
    summary = (cls.__doc__ or "").strip().splitlines()
    if summary and not summary[0].startswith(f"{cls.__name__}("):
        result["description"] = summary[0]
    result["properties"] = properties
    if required:
        result["required"] = required
    result["additionalProperties"] = False
    return result


def _bounded(schema: dict[str, Any], extras: Sequence[Any]) -> dict[str, Any]:
    for extra in extras:
        for name, keyword in _BOUNDS.items():
            if getattr(extra, name, None) is not None:
                schema[keyword] = getattr(extra, name)
        for name, ending in (("min_length", "min"), ("max_length", "max")):
            if getattr(extra, name, None) is not None:
                noun = {"array": "Items", "object": "Properties"}
                schema[ending + noun.get(schema.get("type", ""), "Length")] = getattr(
                    extra, name
                )
    return schema
