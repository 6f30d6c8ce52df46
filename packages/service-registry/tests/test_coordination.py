"""Claims, freeze windows, announcements, and `may`."""

import random
import time
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from maestro_service_registry import (
    ClaimRefused,
    InvalidInput,
    LockLost,
    NoticeTooShort,
    Rules,
    ServiceRegistry,
    UnknownEntry,
)
from maestro_service_registry._memory import MemoryStore
from maestro_service_registry._notice import Override
from maestro_service_registry.testing import FakeClock
from registry_support import python

DAY = 86_400


@pytest.fixture
def notices():
    return []


@pytest.fixture
def reg(clock, notices):
    registry = ServiceRegistry(
        MemoryStore(clock=clock), clock=clock, on_notice=notices.append
    )
    registry._heart._start = lambda: None
    yield registry
    registry.close()


def test_a_claim_is_for_all_services_or_none(reg, clock):
    until = clock.utc() + 3600
    with reg.claim(
        {"billing", "ledger"}, by="anna", reason="schema", until=until
    ) as claim:
        assert claim.services == ("billing", "ledger")
        with pytest.raises(
            ClaimRefused, match=r"of anna on billing, ledger .*schema"
        ) as caught:
            reg.claim({"ledger", "shop"}, by="ben", reason="x", until=until)
        assert caught.value.services == ("ledger", "shop")
        assert [c.by for c in reg.claims.active()] == ["anna"]
    reg.claim({"ledger", "shop"}, by="ben", reason="x", until=until)


def test_shared_claims_go_together_and_exclusive_ones_do_not(reg, clock):
    until = clock.utc() + 60
    reg.claim(["db"], by="a", reason="read", until=until, mode="shared")
    reg.claim(["db"], by="b", reason="read", until=until, mode="shared")
    with pytest.raises(ClaimRefused) as caught:
        reg.claim(["db"], by="c", reason="write", until=until)
    assert len(caught.value.reasons) == 2


def test_an_ended_claim_frees_and_its_fence_is_refused(reg, clock):
    old = reg.claim(["db"], by="a", reason="x", until=clock.utc() + 60)
    reg.gate("db").admit(old.guard())
    clock.advance(61)
    with pytest.raises(LockLost, match="ended"):
        old.guard()
    with pytest.raises(UnknownEntry):
        reg.claims.extend(old.id, clock.utc() + 60)
    new = reg.claim(["db"], by="b", reason="y", until=clock.utc() + 60)
    assert new.fence > old.fence
    reg.gate("db").admit(new.fence)
    from maestro_service_registry import StaleFence

    with pytest.raises(StaleFence):
        reg.gate("db").admit(old.fence)


def test_a_claim_can_be_extended_before_it_ends(reg, clock):
    claim = reg.claim(["db"], by="a", reason="x", until=clock.utc() + 60)
    assert reg.claims.extend(claim.id, clock.utc() + 600).fence == claim.fence
    clock.advance(100)
    assert claim.guard() == claim.fence


def test_a_claim_is_never_extended_into_the_past(reg, clock):
    claim = reg.claim(["db"], by="a", reason="x", until=clock.utc() + 60)
    for until in (clock.utc(), float("nan")):
        with pytest.raises(InvalidInput, match="a time after now"):
            reg.claims.extend(claim.id, until)
    assert claim.guard() == claim.fence


def test_a_claim_that_is_released_while_it_is_extended_stays_released(
    reg, clock, monkeypatch
):
    claim = reg.claim(["db"], by="a", reason="x", until=clock.utc() + 60)
    store, commit = reg.store, reg.store.commit

    def release_first(ops, expect=None):
        monkeypatch.setattr(store, "commit", commit)
        reg.claims.release(claim.id)  # between extend's reading and its commit
        return commit(ops, expect)

    monkeypatch.setattr(store, "commit", release_first)
    with pytest.raises(UnknownEntry):
        reg.claims.extend(claim.id, clock.utc() + 600)
    assert reg.claims.active() == ()


