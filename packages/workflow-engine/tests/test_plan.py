"""Plans: levels, critical path, waves and event-driven, against proven optima."""

import random
import statistics
import time

import pytest
import wf_steps as w
from maestro_workflow_engine import Workflow, WorkflowEngine, gate, step
from maestro_workflow_engine._dispatch import Dispatcher
from maestro_workflow_engine._graph import compile_graph
from maestro_workflow_engine._plan import Tasks, search, simulate, tasks_of


def timed_workflow(durations, needs, name="w", unit=1.0):
    """A workflow of empty steps with estimates."""
    flow = Workflow(name)
    refs = []
    for i, (length, before) in enumerate(zip(durations, needs, strict=True)):
        one = step(name=f"s{i}", estimate=length * unit)(lambda *a: None)
        refs.append(flow.add(one, *[refs[b] for b in before]))
    return flow


def six_by_six(k=3):
    """36 steps, six levels of six; each needs `k` of the level before."""
    needs = []
    for level in range(6):
        for i in range(6):
            before = range(6 * (level - 1), 6 * level) if level else ()
            needs.append([before[(i + j) % 6] for j in range(k)] if level else [])
    return timed_workflow([1.0] * 36, needs)


def test_36_steps_give_12_waves_and_better_without():
    """Golden: the well-known dry run, with the honest figure beside it."""
    plan = six_by_six().plan((1, 2, 4, 8))
    assert [row.waves for row in plan.rows] == [36, 18, 12, 6]
    assert [row.wave_speedup for row in plan.rows] == [1.0, 2.0, 3.0, 6.0]
    four = plan.rows[2]
    assert (four.seconds, four.bound) == (9, 9)
    assert four.speedup == pytest.approx(4.0)
    assert plan.useful_workers == 6
    line = next(x for x in str(plan).splitlines() if x.split()[:1] == ["4"])
    assert line.split() == ["4", "12", "12s", "3.0x", "9s", "4.0x", "9s"]


