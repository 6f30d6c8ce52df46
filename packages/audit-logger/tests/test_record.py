"""Recording: what is stored, what is refused, who is named."""

import asyncio
import json
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

import pytest
from maestro_audit_logger import (
    Actor,
    AuditError,
    AuditLogger,
    AuditUnavailable,
    InvalidEvent,
    InvalidSetting,
    LogClosed,
    LogDamaged,
    LogNotFound,
    MissingActor,
    Private,
    Resource,
    Secret,
    WrongOrigin,
)


def last(audit):
    return next(iter(audit.query(newest_first=True, limit=1)))


def test_a_receipt_names_the_stored_line(make_log):
    """The leaf hash of the receipt is that of the bytes on disk."""
    audit = make_log()
    receipt = audit.record("invoice.approve", resource=("invoice", "inv-7"))
    event = last(audit)
    assert (event.seq, event.leaf_hash) == (receipt.seq, receipt.leaf_hash)
    assert receipt.fate == "stored"


def test_the_envelope_has_a_fixed_order_and_the_rest_is_sorted(make_log):
    """A byte search can rely on the order of keys."""
    audit = make_log()
    audit.record("a.b", data={"b": 1, "a": 2}, ctx={"ip": "::1"})
    line = last(audit).raw.decode()
    keys = list(json.loads(line))
    wanted = "seq prev ts actor action resource outcome ctx data".split()
    assert keys == wanted
    assert '"data":{"a":2,"b":1}' in line


@pytest.mark.parametrize(
    ("data", "where"),
    [
        ({"x": float("nan")}, "$.data.x"),
        ({"x": [1, float("inf")]}, "$.data.x[1]"),
        ({"x": {1: "a"}}, "$.data.x"),
        ({None: 1}, "$.data"),
        ({"x": 10**400}, "$.data.x"),
        ({"x": b"raw"}, "$.data.x"),
        ({"x": object()}, "$.data.x"),
        ({"x": datetime(2026, 1, 1)}, "$.data.x"),
    ],
)
def test_what_json_cannot_hold_is_refused_with_its_path(make_log, data, where):
    """The error names the place, and nothing is stored."""
    audit = make_log()
    before = audit.record("a.b").seq
    with pytest.raises(InvalidEvent) as caught:
        audit.record("a.b", data=data)
    assert caught.value.where == where
    assert audit.record("a.b").seq == before + 1


def test_a_loop_in_the_data_is_refused(make_log):
    """Depth is bounded, so recursion ends in an error and not in a crash."""
    audit = make_log()
    loop = {}
    loop["again"] = loop
    with pytest.raises(InvalidEvent, match="64 levels"):
        audit.record("a.b", data=loop)


def test_common_types_are_written_as_text(make_log):
    """Times, ids and amounts need no conversion by the caller."""
    audit = make_log()
    audit.record(
        "a.b",
        data={
            "at": datetime(2026, 1, 2, tzinfo=UTC),
            "id": UUID(int=1),
            "amount": Decimal("1.20"),
        },
    )
    assert last(audit).data == {
        "at": "2026-01-02T00:00:00Z",
        "id": "00000000-0000-0000-0000-000000000001",
        "amount": "1.20",
    }


@pytest.mark.parametrize(
    "text",
    ["a\u2028b", "a\u2029b", "a\x85b", "a\nb", "a\r\nb", "\ud800", "\x00", "\x1b[31m"],
)
def test_foreign_separators_stay_inside_their_line(make_log, folder, text):
    """No alphabet can split a line, and the value comes back unchanged."""
    audit = make_log()
    audit.record("a.b", data={"text": text}, resource=("doc", text))
    assert last(audit).data["text"] == text
    raw = (folder / f"{1:020d}.jsonl").read_bytes()
    assert raw.isascii()
    assert len(raw.splitlines()) == raw.count(b"\n") == 2
    assert audit.verify(full=True).ok


@pytest.mark.parametrize("action", ["", "a b", "audit.recovered", "x" * 129, 7, "a\n"])
def test_actions_are_names_and_the_logs_own_are_reserved(make_log, action):
    """Nobody can write a recovery record by calling record."""
    with pytest.raises(InvalidEvent, match=r"\$\.action"):
        make_log().record(action)


