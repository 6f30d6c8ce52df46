"""Statistics, clusters, gates, quarantine, owners, shards, frames."""

import datetime as dt
import math

import pytest
from maestro_test_result_aggregator import (
    GateRules,
    InvalidArgument,
    Owners,
    Point,
    Priors,
    Quarantine,
    RulesError,
    RunNotFound,
    TestResultAggregator,
    cluster,
    judge,
    results_of,
    wilson,
)
from maestro_test_result_aggregator._flaky import Panel, learned, outages
from maestro_test_result_aggregator._sharding import shards
from maestro_test_result_aggregator._stats import duration_change
from maestro_test_result_aggregator.testing import result


def points(text, **fields):
    """`F` failed, `r` recovered, anything else passed."""
    return [Point(failed=c == "F", recovered=c == "r", **fields) for c in text]


def test_wilson_agrees_with_the_published_example():
    """Wikipedia's and R's prop.test(10, 100, correct=FALSE): 0.0552 to 0.1744."""
    made = wilson(10, 100)
    assert (round(made.low, 4), round(made.high, 4)) == (0.0552, 0.1744)
    assert (wilson(0, 0).low, wilson(0, 0).high) == (0.0, 1.0)
    assert math.isclose(wilson(0, 20).high, 0.1611, abs_tol=1e-4)


@pytest.mark.parametrize(("history", "class_"), [
    ("." * 40, "healthy"), ("." * 5, "not-enough-data"), ("....F", "new-failure"),
    ("." * 20 + "FFFF", "broken"), ("." * 20 + "FFFF" + "." * 9, "fixed"),
    (".....F" * 5, "flaky"), ("..r.......", "flaky"), ("." * 20 + "F" + "." * 20, "not-enough-data"),
])  # fmt: skip
def test_histories_are_classed(history, class_):
    """As a person would."""
    assert judge(points(history)).class_ == class_


def test_a_failure_in_an_outage_is_no_flake():
    """A third of all tests failed in that run."""
    shares = outages([3] * 20 + [330] + [4] * 20, [1000] * 41)
    assert [share > 0 for share in shares] == [False] * 20 + [True] + [False] * 20
    history = [Point(failed=i == 20, outage=s) for i, s in enumerate(shares)]
    assert judge(history).class_ == "outage"
    assert judge(history).evidence == ("failed in an outage 1x",)
    later = [*history[:-1], Point(failed=True)]  # and then fails by itself
    assert judge(later).class_ == "new-failure"
    assert judge(history).score < judge(points("." * 20 + "F" + "." * 20)).score


def test_what_is_common_is_learned_from_all_tests():
    """One lone failure says more where tests do not break for a single commit."""
    lonely, long = "." * 50 + "F" + "." * 49, "." * 50 + "F" * 30 + "." * 20
    coins = [
        ("." * n + "F" + "." * (99 - n)).replace("....F", "F...F") for n in range(5, 95)
    ]
    scores = []
    for others in (coins, [long[n:] + long[:n] for n in range(0, 90, 2)]):
        panel = Panel(outages=[0.0] * 100, commits=[""] * 100, priors=Priors())
        scores.append(
            learned([lonely, *others], panel=panel, healthy=900, seen=100.0)[0].score
        )
    assert scores[0] > 0.5
    assert scores[0] > scores[1] + 0.2


def test_code_does_not_change_within_a_commit():
    """The same failures: one commit that disagreed, or two commits."""
    mixed = [Point(failed=i == 10, commit=f"c{i // 2}") for i in range(20)]
    apart = [Point(failed=i == 10, commit=f"c{i}") for i in range(20)]
    again = [
        Point(failed=i == 10, commit="c0" if i == 10 else f"c{i}") for i in range(20)
    ]
    assert judge(mixed).score > 0.9 > judge(apart).score
    assert judge(again).score > 0.9  # an old commit, run again after others


def test_one_disagreement_is_one_not_as_many_as_there_are_runs():
    """19 passes beside one failure do not make 20 flaky runs."""
    history = [Point(failed=i == 3, commit="same") for i in range(20)]
    assert judge(history).evidence == ("failed alone 1x", "same commit disagreed 1x")


def test_a_new_failure_is_named_with_its_first_commit(agg):
    """And stays new until it is mended; what changed between two runs, compare tells."""
    for run, outcome in enumerate(["passed", "failed", "failed"]):
        agg.add(
            [result("a", outcome), result("b")],
            run_id=str(run),
            commit=f"c{run}",
            started=run,
        )
    assert agg.run("1").new_failures == ["a"]
    assert agg.run("2").new_failures == ["a"]
    assert agg.run("2").failures()[0].first_commit == "c1"
    assert agg.compare("1", "2").new_failures == ()
    assert agg.compare("0", "2").new_failures == ("a",)
    agg.add([result("a"), result("c")], run_id="3", started=3)
    assert agg.run("3").fixed == ["a"]
    assert agg.compare("2", "3").removed == ("b",)


