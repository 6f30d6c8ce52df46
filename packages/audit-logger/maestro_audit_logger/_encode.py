"""Turn a caller's event into the bytes that are stored, and never again.

Keys of the envelope have a fixed order, the rest is sorted, everything is
ASCII: no separator of any alphabet can split a line, and a search for
`"actor":{"type":"user","id":"u-1"` finds every record of that actor.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from json.encoder import encode_basestring_ascii as quote
from typing import Any, final

from maestro_audit_logger._clean import (
    BadValue,
    Sealed,
    Walk,
    dumps,
    kind_of,
    plain_json,
)
from maestro_audit_logger._event import (
    OUTCOMES,
    SYSTEM_PREFIX,
    Actor,
    Resource,
    how_to_name,
)
from maestro_audit_logger._redact import Redactor
from maestro_audit_logger.errors import InvalidEvent

MAX_LINE = 65_535  # the entry limit of C2SP tlog-tiles
ENVELOPE_ROOM = 160  # seq, prev and punctuation, added when the line is chained
_ACTION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:/-]{0,127}\Z")

ResourceLike = Resource | tuple[str, str] | None


@final
class Encoder:
    """Check, redact and encode; stateless but for small caches.

    Args:
        redactor: decides which values are hidden.
        clock_ns: nanoseconds since the epoch.
        random_bytes: the source of salts.
    """

    def __init__(
        self,
        redactor: Redactor,
        *,
        clock_ns: Callable[[], int] = time.time_ns,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._redactor = redactor
        self._clock_ns = clock_ns
        self._random = random_bytes
        self._second = (-1, "")
        self._actions: set[str] = set()

    def now(self) -> str:
        """Return the time as RFC 3339 in UTC with microseconds."""
        seconds, nanos = divmod(self._clock_ns(), 1_000_000_000)
        last, text = self._second
        if seconds != last:
            moment = datetime.fromtimestamp(seconds, UTC)
            text = moment.strftime("%Y-%m-%dT%H:%M:%S")
            self._second = (seconds, text)
        return f"{text}.{nanos // 1000:06d}Z"

    def body(
        self,
        ts: str,
        actor_json: str,
        action: str,
        resource: ResourceLike,
        outcome: str,
        ctx_json: str,
        data: Mapping[str, Any] | None,
        subject: str,
        *,
        system: bool = False,
    ) -> tuple[bytes, list[Sealed]]:
        """Encode everything after `prev`, with the private values found in it."""
        if action not in self._actions:
            self._check_action(action, system=system)
        if outcome not in OUTCOMES:
            raise InvalidEvent(
                "$.outcome", f"expected one of {', '.join(OUTCOMES)}, got {outcome!r}"
            )
        sealed: list[Sealed] = []
        data_json = self.mapping(data, "$.data", subject, sealed) if data else "{}"
        head = (
            f'"ts":"{ts}","actor":{actor_json},"action":"{action}",'
            f'"resource":{self._resource(resource)},"outcome":"{outcome}",'
            f'"ctx":{ctx_json},"data":'
        )
        if len(head) + len(data_json) + ENVELOPE_ROOM > MAX_LINE:
            if len(head) + 2 * ENVELOPE_ROOM > MAX_LINE:
                raise InvalidEvent(
                    "$",
                    f"expected at most {MAX_LINE} bytes, got {len(head)} without data",
                )
            data_json, sealed = _truncated(data_json), []
        return f"{head}{data_json}}}".encode("ascii"), sealed

    def actor(self, actor: Actor) -> str:
        """Encode the actor; done once per `bind`."""
        if not isinstance(actor, Actor):
            raise InvalidEvent(
                "$.actor", f"expected an Actor, got {actor!r}{how_to_name(actor)}"
            )
        return self._identified("$.actor", actor.type, actor.id, actor.attributes)

    def mapping(
        self,
        value: Mapping[str, Any],
        where: str,
        subject: str = "",
        sealed: list[Sealed] | None = None,
    ) -> str:
        """Check, redact and encode a mapping.

        Private values are allowed only where `sealed` collects them.
        """
        if type(value) is dict:
            text = plain_json(value, self._redactor.plain, 1)
            if text is not None:
                return text
        if not isinstance(value, Mapping):
            raise InvalidEvent(where, f"expected a mapping, got {kind_of(value)}")
        walk = Walk(self._redactor, subject, sealed, self._random)
        try:
            return dumps(walk.mapping(value, "", 1))
        except BadValue as bad:
            raise InvalidEvent(where + bad.path(), bad.message) from None

    def _check_action(self, action: object, *, system: bool) -> None:
        if not isinstance(action, str) or not _ACTION.match(action):
            raise InvalidEvent(
                "$.action",
                "expected 1 to 128 letters, digits and any of _.:/- "
                f"such as 'invoice.approve', got {action!r}",
            )
        if system:
            return
        if action.startswith(SYSTEM_PREFIX):
            raise InvalidEvent(
                "$.action",
                f"{action!r}: names that start with {SYSTEM_PREFIX!r} "
                "are for the log's own records",
            )
        if len(self._actions) < 4096:
            self._actions.add(action)

    def _resource(self, resource: object) -> str:
        if resource is None:
            return "null"
        if type(resource) is tuple and len(resource) == 2:
            kind, name = resource
            if type(kind) is str and type(name) is str and kind and name:
                return f'{{"type":{quote(kind)},"id":{quote(name)}}}'
        if isinstance(resource, Resource):
            return self._identified(
                "$.resource", resource.type, resource.id, resource.attributes
            )
        if isinstance(resource, tuple) and len(resource) == 2:
            return self._identified("$.resource", resource[0], resource[1], {})
        raise InvalidEvent(
            "$.resource", f"expected (type, id) or a Resource, got {resource!r}"
        )

    def _identified(
        self, where: str, kind: object, name: object, attributes: Mapping[str, Any]
    ) -> str:
        if not isinstance(kind, str) or not kind:
            raise InvalidEvent(
                f"{where}.type", f"expected a non-empty string, got {kind!r}"
            )
        if not isinstance(name, str) or not name:
            raise InvalidEvent(
                f"{where}.id", f"expected a non-empty string, got {name!r}"
            )
        text = f'{{"type":{quote(kind)},"id":{quote(name)}'
        if not attributes:
            return text + "}"
        for reserved in ("type", "id"):
            if reserved in attributes:
                raise InvalidEvent(
                    f"{where}.{reserved}", "given twice, also as an attribute"
                )
        return f"{text},{self.mapping(attributes, where)[1:]}"


def _truncated(data_json: str) -> str:
    """Replace data over the limit by its size and digest: bounded, but not silent."""
    raw = data_json.encode("ascii")
    digest = hashlib.sha256(raw).hexdigest()
    return dumps({"truncated": True, "bytes": len(raw), "sha256": digest})