def test_a_freeze_refuses_claims_with_its_name(reg, clock, notices):
    now = clock.utc()
    window = reg.freeze("payments-*", now, now + 3600, reason="year end", allow=["sre"])
    until = now + 60
    with pytest.raises(ClaimRefused, match=f"freeze {window.id} of .*year end"):
        reg.claim(["payments-eu"], by="anna", reason="x", until=until)
    reg.claim(["billing"], by="anna", reason="x", until=until).release()
    reg.claim(["payments-eu"], by="sre", reason="x", until=until).release()
    assert notices == []
    override = Override(reason="incident 7", approver="boss")
    reg.claim(["payments-eu"], by="anna", reason="x", until=until, override=override)
    (notice,) = notices
    assert (notice.kind, notice.by) == ("claim-override", "anna")
    assert notice.details["approver"] == "boss"
    (stored,) = reg.claims.overrides()
    assert stored["reason"] == "incident 7"
    with pytest.raises(InvalidInput, match="approver"):
        Override(reason="x", approver=" ")


def test_a_weekly_freeze_comes_again_until_its_last_day(reg, clock):
    friday = datetime(2027, 1, 1, 16, tzinfo=UTC)
    window = reg.freeze(
        "*",
        friday,
        friday + timedelta(hours=64),
        reason="weekend",
        weekly=True,
        until=friday + timedelta(weeks=3),
    )
    (stored,) = reg.windows.all()
    assert stored == window
    for weeks, hours, open_ in [
        (0, 0, True),
        (0, 63, True),
        (0, 64, False),
        (2, 1, True),
        (3, 1, False),
        (-1, 1, False),
    ]:
        at = (friday + timedelta(weeks=weeks, hours=hours)).timestamp()
        assert window.covers("any", at) is open_
    reg.windows.remove(window.id)
    with pytest.raises(UnknownEntry):
        reg.windows.remove(window.id)


@pytest.mark.parametrize(
    ("start", "end", "said"),
    [
        (10, 10, "after"),
        ("yesterday", 10, "with its zone"),
        (datetime(2027, 1, 1), 10, "with its zone"),
    ],
)
def test_a_window_needs_two_moments_in_order(reg, start, end, said):
    with pytest.raises(InvalidInput, match=said):
        reg.freeze("*", start, end, reason="x")


def announce(reg, clock, days, **more):
    given = {"change": "drop /v1/x", "version": "2.0.0", "breaking": True} | more
    return reg.contracts.announce(
        "billing", effective=clock.utc() + days * DAY, **given
    )


def test_a_breaking_change_needs_fourteen_days_to_the_second(reg, clock):
    with pytest.raises(
        NoticeTooShort, match="needs 14 d 0 h of notice, this one gives 13 d 23 h"
    ) as caught:
        announce(reg, clock, 14 - 1 / 24)
    assert caught.value.needed == 14 * DAY
    found = announce(reg, clock, 14)
    assert found.state(clock.utc()) == "acknowledged"
    assert found.state(clock.utc() + 14 * DAY) == "effective"


def test_daylight_saving_does_not_shorten_the_notice(clock):
    zone = ZoneInfo("Europe/Berlin")
    before = datetime(2027, 3, 20, 12, tzinfo=zone)
    clock = FakeClock(utc=before.timestamp())
    with ServiceRegistry(MemoryStore(clock=clock), clock=clock) as reg:
        with pytest.raises(NoticeTooShort, match="13 d 23 h"):
            same_hour = before + timedelta(days=14)
            reg.contracts.announce(
                "a", change="x", version="2.0.0", breaking=True, effective=same_hour
            )


def test_a_small_change_needs_no_notice(reg, clock):
    assert announce(reg, clock, 0, breaking=False).breaking is False


def test_a_new_major_version_counts_as_breaking(reg, clock):
    reg.register("billing", port=1, version="1.4.2")
    with pytest.raises(NoticeTooShort):
        announce(reg, clock, 1, breaking=None)
    assert not announce(reg, clock, 1, breaking=None, version="1.5.0").breaking