def test_an_actor_is_required(folder):
    """Forgetting who acts is an error, not an empty field."""
    with AuditLogger(folder, origin="x") as audit, pytest.raises(MissingActor):
        audit.record("a.b")


def test_data_over_the_limit_is_replaced_by_its_digest(make_log):
    """A line stays under 65,535 bytes and says what it leaves out."""
    audit = make_log()
    audit.record("a.b", data={"blob": "x" * 100_000})
    event = last(audit)
    assert event.data["truncated"] is True
    assert event.data["bytes"] > 100_000
    with pytest.raises(InvalidEvent, match="at most 65535"):
        audit.record("a.b", resource=("x", "y" * 70_000))


def test_secrets_and_redacted_names_never_reach_the_disk(make_log, folder):
    """Patterns match keys at any depth and dotted paths by their end."""
    audit = make_log(redact=["*password*", "card.*"])
    audit.record(
        "a.b",
        data={
            "deep": [{"Old-Password": "hunter2"}],
            "order": {"card": {"number": "hunter2"}},
            "key": Secret("hunter2"),
            "number": "kept",
        },
        ctx={"password": "hunter2"},
    )
    assert b"hunter2" not in (folder / f"{1:020d}.jsonl").read_bytes()
    data = last(audit).data
    assert data["deep"] == [{"Old-Password": "[redacted]"}]
    assert data["key"] == "[secret]"
    assert data["number"] == "kept"
    assert "hunter2" not in repr(Secret("hunter2")) + repr(Private("hunter2"))


def test_an_exceptions_message_is_not_recorded(make_log, folder):
    """Error texts quote passwords; the type is enough."""
    audit = make_log()
    with pytest.raises(ValueError, match="hunter2"), audit.action("user.login"):
        raise ValueError("bad password hunter2")
    assert b"hunter2" not in (folder / f"{1:020d}.jsonl").read_bytes()
    assert last(audit).data == {"error": "ValueError"}
    assert last(audit).outcome == "failure"


def test_bindings_nest_and_end(make_log):
    """The inner actor goes, the outer one comes back."""
    audit = make_log()
    with audit.bind(actor=Actor.user("outer"), request_id="r1"):
        with audit.bind(actor=Actor.user("inner"), ip="::1"):
            audit.record("a.b")
            inner = last(audit)
        audit.record("a.b")
        outer = last(audit)
    audit.record("a.b")
    assert inner.actor.id == "inner"
    assert inner.ctx == {"request_id": "r1", "ip": "::1"}
    assert (outer.actor.id, outer.ctx) == ("outer", {"request_id": "r1"})
    assert last(audit).actor.id == "u-1"


def test_context_goes_to_tasks_and_through_carry_to_threads(make_log):
    """Tasks inherit; a pool's thread gets what carry has captured."""
    audit = make_log()

    async def main():
        async def task(name):
            with audit.bind(actor=Actor.user(name)):
                await asyncio.sleep(0)
                return await audit.arecord("a.task", data={"name": name})

        await asyncio.gather(*(task(f"t{n}") for n in range(20)))

    asyncio.run(main())
    for event in audit.query(action="a.task"):
        assert event.actor.id == event.data["name"]
    with ThreadPoolExecutor(4) as pool:
        with audit.bind(actor=Actor.user("boss")):
            work = audit.carry(lambda n: audit.record("a.thread", data={"n": n}))
        list(pool.map(work, range(8)))
    assert {e.actor.id for e in audit.query(action="a.thread")} == {"boss"}


def test_an_action_stores_intent_then_outcome(make_log):
    """The outcome points at its intent."""
    audit = make_log()
    with audit.action("user.delete", resource=("user", "u-9")) as action:
        assert last(audit).ctx == {"phase": "intent"}
        action.data["rows"] = 3
    event = last(audit)
    assert event.ctx == {"phase": "outcome", "intent": action.intent.seq}
    assert (event.outcome, event.data) == ("success", {"rows": 3})


