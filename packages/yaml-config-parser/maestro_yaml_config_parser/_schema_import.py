"""Check a document against a JSON Schema, with places (extra `schema`)."""

from collections.abc import Iterator, Mapping
from typing import Any

from ._diagnostics import Diagnostic, did_you_mean
from ._document import Document
from ._expressions import Secret
from ._schema import in_order
from .errors import SchemaError

try:
    import jsonschema
except ImportError as e:
    raise ImportError(
        'JSON Schema needs jsonschema: pip install "maestro-yaml-config-parser[schema]"'
    ) from e


def validate(document: Document, schema: Mapping[str, Any]) -> None:
    """Raise SchemaError with every finding."""
    kind = jsonschema.validators.validator_for(
        schema, default=jsonschema.Draft202012Validator
    )
    kind.check_schema(dict(schema))
    found: list[Diagnostic] = []
    for error in kind(schema).iter_errors(document.root):
        found.extend(_findings(document, error))
    if found:
        raise SchemaError(in_order(found))


def _findings(document: Document, error: Any) -> Iterator[Diagnostic]:
    path = tuple(error.absolute_path)
    if error.validator == "additionalProperties" and isinstance(error.instance, dict):
        known = list(error.schema.get("properties", {}))
        for key in error.instance:
            if key not in known and repr(key) in error.message:
                yield document.diagnostic(
                    (*path, key), f"unknown key {key!r}",
                    code="unknown-key", hint=did_you_mean(key, known), key=True,
                )  # fmt: skip
        return
    if error.validator in ("anyOf", "oneOf") and error.context:
        best = jsonschema.exceptions.best_match([error])
        if best is not None and best is not error:
            yield from _findings(document, best)
            return
    hint = ""
    if error.validator == "enum":
        hint = did_you_mean(error.instance, error.validator_value)
    secret = isinstance(error.instance, Secret)
    message = f"does not fit {error.validator!r}" if secret else error.message
    yield document.diagnostic(path, message, code=str(error.validator), hint=hint)