def test_an_earlier_date_or_a_wider_scope_starts_the_notice_anew(reg, clock):
    found = announce(reg, clock, 20, scope=["/v1/x"], consumers=["shop"])
    reg.contracts.acknowledge(found.id, by="shop")
    clock.advance(10 * DAY)
    later = reg.contracts.amend(found.id, effective=clock.utc() + 12 * DAY)
    assert later.acknowledged
    with pytest.raises(NoticeTooShort, match="gives 11 d"):
        reg.contracts.amend(found.id, effective=clock.utc() + 11 * DAY)
    with pytest.raises(NoticeTooShort):
        reg.contracts.amend(found.id, scope=["/v1/x", "/v1/y"])
    wide = reg.contracts.amend(
        found.id, scope=["/v1/x", "/v1/y"], effective=clock.utc() + 14 * DAY
    )
    assert (wide.acknowledged, wide.noticed) == ({}, clock.utc())


def test_an_emergency_skips_the_notice_and_is_told(reg, clock, notices):
    found = announce(
        reg, clock, 0, emergency=Override(reason="leak", approver="ciso"), by="anna"
    )
    assert notices[0].kind == "emergency-announcement"
    assert notices[0].details["reason"] == "leak"
    assert reg.contracts.get(found.id).emergency == {
        "reason": "leak",
        "approver": "ciso",
    }


def test_an_emergency_does_not_cover_what_is_added_later(reg, clock, notices):
    leak = Override(reason="leak", approver="ciso")
    found = announce(reg, clock, 1, emergency=leak, scope=["/v1/x"])
    with pytest.raises(NoticeTooShort):
        reg.contracts.amend(found.id, scope=["/v1/x", "/v1/y"])
    with pytest.raises(NoticeTooShort):
        reg.contracts.amend(found.id, effective=clock.utc())
    again = Override(reason="worse", approver="ciso")
    wider = reg.contracts.amend(found.id, scope=["/v1/x", "/v1/y"], emergency=again)
    assert wider.emergency == {"reason": "worse", "approver": "ciso"}
    assert [n.details["reason"] for n in notices] == ["leak", "worse"]
    later = reg.contracts.amend(found.id, effective=clock.utc() + 2 * DAY)
    assert later.emergency == wider.emergency, "a later date keeps it"


def test_a_breaking_release_waits_for_notice_and_consumers(reg, clock):
    reg.register("billing", port=1, version="1.4.2", ttl=86_400)
    reg.register("shop", port=2, requires={"billing": "^1.2"}, ttl=86_400)
    unannounced = reg.may("release", "billing", "2.0.0")
    assert not unannounced
    assert unannounced.reasons == (
        "2.0.0 breaks billing and was not announced; 14 d of notice",
    )
    assert reg.may("release", "billing", "1.5.0")
    found = announce(reg, clock, 14)
    assert found.consumers == ("shop",)
    early = reg.may("release", "billing", "2.0.0")
    assert "effective 20" in early.reasons[0]
    assert "not acknowledged by shop" in early.reasons[1]
    assert early.warnings == ("shop requires billing ^1.2",)
    clock.advance(14 * DAY)
    assert reg.may("release", "billing", "2.0.0").reasons == (
        f"announcement {found.id} not acknowledged by shop",
    )
    reg.contracts.acknowledge(found.id, by="shop")
    assert reg.may("release", "billing", "2.0.0")
    with pytest.raises(InvalidInput, match="one of shop"):
        reg.contracts.acknowledge(found.id, by="stranger")


def test_rules_can_ask_for_less(clock):
    rules = Rules(notice=DAY, acknowledged=False)
    with ServiceRegistry(MemoryStore(clock=clock), clock=clock, rules=rules) as reg:
        announce(reg, clock, 1, consumers=["shop"])
        clock.advance(DAY)
        assert reg.may("release", "billing", "2.0.0")


def test_a_withdrawn_announcement_allows_nothing(reg, clock):
    reg.register("billing", port=1, version="1.0.0", ttl=86_400)
    found = announce(reg, clock, 14)
    reg.contracts.withdraw(found.id)
    clock.advance(14 * DAY)
    assert not reg.may("release", "billing", "2.0.0")