def test_what_fails_on_another_branch_is_new_on_this_one(agg):
    """A test that somebody broke on their branch still passes on main."""
    agg.add([result("a")], run_id="1", branch="main", started=1)
    agg.add([result("a", "failed")], run_id="2", branch="mine", started=2)
    agg.add([result("a", "failed")], run_id="3", branch="main", started=3)
    assert agg.run("3").new_failures == ["a"]
    agg.add([result("a", "failed")], run_id="4", branch="new", started=4)
    assert agg.run("4").new_failures == []  # the branch has no past of its own


def test_a_gate_does_not_open_for_the_same_failure_again(agg):
    """Neither at another commit of the branch, nor at the same, nor on another branch."""
    agg.add([result("a")], run_id="main-1", commit="aaa", branch="main", started=1)
    agg.add([result("a")], run_id="pr-0", commit="a2", branch="pr", started=2)
    again = [("pr-1", "bbb", "pr"), ("pr-2", "ccc", "pr"), ("pr-3", "ccc", "pr"),
             ("other", "ddd", "other"), ("main-2", "eee", "main"), ("main-3", "fff", "main")]  # fmt: skip
    for at, (name, commit, branch) in enumerate(again, 3):
        agg.add([result("a", "failed")], run_id=name, commit=commit, branch=branch, started=at)  # fmt: skip
        made = agg.gate().check(name)
        assert not made.ok, name
        assert made.new_failures == ("a",)
        assert agg.run(name).new_failures == ["a"]
        assert "Do not merge. 1 new failure, 1 cause." in agg.summary_markdown()
    assert agg.run("pr-3").failures()[0].first_seen == "pr-1"
    assert agg.run("main-3").failures()[0].first_seen == "main-2"


def test_a_failure_of_the_baseline_is_old(agg):
    """At its newest run there, since the first of those that failed; not at one's own commit."""
    agg.add([result("a")], run_id="main-1", commit="1", branch="main", started=1)
    for n in (2, 3):
        agg.add([result("a", "failed"), result("b")], run_id=f"main-{n}", commit=str(n),
                branch="main", started=n)  # fmt: skip
    agg.add([result("a", "failed"), result("b", "failed")], run_id="pr", commit="p", branch="pr", started=4)  # fmt: skip
    made = agg.gate().check("pr")
    assert (made.new_failures, made.old_failures) == (("b",), ("a",))
    first = {c.tests[0]: c.first_seen for c in agg.run("pr").failures(cluster=False)}
    assert first == {"a": "main-2", "b": "pr"}
    assert "1 failure of the baseline too" in agg.summary_markdown()
    agg.add([result("a", "failed")], run_id="same", commit="3", branch="pr2", started=5)
    assert agg.run("same").new_failures == []  # main-2 has it, main-3 is its own commit
    agg.add([result("a")], run_id="main-4", commit="4", branch="main", started=6)
    agg.add([result("a", "failed")], run_id="late", commit="q", branch="pr", started=7)
    assert agg.run("late").new_failures == ["a"]
    assert agg.run("pr").new_failures == ["b"]  # later runs change no verdict


def test_the_baseline_may_be_another_branch(tmp_path):
    """Named once; without a run of it each failure is new, and the gate says why."""
    for baseline, new in (("develop", []), ("release", ["a"]), (None, ["a"])):
        with TestResultAggregator(baseline=baseline) as agg:
            agg.add([result("a", "failed")], run_id="1", branch="develop", started=1)
            agg.add([result("a", "failed")], run_id="2", branch="pr", started=2)
            assert agg.run("2").new_failures == new
            said = " ".join(agg.gate().check("2").notes)
            assert ("no earlier run of branch" in said) == bool(new)
            assert ("release" in said) == (baseline == "release")
    for wrong in ("", 7):
        with pytest.raises(InvalidArgument, match="baseline: expected the name of a"):
            TestResultAggregator(baseline=wrong)
    with pytest.raises(InvalidArgument, match="store: expected a file"):
        TestResultAggregator(7)


def test_tests_that_a_branch_lost_stay_missing(agg):
    """A second run that lost them too does not excuse the first."""
    agg.add(
        [result("a"), result("b")], run_id="m", commit="m", branch="main", started=1
    )
    for n in (2, 3):
        agg.add([result("a")], run_id=f"pr-{n}", commit=f"c{n}", branch="pr", started=n)
        made = agg.gate({"max_missing": 0}).check(f"pr-{n}")
        assert made.reasons == ("1 missing test, at most 0 allowed: b",)


