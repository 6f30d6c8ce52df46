"""Audit log: JSON lines, each with the hash of the line before."""

import fcntl
import hashlib
import json
import os
import time
from dataclasses import dataclass
from types import SimpleNamespace


@dataclass(frozen=True)
class Actor:
    type: str
    id: str

    @classmethod
    def user(cls, id):
        return cls("user", id)

    @classmethod
    def service(cls, id):
        return cls("service", id)


class AuditLogger:
    def __init__(self, path, *, origin=None, actor=None):
        os.makedirs(path, exist_ok=True)
        self.file = os.path.join(path, "audit.jsonl")
        self.origin = origin
        self.actor = actor

    def record(self, action, *, actor=None, resource=None, outcome="success", data=None):
        who = actor or self.actor
        with open(self.file, "a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            last = b""
            for last in file:
                pass
            event = {
                "ts": time.time(),
                "actor": [who.type, who.id],
                "action": action,
                "resource": resource,
                "outcome": outcome,
                "data": data or {},
                "prev": hashlib.sha256(last).hexdigest(),
            }
            file.write(json.dumps(event).encode() + b"\n")

    def query(self, *, action=None):
        if not os.path.exists(self.file):
            return
        with open(self.file, "rb") as file:
            for line in file:
                event = SimpleNamespace(**json.loads(line))
                if action is None or event.action == action:
                    yield event

    def verify(self):
        last = b""
        with open(self.file, "rb") as file:
            for line in file:
                if json.loads(line)["prev"] != hashlib.sha256(last).hexdigest():
                    return SimpleNamespace(ok=False)
                last = line
        return SimpleNamespace(ok=True)

    def close(self):
        pass
