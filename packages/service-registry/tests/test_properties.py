"""One model, every store: random commits, leases and reads agree."""

import uuid

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from maestro_service_registry import Conflict, open_store
from maestro_service_registry._store import Delete, Put

KEYS = st.sampled_from(["t/a", "t/a/b", "t/b", "t/\u00fc"])


class Model(RuleBasedStateMachine):
    """A dictionary beside the store."""

    url = "memory://"

    def __init__(self):
        super().__init__()
        self.store = open_store(self.url.replace("UNIQUE", uuid.uuid4().hex))
        self.base = self.last = self.store.read("").revision
        self.records, self.leases, self.log = {}, {}, []

    def teardown(self):
        self.store.close()

    def note(self, at, key, value):
        self.log.append((at, key, value))

    def put(self, at, key, value, lease):
        created = self.records[key][1] if key in self.records else at
        self.records[key] = (value, created, at, lease)
        self.note(at, key, value)

    @rule(key=KEYS, value=st.text(st.characters(codec="utf-8"), max_size=5))
    def write(self, key, value):
        at = self.store.commit([Put(key, value)])
        assert at > self.last
        self.last = at
        self.put(at, key, value, None)

    @rule(key=KEYS, guess=st.booleans())
    def compare_and_set(self, key, guess):
        real = self.records[key][2] if key in self.records else 0
        wanted = real if guess else real + 1
        try:
            at = self.store.commit([Put(key, "cas")], {key: wanted})
        except Conflict:
            assert not guess
        else:
            assert guess
            self.last = at
            self.put(at, key, "cas", None)

    @rule(keys=st.sets(KEYS, min_size=1))
    def delete(self, keys):
        at = self.store.commit([Delete(key) for key in sorted(keys)])
        self.last = max(self.last, at)
        for key in sorted(keys):
            if self.records.pop(key, None):
                self.note(at, key, None)

    @rule()
    def grant(self):
        self.leases[self.store.grant(600, strict=True, owner=None)] = True

    @precondition(lambda self: self.leases)
    @rule(key=KEYS, data=st.data())
    def write_leased(self, key, data):
        lease = data.draw(st.sampled_from(sorted(self.leases)))
        at = self.store.commit([Put(key, "leased", lease)])
        self.last = at
        self.put(at, key, "leased", lease)

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def revoke(self, data):
        lease = data.draw(st.sampled_from(sorted(self.leases)))
        assert self.store.revoke([lease]) == 1
        del self.leases[lease]
        gone = sorted(k for k, r in self.records.items() if r[3] == lease)
        for key in gone:
            del self.records[key]
            self.note(None, key, None)
        self.last = max(self.last, self.store.read("").revision)

    @invariant()
    def same_records(self):
        found = {
            r.key: (r.value, r.created, r.revision, r.lease)
            for r in self.store.read("").records
        }
        assert found == self.records

    @invariant()
    def same_events(self):
        if not self.log:
            return
        seen, since = [], self.base
        while len(seen) < len(self.log):
            batch = self.store.events("", since, 2)
            assert batch.events
            seen += [
                (e.revision, e.key, e.record.value if e.record else None)
                for e in batch.events
            ]
            since = batch.revision
        for (at, key, value), (revision, seen_key, seen_value) in zip(
            self.log, seen, strict=True
        ):
            assert (key, value) == (seen_key, seen_value)
            assert at in (None, revision)


@pytest.mark.parametrize("kind", ["memory", "sqlite", "redis", "etcd"])
def test_stores_behave_like_the_model(kind, tmp_path, request):
    url = {"memory": "memory://", "sqlite": f"sqlite:///{tmp_path}/UNIQUE.db"}.get(kind)
    if url is None:
        url = request.getfixturevalue(f"{kind}_url") + "?prefix=UNIQUE"
    machine = type(f"Model_{kind}", (Model,), {"url": url})
    examples = {"memory": 40, "sqlite": 10, "redis": 15, "etcd": 5}[kind]
    run_state_machine_as_test(
        machine,
        settings=settings(
            derandomize=True,
            max_examples=examples,
            stateful_step_count=15,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