def test_a_flake_of_ones_own_making_is_not_known(agg):
    """Only the history of the baseline calls a test flaky for the gate."""
    agg.add(
        [result("a"), result("x")], run_id="m", commit="m", branch="main", started=0
    )
    for n in range(1, 32):
        agg.add([result("a", "failed" if n % 10 == 1 else "passed"), result("x")],
                run_id=str(n), commit="same", branch="pr", started=n)  # fmt: skip
    assert [f.test for f in agg.flaky(branch="pr")] == ["a"]
    assert not agg.gate().check("31").ok


def test_slower_tests_of_a_branch_are_set_against_the_baseline(agg):
    """And runs after the one that is judged do not count."""
    for n in range(20):
        agg.add([result("a", duration=1.0 + n % 3 / 50)], run_id=f"m{n}", branch="main", started=n)  # fmt: skip
    for n in range(20, 25):
        agg.add([result("a", duration=3.0)], run_id=f"p{n}", branch="pr", started=n)
    gate = agg.gate({"max_slower": 0})
    assert gate.check("p24").reasons == ("1 slower test, at most 0 allowed: a",)
    assert gate.check("m19").ok


def test_a_gate_takes_a_run_or_its_name(agg):
    """And says what else it was given."""
    agg.add([result("a")], run_id="99", started=1)
    assert agg.gate().check("99").ok
    with pytest.raises(RunNotFound, match="did you mean '99'"):
        agg.gate().check("9")
    with pytest.raises(
        InvalidArgument, match="run: expected a Run or the name of one, got 99"
    ):
        agg.gate().check(99)


def test_flaky_tests_are_ranked_from_the_history(agg):
    """Retries count, a regression does not."""
    for run in range(40):
        agg.add([
            result("coin", "failed" if run % 11 == 5 else "passed"),
            result("broken", "failed" if 10 <= run < 18 else "passed"), result("fine"),
        ], run_id=str(run), started=run)  # fmt: skip
    agg.add(
        [result("retry", "failed"), result("retry", "passed")], run_id="40", started=40
    )
    assert [f.test for f in agg.flaky()] == ["coin", "retry"]
    rest = {f.test: f.class_ for f in agg.flaky(classes=None)}
    assert rest["broken"] == "fixed"
    assert "fine" not in rest
    assert agg.flaky(classes=None)[-1].row.count("F") == 8
    assert agg.run("40").counts.flaky == 1


def test_known_flakes_do_not_close_the_gate(agg):
    """Unless the rules say so."""
    for run in range(31):
        agg.add(
            [result("coin", "failed" if run % 10 == 0 else "passed"), result("x")],
            run_id=str(run),
            started=run,
        )
    run = agg.run("30")
    assert run.new_failures == ["coin"]
    made = agg.gate().check(run)
    assert made.ok
    assert made.ignored == ("coin",)
    assert not agg.gate({"ignore_known_flakes": False}).check(run).ok


@pytest.mark.parametrize(("rules", "reason"), [
    ({"max_failures": 0}, "1 failure, at most 0"), ({"min_tests": 9}, "2 tests ran, at least 9"),
    ({"min_pass_rate": 0.9}, "50.00% passed"), ({"max_duration": 1}, "took 3.0 s"),
    ({"max_missing": 0}, "1 missing test"), ({"require_shards": 2}, "1 shard of 2"),
])  # fmt: skip
def test_each_rule_gives_its_reason(agg, rules, reason):
    """With the figures."""
    agg.add([result("a"), result("b"), result("gone")], run_id="1", started=1)
    agg.add(
        [result("a", duration=3.0), result("b", "failed")],
        run_id="2",
        started=2,
        shard="1/2",
    )
    made = (
        agg.gate({"max_new_failures": None, **rules}).check(agg.run("2"))
        if rules
        else None
    )
    assert reason in made.reasons[0]


def test_rules_say_what_they_do_not_understand(tmp_path):
    """Key, value and file."""
    path = tmp_path / "gate.toml"
    path.write_bytes(b"[gate]\nmax_falures = 0\n")
    with pytest.raises(RulesError, match="did you mean 'max_failures'"):
        GateRules.load(path)
    path.write_bytes(b"[gate]\nmin_pass_rate = 95\n")
    with pytest.raises(
        RulesError, match=r"min_pass_rate: expected a number from 0 to 1, got 95"
    ):
        GateRules.load(path)
    with pytest.raises(
        RulesError, match="max_failures: expected a whole number of at least 0, got -1"
    ):
        GateRules.of({"max_failures": -1})
    path.write_bytes(b"gate = [")
    with pytest.raises(RulesError, match="not TOML"):
        GateRules.load(path)