def test_a_permission_error_is_a_denial(make_log):
    """Who is turned away is not who has failed."""
    audit = make_log()
    with pytest.raises(PermissionError), audit.action("user.delete"):
        raise PermissionError
    assert last(audit).outcome == "denied"


def test_audited_captures_named_parameters(make_log):
    """Sync and async functions keep their names, results and errors."""
    audit = make_log()

    @audit.audited(
        "role.grant", resource=lambda user, role: ("user", user), capture=["role"]
    )
    def grant(user, role):
        return f"{user}:{role}"

    @audit.audited("role.revoke", capture=["user"])
    async def revoke(user):
        await asyncio.sleep(0)
        raise KeyError(user)

    assert grant("u-9", "admin") == "u-9:admin"
    assert last(audit).resource == Resource("user", "u-9")
    intents = [
        e for e in audit.query(action="role.grant") if e.ctx["phase"] == "intent"
    ]
    assert intents[0].data == {"role": "admin"}
    with pytest.raises(KeyError):
        asyncio.run(revoke("u-1"))
    assert last(audit).outcome == "failure"
    assert grant.__name__ == "grant"
    with pytest.raises(TypeError, match="no parameter 'rol'"):
        audit.audited("x.y", capture=["rol"])(grant)


def test_a_cancelled_action_still_has_an_outcome(make_log):
    """A task that is cancelled leaves a failure behind, not an open intent."""
    audit = make_log()

    async def main():
        async def work():
            async with audit.action("job.run"):
                await asyncio.sleep(60)

        task = asyncio.create_task(work())
        while not list(audit.query(action="job.run")):
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert last(audit).outcome == "failure"


@pytest.mark.parametrize("cancels", [1, 3])
def test_an_action_cancelled_amid_its_intent_has_an_outcome(make_log, cancels):
    """The intent is stored all the same; the block never runs."""
    audit = make_log()
    begun, go = threading.Event(), threading.Event()
    real = audit._committer.commit_many

    def slow(bodies):
        begun.set()
        assert go.wait(60)
        return real(bodies)

    async def work():
        async with audit.action("job.run"):
            raise AssertionError("the block ran")

    async def main():
        task = asyncio.create_task(work())
        while not begun.is_set():
            await asyncio.sleep(0.001)
        for _ in range(cancels):
            task.cancel()
            await asyncio.sleep(0)
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    audit._committer.commit_many = slow
    asyncio.run(main())
    intent, outcome = audit.query(action="job.run")
    assert (intent.outcome, outcome.outcome) == ("unknown", "failure")
    assert outcome.ctx["intent"] == intent.seq
    assert outcome.data == {"error": "asyncio.exceptions.CancelledError"}


def test_a_thousand_tasks_share_syncs_and_cancellation_loses_nothing(make_log):
    """Every acknowledged record is there; the chain holds."""
    audit = make_log(durability="commit")

    async def main():
        tasks = [
            asyncio.create_task(audit.arecord("a.b", data={"n": n}))
            for n in range(1000)
        ]
        await asyncio.sleep(0)
        for task in tasks[::3]:
            task.cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    results = asyncio.run(main())
    stored = {event.seq: event for event in audit.query()}
    done = [(n, r) for n, r in enumerate(results) if not isinstance(r, BaseException)]
    assert len(done) > 600
    for number, receipt in done:
        assert stored[receipt.seq].data == {"n": number}
    assert audit.stats["syncs"] < 100
    assert audit.verify(full=True).ok


