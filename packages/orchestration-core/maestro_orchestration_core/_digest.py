"""JSON in one form and hashes over it: equal data has equal digests."""

import hashlib
import json
from json.encoder import encode_basestring
from typing import Final

# Kept: json.dumps makes an encoder per call when its options are not the defaults.
_CANONICAL: Final = json.JSONEncoder(
    ensure_ascii=False, sort_keys=True, separators=(",", ":")
)


def dump(value: object) -> str:
    """Return JSON in one canonical form, so that equal data has equal digests."""
    return _CANONICAL.encode(value)


def digest(value: object) -> str:
    """Return a short SHA-256 over the canonical JSON of `value`."""
    return _hash(dump(value))


def pair_digest(left: str, right: str) -> str:
    """Return `digest([left, right])`, at a third of the cost."""
    return _hash(f"[{encode_basestring(left)},{encode_basestring(right)}]")


def _hash(text: str) -> str:
    # surrogatepass: an endpoint may answer with half of a surrogate pair.
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]
