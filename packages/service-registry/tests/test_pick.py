"""Choosing instances."""

import random
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from maestro_service_registry import Ejection, Instance, InvalidInput, NoInstances
from maestro_service_registry._hashing import Maglev, Rendezvous
from maestro_service_registry._outliers import Outliers
from maestro_service_registry._pickers import (
    check_policy,
    smooth_wheel,
)
from maestro_service_registry._service import Selection, Service, level_shares
from maestro_service_registry.testing import FakeClock


class Fixed:
    """A feed whose instances the test sets."""

    def __init__(self, *instances):
        self.set(*instances)

    def set(self, *instances):
        self.services = {"billing": tuple(instances)}


def make(n, **more):
    more = {"host": "127.0.0.1"} | more
    return Instance(service="billing", id=f"b{n}", port=8000 + n, **more)


def view(*instances, clock=None, **selection):
    feed = Fixed(*instances)
    service = Service(
        "billing",
        Selection(**selection),
        feed=feed,
        clock=clock or FakeClock(),
        rng=random.Random(3),
    )
    return service, feed


def counts(service, total=3000, **more):
    return Counter(service.pick(**more).id for _ in range(total))


@pytest.mark.parametrize(
    "policy", ["p2c", "ewma", "round_robin", "weighted", "least_request"]
)
def test_identical_instances_get_even_shares(policy):
    service, _ = view(*(make(n) for n in range(6)), policy=policy)
    found = counts(service, 6000)
    assert len(found) == 6
    assert max(found.values()) < 1.25 * min(found.values())


def test_weights_are_kept_exactly_and_smoothly():
    wheel = smooth_wheel([make(1, weight=50), make(2, weight=10), make(3, weight=10)])
    assert [i.id for i in wheel] == ["b1", "b1", "b2", "b1", "b3", "b1", "b1"]


def test_weight_zero_gets_nothing_while_others_are_there():
    service, feed = view(make(1), make(2, weight=0), policy="weighted")
    assert counts(service).keys() == {"b1"}
    feed.set(make(2, weight=0))
    assert service.pick().id == "b2"


def test_two_choices_take_the_less_busy():
    service, _ = view(make(1), make(2))
    with service.call() as busy, service.call() as other:
        assert busy.id != other.id
    with service.call() as busy:
        assert {service.pick().id for _ in range(50)} == {"b1", "b2"} - {busy.id}


def test_a_slow_instance_gets_less_under_ewma():
    clock = FakeClock()
    service, _ = view(make(1), make(2), clock=clock, policy="ewma")
    for _ in range(40):
        with service.call() as instance:
            clock.advance(1.0 if instance.id == "b1" else 0.01)
    assert counts(service, 100)["b2"] == 100


def test_a_newcomer_gets_one_probe_and_no_second_one_meanwhile():
    clock = FakeClock()
    service, feed = view(make(1), make(2), clock=clock, policy="ewma")
    for _ in range(20):
        with service.call():
            clock.advance(0.1)
    feed.set(make(1), make(2), make(3))
    with service.call() as first:
        while first.id != "b3":
            with service.call() as first:
                clock.advance(0.1)
                if first.id == "b3":
                    assert counts(service, 200)["b3"] == 0


def test_nothing_to_pick_says_what_was_left_out():
    service, _ = view(
        make(1, status="draining"),
        make(2, version="2.0.0"),
        make(3, version="1.2.0", health="critical"),
        version=None,
        tags=frozenset({"http"}),
    )
    with pytest.raises(NoInstances) as caught:
        service.pick()
    assert caught.value.reasons == (
        "1 draining, down or in maintenance",
        "2 without the tags http",
    )
    empty, _ = view()
    with pytest.raises(NoInstances, match="none is registered"):
        empty.pick()


def test_when_most_are_unhealthy_all_are_used():
    ill = [make(n, health="critical") for n in range(3)]
    service, feed = view(*ill, make(3), make(4))
    assert service.stats().panic
    assert len(counts(service)) == 5
    feed.set(*ill[:1], make(3), make(4))
    assert not service.stats().panic
    assert counts(service).keys() == {"b3", "b4"}


def test_two_of_two_that_are_ill_are_not_used():
    service, _ = view(make(1, health="critical"), make(2, health="critical"))
    with pytest.raises(NoInstances, match="2 not healthy"):
        service.pick()


def test_stale_instances_are_used_last():
    service, feed = view(make(1, stale=True), make(2))
    assert counts(service).keys() == {"b2"}
    feed.set(make(1, stale=True))
    assert service.pick().id == "b1"


def test_the_own_zone_is_used_first_and_missing_capacity_spills_over():
    def fleet(ill):
        here = [
            make(n, zone="a", health="critical" if n < ill else "passing")
            for n in range(10)
        ]
        return [*here, *(make(n, zone="b") for n in range(10, 20))]

    service, feed = view(*fleet(0), zone="a")
    assert service.stats().shares == (1.0, 0, 0)
    shares = []
    for ill in (0, 2, 4, 6, 8, 10, 8, 4, 0):
        feed.set(*fleet(ill))
        shares.append(round(service.stats().shares[0], 2))
    assert shares == [1.0, 1.0, 0.84, 0.56, 0.28, 0.0, 0.28, 0.84, 1.0]
    feed.set(*fleet(6))
    here = sum(n for id, n in counts(service, 5000).items() if int(id[1:]) < 10)
    assert here / 5000 == pytest.approx(0.56, abs=0.03)


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=4))
@settings(derandomize=True)
def test_shares_of_levels_add_up_to_one(pairs):
    levels = [(min(a, b), b) for a, b in pairs]
    shares = level_shares(levels)
    total = sum(shares)
    assert total == pytest.approx(1.0) or (total == 0 and not any(a for a, _ in levels))
    assert all(
        share == 0 for share, (a, _) in zip(shares, levels, strict=True) if a == 0
    )