def test_sixty_four_threads_share_syncs(make_log):
    """Group commit: far fewer syncs than records, every receipt its own line."""
    audit = make_log(durability="commit")
    receipts = []

    def work(name):
        for n in range(20):
            receipts.append((name, n, audit.record("a.b", data={"name": name, "n": n})))

    threads = [threading.Thread(target=work, args=(name,)) for name in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stored = {event.seq: event.data for event in audit.query()}
    assert len({r.seq for _, _, r in receipts}) == 64 * 20
    assert all(stored[r.seq] == {"name": w, "n": n} for w, n, r in receipts)
    assert audit.stats["syncs"] < 64 * 20 / 4
    assert audit.verify(full=True).ok


def test_several_loggers_on_one_folder_make_one_chain(make_log):
    """Two objects interleave as two processes would."""
    first, second = make_log(), make_log()
    seqs = [log.record("a.b").seq for _ in range(50) for log in (first, second)]
    assert seqs == list(range(2, 102))
    assert first.verify(full=True).ok


def test_record_many_stores_in_order_with_one_sync(make_log):
    """A refused event refuses the whole call."""
    audit = make_log(durability="commit")
    receipts = audit.record_many(
        {"action": "a.b", "data": {"n": n}} for n in range(500)
    )
    assert [r.seq for r in receipts] == list(range(2, 502))
    assert audit.stats["syncs"] == 1
    with pytest.raises(InvalidEvent):
        audit.record_many([{"action": "a.b"}, {"action": ""}])
    assert audit.record("a.b").seq == 502


def test_time_may_go_back_and_order_stays(make_log):
    """Line numbers give the order; the recorded time is what the clock said."""
    now = [1_800_000_000_000_000_000]
    audit = make_log(clock_ns=lambda: now[0])
    first = audit.record("a.b")
    now[0] -= 3600 * 10**9
    second = audit.record("a.b")
    assert second.seq == first.seq + 1
    assert second.ts < first.ts
    assert audit.verify(full=True).ok


def test_segments_are_sealed_by_size_and_by_day(make_log, folder):
    """The chain runs on across segments; a seal says what the segment held."""
    now = [1_800_000_000_000_000_000]
    audit = make_log(segment_bytes=4000, clock_ns=lambda: now[0])
    for number in range(40):
        audit.record("a.b", data={"n": number})
    by_size = len(list(folder.glob("0*.jsonl")))
    now[0] += 86_400 * 10**9
    audit.record("a.b")
    assert by_size == 3
    assert len(list(folder.glob("0*.jsonl"))) == by_size + 1
    assert [e.data["n"] for e in audit.query() if e.data] == list(range(40))
    assert audit.verify(full=True).ok


def test_logging_records_become_events(make_log):
    """Extra fields come along and are redacted; the level gives the outcome."""
    audit = make_log()
    logger = logging.getLogger("test.security")
    handler = audit.handler(actor=Actor.system("app"))
    logger.addHandler(handler)
    try:
        logger.error("refused %s", "u-9", extra={"token": "abc", "port": 22})
    finally:
        logger.removeHandler(handler)
    event = last(audit)
    assert (event.action, event.outcome) == ("log.test.security", "failure")
    assert event.data["token"] == "[redacted]"
    assert event.data["message"] == "refused u-9"
    assert event.data["port"] == 22


def test_private_values_can_be_erased_and_the_chain_stays_green(make_log, folder):
    """The value is gone from every file; the commitment stays."""
    audit = make_log()
    audit.record(
        "user.create", data={"email": Private("kim@example.org", subject="u-9")}
    )
    audit.record(
        "user.create", data={"email": Private("joe@example.org", subject="u-8")}
    )
    first, second = audit.query()
    assert audit.reveal(first) == {"email": "kim@example.org"}
    assert audit.erase("u-9") == 1
    assert "$private" in audit.reveal(first)["email"]
    assert audit.reveal(second) == {"email": "joe@example.org"}
    for path in folder.rglob("*"):
        assert not path.is_file() or b"kim@example" not in path.read_bytes()
    erased = list(audit.query(action="audit.erased"))
    assert erased[0].data == {"subject": "u-9", "count": 1}
    assert audit.verify(full=True).ok


def test_a_closed_log_says_so(make_log):
    """Closing twice is fine, recording afterwards is not."""
    audit = make_log()
    audit.close()
    audit.close()
    with pytest.raises(LogClosed):
        audit.record("a.b")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"actor": "shop"},
            r"an Actor; write Actor.user\('shop'\), Actor.service\('shop'\) or .* got 'shop'",
        ),
        ({"actor": 7}, "actor: expected an Actor, got 7"),
        ({"redact": "email"}, r"redact: expected a list, such as \['email'\]"),
        ({"redact": [1]}, "redact: expected names"),
        ({"signer": "key"}, "signer: expected an HmacRatchet"),
        ({"on_checkpoint": print}, "on_checkpoint: expected a list of functions"),
        ({"on_checkpoint": ["mail"]}, "on_checkpoint: expected a list of functions"),
        ({"checkpoint_every": 0}, "checkpoint_every: expected a whole number above 0"),
        ({"checkpoint_interval_s": "60"}, "checkpoint_interval_s: expected a number"),
        ({"segment_bytes": 1e6}, "segment_bytes: expected a whole number above 0"),
        ({"durability": True}, "durability: expected 'commit', 'os' or"),
        ({"durability": float("nan")}, "durability: expected 'commit', 'os' or"),
        ({"on_failure": "skip"}, "on_failure: expected one of 'raise', 'spill'"),
        ({"on_failure": "spill"}, "spill_to: expected a folder"),
        ({"origin": "two words"}, "origin: expected a name without spaces"),
        ({"origin": 5}, "origin: expected a name without spaces"),
        ({"path": 5}, "path: expected a folder, got 5"),
    ],
)
def test_settings_are_checked_before_anything_is_made(folder, settings, said):
    """With name, value and what would do; nothing is on the disk afterwards."""
    given = {"path": folder, "origin": "x"} | settings
    with pytest.raises(InvalidSetting, match=said):
        AuditLogger(**given)
    assert not folder.exists()


