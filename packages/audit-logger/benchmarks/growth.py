"""Events and what they cost together; run by `make bench`."""

from maestro_audit_logger import Actor, AuditLogger

DATA = {"amount": 1200, "note": "approved after review"}
SIZES = (5_000, 15_000, 50_000)


def opened(folder):
    return AuditLogger(folder / "audit", origin="bench", durability="os")


def fill(count, folder):
    with opened(folder) as audit:
        for number in range(count):
            actor = Actor.user(f"u-{number % 97}")
            audit.record("invoice.approve", actor=actor, data=DATA)


def record(count, folder):
    return lambda: fill(count, folder)


def verify(count, folder):
    fill(count, folder)

    def call():
        with opened(folder) as audit:
            assert audit.verify().ok

    return call


def query(count, folder):
    fill(count, folder)

    def call():
        with opened(folder) as audit:
            assert sum(1 for _ in audit.query(actor="u-42")) >= count // 97

    return call


def reopen(count, folder):
    fill(count, folder)
    return lambda: opened(folder).close()


CASES = {
    "record events": (SIZES, record),
    "verify events": (SIZES, verify),
    "query one actor": (SIZES, query),
}