def test_a_newcomer_starts_slowly():
    clock = FakeClock()
    service, feed = view(make(1), clock=clock, policy="round_robin", slow_start=10.0)
    service.pick()
    feed.set(make(1), make(2))
    service.pick()
    clock.advance(2)
    early = counts(service, 2000)["b2"]
    clock.advance(10)
    late = counts(service, 2000)["b2"]
    assert early < 0.6 * late
    assert late == pytest.approx(1000, rel=0.05)


def test_failing_instances_are_left_out_and_come_back():
    clock = FakeClock()
    rules = Ejection(consecutive=3, base=30)
    service, _ = view(*(make(n) for n in range(4)), clock=clock, ejection=rules)
    for _ in range(3):
        service.report(make(1), good=False)
    assert "b1" not in counts(service)
    clock.advance(30.1)
    assert "b1" in counts(service)
    for _ in range(3):
        service.report(make(1), good=False)
    clock.advance(30.1)
    assert "b1" not in counts(service), "the second time lasts twice as long"
    clock.advance(30.1)
    assert "b1" in counts(service)


@given(st.integers(1, 12), st.lists(st.integers(0, 11), max_size=200), st.floats(0, 1))
@settings(derandomize=True, max_examples=60)
def test_the_cap_holds_and_the_last_one_stays(total, failures, most):
    outliers = Outliers(Ejection(consecutive=1, most=most), clock=FakeClock())
    instances = [make(n) for n in range(total)]
    outliers.keep(instances)
    for n in failures:
        outliers.record(instances[n % total], good=False)
    out = sum(map(outliers.ejected, instances))
    assert out <= most * total
    assert out < total or total == 0


def test_another_address_starts_clean():
    clock = FakeClock()
    outliers = Outliers(Ejection(consecutive=1, most=1.0), clock=clock)
    old = make(1)
    outliers.keep([old, make(2)])
    assert outliers.record(old, good=False)
    moved = make(1, host="127.0.0.2")
    outliers.keep([moved, make(2)])
    assert not outliers.ejected(moved)


def test_a_low_success_rate_is_an_outlier():
    outliers = Outliers(Ejection(consecutive=1000), clock=FakeClock())
    fleet = [make(n) for n in range(6)]
    outliers.keep(fleet)
    rng = random.Random(5)
    ejected = []
    for _ in range(40):
        for instance in fleet:
            good = instance.id != "b0" or rng.random() < 0.5
            if outliers.record(instance, good=good):
                ejected.append(instance.id)
    assert ejected == ["b0"]


@pytest.mark.parametrize("kind", [Rendezvous, Maglev])
@pytest.mark.parametrize("count", [5, 40])
def test_removing_a_node_moves_little_but_its_own_keys(kind, count):
    nodes = [f"n{n}" for n in range(count)]
    keys = [f"user:{n}" for n in range(2000)]
    before = kind(nodes, [100] * count)
    after = kind(nodes[1:], [100] * (count - 1))
    others = [key for key in keys if before(key) != "n0"]
    moved = sum(before(key) != after(key) for key in others)
    assert moved / len(others) <= (0.0 if kind is Rendezvous else 0.04)
    loads = Counter(map(before, keys))
    assert max(loads.values()) < 1.6 * len(keys) / count


@pytest.mark.parametrize("kind", [Rendezvous, Maglev])
def test_heavier_nodes_get_more_keys(kind):
    choose = kind(["a", "b"], [300, 100])
    found = Counter(choose(str(n)) for n in range(4000))
    assert found["a"] / found["b"] == pytest.approx(3, rel=0.2)


def test_the_same_key_goes_to_the_same_instance_in_every_process():
    code = (
        "from maestro_service_registry._hashing import Maglev, Rendezvous\n"
        "for kind in Maglev, Rendezvous:\n"
        "    choose = kind([f'n{n}' for n in range(20)], [1] * 20)\n"
        "    print([choose(str(n)) for n in range(100)])\n"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1


def test_the_hash_policy_needs_a_key():
    service, _ = view(make(1), make(2), policy="hash")
    assert len({service.pick("user:42").id for _ in range(20)}) == 1
    with pytest.raises(InvalidInput, match=r"pick\(key=...\)"):
        service.pick()


def test_an_unknown_policy_is_refused_with_the_known_ones():
    with pytest.raises(InvalidInput, match="p2c, ewma"):
        check_policy("fastest")


def test_versions_outside_the_range_are_not_picked(memory):
    for n, version in enumerate(["1.3.9", "1.4.0", "1.9.0", "2.0.0-rc.1", "2.0.0"]):
        memory.register("billing", port=1, id=f"b{n}", version=version)
    service = memory.service("billing", version="^1.4")
    assert counts(service, 200).keys() == {"b1", "b2"}
    assert [i.id for i in memory.find("billing", version=">=2")] == ["b4"]
