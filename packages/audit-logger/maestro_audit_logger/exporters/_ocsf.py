"""Open Cybersecurity Schema Framework, https://schema.ocsf.io.

Most audit events are API Activity (class 6003). Actions that name a login, an
account or a group become the class that security tools look for.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, BinaryIO, final

from maestro_audit_logger._event import Event
from maestro_audit_logger.exporters import write_each
from maestro_audit_logger.exporters._json import client_address, json_line

API_ACTIVITY, AUTHENTICATION, ACCOUNT_CHANGE = 6003, 3002, 3001
_CATEGORIES = {3: "Identity & Access Management", 6: "Application Activity"}
_CLASSES = {
    API_ACTIVITY: "API Activity",
    AUTHENTICATION: "Authentication",
    ACCOUNT_CHANGE: "Account Change",
}
_CRUD = {
    1: ("create", "add", "insert", "register", "upload", "import", "post"),
    2: ("read", "get", "list", "view", "search", "export", "download", "query"),
    3: (
        "update",
        "edit",
        "change",
        "set",
        "approve",
        "grant",
        "revoke",
        "patch",
        "put",
    ),
    4: ("delete", "remove", "erase", "purge", "destroy"),
}
_LOGIN = {"login": 1, "logon": 1, "signin": 1, "logout": 2, "logoff": 2, "signout": 2}
_ACCOUNT = {
    "create": 1, "enable": 2, "password_change": 3, "password_reset": 4,
    "disable": 5, "delete": 6, "lock": 9, "unlock": 12,
}  # fmt: skip
_OTHER = 99
_STATUS = {
    "success": (1, "Success"),
    "failure": (2, "Failure"),
    "denied": (2, "Failure"),
}
_SEVERITY = {
    "success": (1, "Informational"),
    "failure": (2, "Low"),
    "denied": (3, "Medium"),
}


@final
class OcsfExporter:
    """OCSF events, one JSON object per line.

    Args:
        version: the schema version to state in `metadata.version`.
        product: the name of the product that recorded the events.
        vendor: its vendor.
    """

    def __init__(
        self,
        *,
        version: str = "1.8.0",
        product: str = "maestro-audit-logger",
        vendor: str = "Maestro",
    ) -> None:
        self._version = version
        self._product = {"name": product, "vendor_name": vendor}

    def write(self, events: Iterable[Event], stream: BinaryIO) -> int:
        """Write one OCSF event per line."""
        dump = json_line()
        return write_each(events, stream, lambda event: dump(self.encode(event)))

    def encode(self, event: Event) -> dict[str, Any]:
        """Return one event as an OCSF event."""
        class_uid, activity = classify(event.action)
        status, severity = (
            _STATUS.get(event.outcome, (0, "Unknown")),
            _SEVERITY.get(event.outcome, (1, "Informational")),
        )
        category = class_uid // 1000
        made: dict[str, Any] = {
            "activity_id": activity,
            "activity_name": event.action,
            "category_uid": category,
            "category_name": _CATEGORIES[category],
            "class_uid": class_uid,
            "class_name": _CLASSES[class_uid],
            "type_uid": class_uid * 100 + activity,
            "severity_id": severity[0],
            "severity": severity[1],
            "status_id": status[0],
            "status": status[1],
            "time": int(event.time.timestamp() * 1000),
            "message": event.action,
            "metadata": {
                "version": self._version,
                "product": self._product,
                "uid": event.leaf_hash,
                "sequence": event.seq,
                "original_time": event.ts,
            },
            "actor": _actor(event),
            "src_endpoint": _endpoint(event),
            "raw_data": event.raw.decode("ascii"),
            "unmapped": {"data": event.data, "ctx": event.ctx},
        }
        self._add_class(made, event, class_uid)
        return made

    def _add_class(self, made: dict[str, Any], event: Event, class_uid: int) -> None:
        resource = event.resource
        if class_uid == API_ACTIVITY:
            made["api"] = {"operation": event.action}
            if "request_id" in event.ctx:
                made["api"]["request"] = {"uid": str(event.ctx["request_id"])}
            if resource:
                made["resources"] = [{"uid": resource.id, "type": resource.type}]
            return
        if class_uid == AUTHENTICATION:
            made["service"] = {"name": self._product["name"]}
        if resource:
            made["user"] = {
                "uid": resource.id,
                "type_id": _OTHER,
                "type": resource.type,
            }
        else:
            made["user"] = _user(event)


def classify(action: str) -> tuple[int, int]:
    """Return class and activity of an action, by the words in its name."""
    noun, _, verb = action.lower().rpartition(".")
    if verb in _LOGIN:
        return AUTHENTICATION, _LOGIN[verb]
    if noun.rpartition(".")[2] in {"user", "account"} and verb in _ACCOUNT:
        return ACCOUNT_CHANGE, _ACCOUNT[verb]
    for activity, verbs in _CRUD.items():
        if verb.partition("_")[0] in verbs:
            return API_ACTIVITY, activity
    return API_ACTIVITY, _OTHER


def _actor(event: Event) -> dict[str, Any]:
    if event.actor.type == "user":
        return {"user": _user(event)}
    return {"app_name": event.actor.id, "user": _user(event)}


def _user(event: Event) -> dict[str, Any]:
    known = {"user": (1, "User"), "system": (3, "System"), "service": (4, "Service")}
    number, caption = known.get(event.actor.type, (_OTHER, event.actor.type))
    made: dict[str, Any] = {"uid": event.actor.id, "type_id": number, "type": caption}
    name = event.actor.attributes.get("name")
    if name:
        made["name"] = str(name)
    return made


def _endpoint(event: Event) -> dict[str, Any]:
    address = client_address(event)
    return {"ip": address} if address else {"name": "unknown"}
