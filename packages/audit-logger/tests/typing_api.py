"""Checked by mypy --strict, never run: the types that users rely on."""

from typing import assert_type

from maestro_audit_logger import (
    Actor,
    AuditLogger,
    Event,
    Receipt,
    VerifyReport,
    verify_log,
)

audit = AuditLogger("audit", origin="app.example/audit")
assert_type(audit.record("a.b", actor=Actor.user("u-1")), Receipt)
assert_type(audit.verify(), VerifyReport)
assert_type(verify_log("audit").ok, bool)
assert_type(audit.checkpoint(), str)


@audit.audited("role.grant", capture=["role"])
def grant(user: str, *, role: str) -> int:
    return len(user + role)


@audit.audited("role.revoke")
async def revoke(user: str) -> str:
    return user


async def main() -> None:
    assert_type(await audit.arecord("a.b"), Receipt)
    assert_type(await revoke("u-1"), str)
    async with audit.action("a.b") as action:
        action.data["n"] = 1


assert_type(grant("u-1", role="admin"), int)
for event in audit.query(actor="u-1"):
    assert_type(event, Event)