def test_may_names_freeze_claim_and_users(reg, clock):
    now = clock.utc()
    reg.freeze("bill*", now, now + 60, reason="audit")
    reg.claim(["shop"], by="ben", reason="move", until=now + 60)
    reg.register("shop", port=2, requires={"ledger": "*"})
    assert "audit" in reg.may("restart", "billing").reasons[0]
    assert "of ben" in reg.may("modify", "shop").reasons[0]
    assert reg.may("modify", "shop", by="ben")
    assert reg.may("remove", "ledger").reasons == ("shop requires ledger",)
    with pytest.raises(InvalidInput, match="release, deploy, modify"):
        reg.may("explode", "shop")


def test_announcements_give_http_headers(reg, clock):
    headers = announce(reg, clock, 14).headers()
    assert headers["Deprecation"] == f"@{int(clock.utc())}"
    assert headers["Sunset"].endswith("GMT")


def test_two_claimants_at_once_never_both_win(tmp_path):
    import threading

    won = []
    with ServiceRegistry.open(f"sqlite:///{tmp_path}/r.db") as registry:
        until = registry.store.now() + 60

        def take(services, by):
            try:
                registry.claim(services, by=by, reason="x", until=until)
                won.append(by)
            except ClaimRefused:
                pass

        pairs = [(["a", "b"], "one"), (["b", "a"], "two"), (["b", "c"], "three")] * 3
        threads = [threading.Thread(target=take, args=pair) for pair in pairs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert len(won) == 1


PLANNER = """
import sys
from maestro_service_registry import ClaimRefused, ServiceRegistry
registry = ServiceRegistry.open(sys.argv[1])
now = registry.store.now()
while True:
    window = registry.freeze("pay-*", now, now + 60, reason="kept")
    print("w", window.id, flush=True)
    found = registry.contracts.announce(
        "web", change="x", version="1.0.0", effective=now, consumers=["shop"]
    )
    print("a", found.id, flush=True)
    registry.contracts.acknowledge(found.id, by="shop")
    print("k", found.id, flush=True)
    try:
        claim = registry.claim(["a", "b"], by=sys.argv[2], reason="x", until=now + 3600)
    except ClaimRefused:
        continue
    print("c", claim.id, claim.fence, flush=True)
    registry.claims.extend(claim.id, now + 7200)
    print("e", claim.id, claim.fence, flush=True)
    claim.release()
    print("r", claim.id, claim.fence, flush=True)
"""


@pytest.mark.parametrize(
    "rounds", [2, pytest.param(25, marks=pytest.mark.drill)], ids=["few", "many"]
)
def test_killed_planners_leave_whole_entries_and_lose_none(tmp_path, rounds):
    """What was told as done is there; nothing is half there; fences only rise."""
    url, said = f"sqlite:///{tmp_path}/r.db", list[list[str]]()
    with ServiceRegistry.open(url) as registry:
        for turn in range(rounds):
            planners = [python(PLANNER, url, f"{turn}-{n}") for n in range(2)]
            lines = [planner.stdout.readline() for planner in planners]
            assert all(lines)
            time.sleep(random.uniform(0.05, 0.4))
            for planner in planners:
                planner.kill()
            for planner in planners:
                lines += planner.stdout
                planner.communicate(timeout=20)
            said += [line.split() for line in lines if line.endswith("\n")]
            held = registry.claims.active()
            assert len(held) <= 1, "exclusive claims stand alone"
            for claim in held:
                assert claim.services == ("a", "b")
                claim.release()
        told = {k: {words[1] for words in said if words[0] == k} for k in "wakcer"}
        assert told["w"] <= {window.id for window in registry.windows.all()}
        assert told["a"] <= {found.id for found in registry.contracts.all()}
        for id in told["k"]:
            assert registry.contracts.get(id).missing == ()
        assert told["r"] <= told["e"] <= told["c"]
        assert told["c"], "no claim was ever given"
        fences = [int(words[2]) for words in said if words[0] == "c"]
        assert len(set(fences)) == len(fences)
        last = registry.claim(
            ["a"], by="me", reason="y", until=registry.store.now() + 9
        )
        assert last.fence > max(fences)