def test_a_text_for_an_actor_is_refused_with_the_way_to_name_one(make_log):
    """Wherever an actor is expected."""
    audit = make_log()
    for use in (lambda: audit.record("a.b", actor="u"), lambda: audit.bind(actor="u")):
        with pytest.raises(
            InvalidEvent, match=r"write Actor.user\('u'\), Actor.service"
        ):
            use()
    with pytest.raises(
        InvalidSetting, match=r"capture: expected a list, such as \['role'\]"
    ):
        audit.audited("a.b", capture="role")
    with pytest.raises(TypeError, match="no parameter 'rol'; did you mean 'role'"):
        audit.audited("a.b", capture=["rol"])(lambda role: None)


@pytest.mark.parametrize(
    ("criteria", "said"),
    [
        ({"outcome": "failur"}, "did you mean 'failure'"),
        ({"actor": Actor.user("u-1")}, "actor: expected a text, such as 'u-1'"),
        ({"resource": ("invoice",)}, "resource: expected an id or"),
        ({"limit": -1}, "limit: expected a whole number of at least 0, got -1"),
        ({"after": "3"}, "after: expected a whole number"),
        ({"where": "x"}, "where: expected a function"),
        ({"since": 7}, "time: expected a datetime"),
    ],
)
def test_criteria_that_can_match_nothing_are_refused(make_log, criteria, said):
    """An empty answer to a wrong question looks like the truth."""
    with pytest.raises(InvalidSetting, match=said):
        list(make_log().query(**criteria))


def test_opening_checks_what_is_there(make_log, folder, tmp_path):
    """No silent creation, no foreign log, no log without its identity."""
    with pytest.raises(LogNotFound, match=r"log\.json is missing"):
        AuditLogger(folder)
    make_log().record("a.b")
    with pytest.raises(
        WrongOrigin, match=r"'app.example/audit', whose log is in .* got 'other'"
    ):
        AuditLogger(folder, origin="other")
    assert not issubclass(WrongOrigin, LogDamaged)
    with pytest.raises(LogNotFound, match="expected the folder of a log, got a file"):
        AuditLogger(folder / "log.json")
    with pytest.raises(AuditUnavailable, match=r": File exists: .*log\.json"):
        AuditLogger(folder / "log.json", origin="x")
    (folder / "log.json").unlink()
    with pytest.raises(LogDamaged, match="there are segments"):
        AuditLogger(folder, origin="app.example/audit")
    assert issubclass(LogDamaged, AuditError)


def test_a_forgotten_logger_warns(folder):
    """Leaking one is a ResourceWarning."""
    audit = AuditLogger(folder, origin="x", actor=Actor.system("t"), durability="os")
    with pytest.warns(ResourceWarning, match="unclosed AuditLogger"):
        audit.__del__()
    audit.close()
