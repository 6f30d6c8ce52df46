"""The part of JSON Schema that structured answers need."""

from collections.abc import Mapping
from typing import Any, Final

_TYPES: Final[dict[str, tuple[type, ...]]] = {
    "object": (dict,), "array": (list,), "string": (str,), "boolean": (bool,),
    "integer": (int,), "number": (int, float), "null": (type(None),),
}  # fmt: skip


def problems(value: Any, schema: Mapping[str, Any], where: str = "$") -> list[str]:
    """Return what is wrong with `value`, each with its path; empty when right.

    Knows type, enum, const, properties, required, additionalProperties (false),
    items, minItems, maxItems, minLength, maxLength, minimum, maximum, anyOf.
    """
    found = _type_problem(value, schema, where)
    if found:
        return found
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{where}: {value!r} is not one of {schema['enum']}")
    if "const" in schema and value != schema["const"]:
        found.append(f"{where}: expected {schema['const']!r}, got {value!r}")
    if "anyOf" in schema and all(problems(value, s, where) for s in schema["anyOf"]):
        found.append(f"{where}: fits none of {len(schema['anyOf'])} alternatives")
    if isinstance(value, dict):
        found += _object(value, schema, where)
    elif isinstance(value, list):
        found += _size(len(value), schema, where, "Items")
        inner = schema.get("items")
        if inner:
            for n, item in enumerate(value):
                found += problems(item, inner, f"{where}[{n}]")
    elif isinstance(value, str):
        found += _size(len(value), schema, where, "Length")
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        if value < schema.get("minimum", value):
            found.append(f"{where}: {value} is below {schema['minimum']}")
        if value > schema.get("maximum", value):
            found.append(f"{where}: {value} is above {schema['maximum']}")
    return found


def _type_problem(value: Any, schema: Mapping[str, Any], where: str) -> list[str]:
    wanted = schema.get("type")
    if wanted is None:
        return []
    names = [wanted] if isinstance(wanted, str) else list(wanted)
    for name in names:
        fits = isinstance(value, _TYPES.get(name, (object,)))
        if fits and not (isinstance(value, bool) and name in {"integer", "number"}):
            return []
    return [f"{where}: expected {' or '.join(names)}, got {value!r:.60}"]


def _object(value: dict[str, Any], schema: Mapping[str, Any], where: str) -> list[str]:
    known = schema.get("properties", {})
    found = [
        f"{where}.{k}: missing" for k in schema.get("required", ()) if k not in value
    ]
    for key, item in value.items():
        if key in known:
            found += problems(item, known[key], f"{where}.{key}")
        elif schema.get("additionalProperties") is False:
            found.append(f"{where}.{key}: not expected")
    return found


def _size(n: int, schema: Mapping[str, Any], where: str, what: str) -> list[str]:
    low, high = schema.get(f"min{what}"), schema.get(f"max{what}")
    if low is not None and n < low:
        return [f"{where}: {n} is fewer than {low}"]
    if high is not None and n > high:
        return [f"{where}: {n} is more than {high}"]
    return []