def test_quarantine_needs_an_owner_and_an_end(tmp_path):
    """And ends on its day."""
    path = tmp_path / "q.toml"
    path.write_bytes(
        b'[[test]]\nid = "a*"\nowner = "me"\nreason = "db"\nexpires = 2026-03-01\n'
    )
    day = dt.date(2026, 3, 1)
    quarantine = Quarantine(today=lambda: day).load(path)
    assert quarantine.active("a::b").owner == "me"
    assert quarantine.active("b") is None
    day = dt.date(2026, 3, 2)
    assert quarantine.active("a::b") is None
    assert [e.test for e in quarantine.expired()] == ["a*"]
    path.write_bytes(b'[[test]]\nid = "a"\nreason = "db"\nexpires = 2026-03-01\n')
    with pytest.raises(RulesError, match=r"test\[0\]\.owner"):
        Quarantine().load(path)
    path.write_bytes(
        b'[[test]]\nid = "a"\nowner = "me"\nreason = "db"\nexpires = "soon"\n'
    )
    with pytest.raises(RulesError, match="expected a date"):
        Quarantine().load(path)


def test_the_last_owner_pattern_that_matches_counts(tmp_path):
    """As on GitHub."""
    path = tmp_path / "CODEOWNERS"
    path.write_bytes(
        b"# all\n* @all\n*.js @web\n/docs/ @docs\napps/ @apps\n/src/**/api.py @api\n/one/* @one\n"
    )
    owners = Owners.load(path)
    wanted = {"a.py": "@all", "x/y.js": "@web", "docs/a/b.md": "@docs", "x/docs/b.md": "@all", "x/apps/y": "@apps",
              "src/a/b/api.py": "@api", "src/api.py": "@api", "one/a": "@one", "one/a/b": "@all"}  # fmt: skip
    assert {file: owners.of(file)[0] for file in wanted} == wanted
    assert owners.of(None) == ()


def test_failures_of_one_cause_are_one_cluster():
    """Numbers, paths, quoted text and single words may differ."""
    said = [
        f"ConnectionError: cannot reach 10.0.0.{i}:80{i} after {i} s" for i in range(30)
    ]
    said += [f"KeyError: 'order-{i}'" for i in range(20)]
    said += [
        f"AssertionError: user {name} has no right to do that"
        for name in ("ada", "bob", "eve")
    ]
    made = cluster(
        [result(f"t{i}", "failed", message=text) for i, text in enumerate(said)]
    )
    assert [len(c.tests) for c in made] == [30, 20, 3]
    assert made[0].title == "ConnectionError: cannot reach <ip> after <n> s"
    assert "<*>" in made[2].title


def test_durations_that_moved_are_told_and_noise_is_not():
    """Ratio, seconds and spread must all be beyond their limits."""
    noise = [1.0, 1.1, 0.9, 1.05, 0.95] * 6
    assert duration_change("t", noise) is None
    made = duration_change("t", noise + [2.0] * 5)
    assert (made.before, made.after, round(made.ratio, 2)) == (1.0, 2.0, 2.0)
    assert duration_change("t", [0.001] * 30 + [0.01] * 5) is None
    assert duration_change("t", [1.0] * 5) is None


def test_shards_are_even_and_never_empty():
    """Files together, one long file split when it must be."""
    times = {f"f{i % 7}::t{i}": 1.0 + i % 3 for i in range(70)}
    groups = {t: t.partition("::")[0] for t in times}
    made = shards(times, 3, groups=groups)
    loads = [sum(times[t] for t in part) for part in made]
    assert max(loads) / min(loads) < 1.6
    assert sorted(t for part in made for t in part) == sorted(times)
    whole = [{groups[t] for t in part} for part in made]
    assert sum(map(len, whole)) == 7
    assert all(
        shards(
            {f"one::{i}": 1.0 for i in range(4)},
            4,
            groups={f"one::{i}": "one" for i in range(4)},
        )
    )
    assert made == shards(dict(reversed(times.items())), 3, groups=groups)


def test_frames_have_their_types_empty_or_not(agg):
    """And give the results back whole."""
    types = {
        what: agg.to_dataframe(what).dtypes.to_dict()
        for what in ("results", "runs", "flaky", "durations")
    }
    wanted = [
        result("a", start=1.5e9, file="a.py", line=3),
        result("b", "failed", message="no", tags=("x",)),
    ]
    agg.add(wanted, run_id="1", started=1.5e9)
    for what, before in types.items():
        assert agg.to_dataframe(what).dtypes.to_dict() == before, what
    frame = agg.to_dataframe("results")
    assert results_of(frame) == wanted
    assert list(frame["test"][frame["outcome"] == "failed"]) == ["b"]
    assert str(frame["started"].dtype) == "datetime64[us, UTC]"
    with pytest.raises(ValueError, match="known are results"):
        agg.to_dataframe("tests")
