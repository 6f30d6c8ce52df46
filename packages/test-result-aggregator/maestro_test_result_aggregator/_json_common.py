"""What readers of JSON documents share."""

from collections.abc import Mapping
from typing import Any

from ._model import TestResult, make

Json = Mapping[str, Any]


def clean(fields: dict[str, Any]) -> TestResult:
    return make({k: v for k, v in fields.items() if v not in (None, "", (), {})
                 or k in ("id", "name")})  # fmt: skip