@pytest.mark.parametrize("seed", range(5))
def test_36_steps_with_chance_dependencies_gain_too(seed):
    rng = random.Random(seed)
    needs = [
        rng.sample(range(6 * (i // 6 - 1), 6 * (i // 6)), 3) if i >= 6 else []
        for i in range(36)
    ]
    row = timed_workflow([1.0] * 36, needs).plan(4).rows[0]
    assert row.waves == 12
    assert 9 <= row.seconds <= 11 < row.wave_seconds


def test_the_plan_names_critical_path_levels_and_gains():
    flow = timed_workflow([1, 5, 2, 1, 4], [[], [0], [0], [1, 2], []])
    plan = flow.plan((1, 2))
    assert plan.critical_path == ("s0", "s1", "s3")
    assert plan.critical_seconds == 7
    assert plan.work == 13
    assert plan.levels == (("s0", "s4"), ("s1", "s2"), ("s3",))
    assert plan.sources == {"history": 0, "estimate": 5, "assumed": 0}
    assert plan.gains(3)["s1"] == pytest.approx(0.5)
    assert plan.gains(2)["s1"] == 0  # the other branch takes as long
    assert {p.step for p in plan.schedule(2)} == {f"s{i}" for i in range(5)}
    assert plan.as_dict()["rows"][1]["bound"] == 7


def test_tiers_say_why():
    flow = timed_workflow([1, 1, 1, 5, 1], [[], [0], [0], [0], [1]])
    tiers = {t.step: t for t in flow.plan(2).tiers()}
    assert tiers["s0"].tier == "foundation"
    assert tiers["s0"].reason == "3 steps wait for it"
    assert tiers["s3"].tier == "critical"
    assert tiers["s4"].tier == "closing"
    assert tiers["s1"].tier == "standard"


def test_maps_and_gates_have_their_place_in_a_plan():
    with Workflow("w") as flow:
        w.double.options(estimate=2).map(list(range(8)))
        w.double.options(name="guess", estimate=1).map(w.numbers(3), chunk=2, expect=4)
        gate("ok")
    plan = flow.plan(4)
    assert plan.work == 8 * 2 + 1 + 2
    assert plan.row(4).seconds <= 6
    tasks, _ = tasks_of(flow)
    assert tasks.names[tasks.graph.order[0]] is not None
    with Workflow("wide") as wide:
        w.double.map(range(5_000))
    assert wide.plan(10).row(10).seconds == 500


def test_pools_bound_a_forecast():
    one = step(pool="db", estimate=1)(lambda: None)
    with Workflow("w", pools={"db": 2}) as flow:
        for _ in range(8):
            one()
    assert flow.plan(8).row(8).seconds == 4


def stg_tasks(graph):
    durations, needs = graph
    return Tasks(
        graph=compile_graph(needs),
        names=[str(i) for i in range(len(durations))],
        durations=durations,
        needs=None,
        instant=frozenset(),
        pools={},
    )


def test_the_critical_path_policy_is_within_half_a_percent_of_proven_optima(stg):
    graphs, optima = stg
    tasks = {name: stg_tasks(graph) for name, graph in graphs.items()}
    over = [
        simulate(tasks[name], tasks[name].bottom, m) / best - 1
        for name, m, best in optima
    ]
    assert len(over) > 1_400
    assert min(over) >= 0, "faster than a proven optimum: the simulation is wrong"
    assert statistics.fmean(over) <= 0.005


def test_waves_cost_a_quarter_and_more(stg):
    """Reported beside it: a barrier after each level, and after each batch."""
    graphs, optima = stg
    batches = []
    for name, m, best in optima[::12]:
        flow = timed_workflow(*graphs[name])
        batches.append(flow.plan(m).rows[0].wave_seconds / best - 1)
    assert statistics.fmean(batches) > 0.25


def test_the_best_of_32_plans_is_within_a_fifth_of_a_percent(stg):
    graphs, optima = stg
    over = []
    for name, m, best in optima[::8]:
        length, _ = search(stg_tasks(graphs[name]), m, tries=32)
        assert length >= best
        over.append(length / best - 1)
    assert statistics.fmean(over) <= 0.002


@pytest.mark.drill
def test_the_best_of_32_plans_over_all_graphs(stg):
    graphs, optima = stg
    tasks = {name: stg_tasks(graph) for name, graph in graphs.items()}
    over = [search(tasks[n], m, tries=32)[0] / best - 1 for n, m, best in optima]
    print(f"best of 32: {100 * statistics.fmean(over):.3f} % over the optimum")
    assert statistics.fmean(over) <= 0.002


def real_ratio(graph, unit, workers=4):
    """A real run on threads over its forecast with the durations that it measured.

    Those, because a nap on a busy machine is longer than it was told to be.
    """
    durations, needs = graph
    flow = Workflow("w")
    refs = []
    for i, (length, before) in enumerate(zip(durations, needs, strict=True)):
        nap = step(name=f"s{i}", estimate=length * unit)(
            lambda *a, length=length: time.sleep(length * unit)
        )
        refs.append(flow.add(nap, *[refs[b] for b in before]))
    with WorkflowEngine(f"threads:{workers}") as engine:
        run = engine.run(flow).check()
    napped = {report.step: report.seconds for report in run.steps}
    assert all(napped[f"s{i}"] >= d * unit * 0.99 for i, d in enumerate(durations))
    return run.seconds / flow.plan(workers, durations=napped).rows[0].seconds


def test_a_real_run_on_threads_takes_what_the_plan_said(stg):
    """Loose here, where other work shares the machine; the drill is strict."""
    graphs, _ = stg
    names = sorted(graphs)[:3]
    ratios = [best_ratio(graphs[name], 0.005, good=1.14) for name in names]
    assert min(ratios) >= 0.9  # other durations can make another order
    assert statistics.median(ratios) < 1.15


def best_ratio(graph, unit, good, tries=10):
    """The best of some: other work on the machine only ever makes a run longer."""
    best = real_ratio(graph, unit)
    for _ in range(tries - 1):
        if best > good:
            best = min(best, real_ratio(graph, unit))
    return best


@pytest.mark.drill
def test_the_forecast_errs_by_one_percent_at_most(stg):
    graphs, _ = stg
    names = [n for n in sorted(graphs) if sum(graphs[n][0]) < 400][:8]
    ratios = [best_ratio(graphs[name], 0.02, good=1.01) for name in names]
    print(f"real over forecast: median {statistics.median(ratios):.4f}")
    assert statistics.median(ratios) <= 1.01


def test_a_run_can_follow_the_schedule_of_a_plan(stg):
    graphs, optima = stg
    name, m, _ = optima[0]
    flow = timed_workflow(*graphs[name], unit=0.0001)
    plan = flow.plan(m, search=8)
    assert plan.rows[0].seconds <= flow.plan(m).rows[0].seconds
    with WorkflowEngine(f"threads:{m}") as engine:
        engine.run(flow, plan=plan).check()


def test_100_000_steps_are_planned_quickly():
    flow = big(100_000)
    began = time.perf_counter()
    length = flow.plan(8).makespan(8)
    spent = time.perf_counter() - began
    assert length >= 100_000 / 8
    assert spent < 5  # a loaded machine; benchmarks/bench_engine.py has the figure


def big(count, width=100):
    flow = Workflow("big")
    nothing = step(name="nothing")(lambda *a: None)
    before = []
    while len(flow) < count:
        level = []
        for i in range(width):
            two = (before[i], before[(i + 7) % width]) if before else ()
            level.append(flow.add(nothing, *two))
        before = level
    return flow


def test_newcomers_share_by_policy():
    """Two equal groups, one worker: the order shows the policy."""
    orders = {}
    for policy in ("critical-path", "fair", "newest-first"):
        d = Dispatcher({}, policy)
        for i in range(3):
            d.push(i, 3 - i, (), 0)
            d.push(10 + i, 2.5 - i, (), 1)
        order = []
        while (i := d.take()) >= 0:
            order.append(i)
            if policy != "fair":
                d.release((), i // 10)
        orders[policy] = order
    assert orders["critical-path"] == [0, 10, 1, 11, 2, 12]
    assert orders["fair"] == [0, 10, 1, 11, 2, 12]
    assert orders["newest-first"] == [10, 11, 12, 0, 1, 2]


def test_workers_must_be_a_number():
    with pytest.raises(ValueError, match="of 1 or more in workers=, got 0"):
        six_by_six().plan(0)
