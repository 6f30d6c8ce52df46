"""Properties of the parts: pools, graphs, schedules, states, texts."""

import itertools
import random
import tempfile
from collections import Counter
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from maestro_workflow_engine import Journal
from maestro_workflow_engine._dispatch import POLICIES, Dispatcher
from maestro_workflow_engine._graph import (
    bottom_levels,
    compile_graph,
    compile_rest,
    find_cycle,
    levels,
)
from maestro_workflow_engine._model import DONE, LEGAL, MOVES, STATE_NAMES, seconds
from maestro_workflow_engine._plan import Tasks, search, simulate
from maestro_workflow_engine._shape import Shape

settings.register_profile("fixed", derandomize=True, deadline=None, max_examples=60)
settings.load_profile("fixed")


@st.composite
def graphs(draw):
    """Steps that need earlier ones, with durations."""
    n = draw(st.integers(1, 30))
    needs = [
        sorted(draw(st.sets(st.integers(0, i - 1), max_size=4))) if i else []
        for i in range(n)
    ]
    durations = [float(draw(st.integers(0, 20))) for _ in range(n)]
    return needs, durations


def tasks_for(needs, durations):
    return Tasks(
        graph=compile_graph(needs),
        names=[str(i) for i in range(len(needs))],
        durations=durations,
        needs=None,
        instant=frozenset(),
        pools={},
    )


@given(graphs(), st.integers(1, 6))
def test_a_schedule_is_legal_and_between_its_bounds(graph, workers):
    needs, durations = graph
    tasks = tasks_for(needs, durations)
    placed = []
    length = simulate(tasks, tasks.bottom, workers, placed=placed)
    start = {i: a for i, _, a, _ in placed}
    end = {i: b for i, _, _, b in placed}
    assert sorted(start) == list(range(len(needs)))
    for i, before in enumerate(needs):
        assert all(end[b] <= start[i] for b in before)
    lanes = {}
    for _, lane, a, b in sorted(placed, key=lambda p: (p[2], p[3])):
        assert lanes.get(lane, 0) <= a
        lanes[lane] = b
    assert len(lanes) <= workers
    path, work = max(tasks.bottom), sum(durations)
    assert max(path, work / workers) - 1e-9 <= length <= work + 1e-9
    # Graham, 1966: no list schedule is longer than this.
    assert length <= work / workers + path * (1 - 1 / workers) + 1e-9
    assert search(tasks, workers, tries=4)[0] <= length


@given(graphs())
def test_levels_and_bottom_levels_follow_the_arrows(graph):
    needs, durations = graph
    compiled = compile_graph(needs)
    level, bottom = levels(compiled), bottom_levels(compiled, durations)
    for i, before in enumerate(needs):
        assert level[i] == max((level[b] + 1 for b in before), default=0)
        for b in before:
            assert bottom[b] >= durations[b] + bottom[i]


@given(graphs(), st.data(), st.booleans())
def test_the_graph_of_what_is_left_is_part_of_the_whole(graph, data, backwards):
    needs, _ = graph
    if backwards:  # what is needed stands behind what needs it
        needs = [[len(needs) - 1 - b for b in before] for before in reversed(needs)]
    whole = compile_graph(needs)
    left = data.draw(st.sets(st.sampled_from(range(len(needs)))))
    rest = compile_rest(
        len(needs), {i: [b for b in needs[i] if b in left] for i in sorted(left)}
    )
    for i in range(len(needs)):
        after = [a for a in whole.successors[i] if a in left] if i in left else []
        assert sorted(rest.successors[i]) == sorted(after)
        assert rest.waits[i] == sum(b in left for b in needs[i]) * (i in left)
    place = {i: k for k, i in enumerate(rest.order)}
    assert set(place) == left
    assert all(place[b] < place[i] for i in left for b in needs[i] if b in left)


@given(graphs(), st.randoms(use_true_random=False))
def test_a_circle_is_found_and_is_one(graph, rng):
    needs, _ = graph
    assert find_cycle(needs, compile_graph(needs)) == []
    chain = [[], *([i] for i in range(len(needs)))]
    chain[0] = [rng.randrange(len(chain))]
    circle = find_cycle(chain, compile_graph(chain))
    assert circle[0] == circle[-1]
    for a, b in itertools.pairwise(circle):
        assert a in chain[b]


@given(
    st.lists(
        st.tuples(
            st.integers(0, 3), st.integers(0, 3), st.integers(0, 2), st.integers(0, 9)
        ),
        max_size=60,
    ),
    st.sampled_from(POLICIES),
    st.integers(0, 2**20),
)
def test_pools_are_never_oversubscribed_and_everything_runs(rows, policy, seed):
    """Steps end in any order: each still starts, and no pool is ever overdrawn."""
    rng = random.Random(seed)
    capacity = {"a": 3, "b": 3}
    dispatcher = Dispatcher(capacity, policy)
    needs = {}
    for i, (a, b, group, priority) in enumerate(rows):
        needs[i] = tuple((p, n) for p, n in (("a", a), ("b", b)) if n)
        dispatcher.push(i, priority, needs[i], group)
    running, started = [], []
    while True:
        while (i := dispatcher.take()) >= 0:
            running.append(i)
            started.append(i)
        used = {p: sum(dict(needs[i]).get(p, 0) for i in running) for p in capacity}
        assert all(used[p] <= capacity[p] for p in capacity)
        assert dispatcher.free == {p: capacity[p] - used[p] for p in capacity}
        if not running:
            break
        i = running.pop(rng.randrange(len(running)))
        dispatcher.release(needs[i], rows[i][2])
    assert sorted(started) == list(range(len(rows)))


def test_a_big_request_is_not_passed_over_for_ever():
    dispatcher = Dispatcher({"db": 4})
    dispatcher.push(0, 0.0, (("db", 4),))
    for i in range(1, 5):
        dispatcher.push(i, 1.0, (("db", 1),))
    running = [dispatcher.take() for _ in range(4)]
    for turn in range(200):  # a newcomer for each that ends
        dispatcher.push(100 + turn, 1.0, (("db", 1),))
        dispatcher.release((("db", 1),))
        running.pop(0)
        while (i := dispatcher.take()) >= 0:
            running.append(i)
        if 0 in running:
            break
    assert 0 in running


def test_the_table_of_moves_is_the_list_of_moves():
    for old in range(len(STATE_NAMES)):
        for new in range(len(STATE_NAMES)):
            assert bool(MOVES[old * 16 + new]) == (new in LEGAL[old])
    for state in DONE:
        assert not LEGAL[state]


@given(st.integers(0, 10**6), st.sampled_from(["ms", "s", "m", "h", "d", "w"]))
def test_durations_keep_their_value(number, unit):
    factor = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}[unit]
    assert seconds(f"{number}{unit}") == number * factor
    assert seconds(f"{number} {unit} 1s") == number * factor + 1


STEPS = ("plain", "tab\there", "with\x1eseparator", 'quo"ted', "ümlaut", "x[0]", "x[1]")
# What may happen to a step from its first start on, attempt by attempt.
HISTORIES = (
    ["started", "succeeded"],
    ["started", "failed"],
    ["started"],
    ["started", "retrying", "started", "succeeded"],
    ["started", "retrying", "started", "retrying", "started"],
    ["started", "interrupted", "started", "succeeded"],
    ["succeeded"],  # a gate or a cached step never starts
    [],
)


@st.composite
def journals(draw):
    """Histories of some steps, cut anywhere, and the order in which they mix."""
    chosen = {
        name: draw(st.sampled_from(HISTORIES))[: draw(st.integers(0, 5))]
        for name in draw(st.sets(st.sampled_from(STEPS)))
    }
    order = [name for name, history in chosen.items() for _ in history]
    return chosen, draw(st.permutations(order)), draw(st.integers(1, 4))


def write(journal, info, chosen, order, together):
    """Commit the events in small turns, in which the starts come last."""
    left = {name: list(history) for name, history in chosen.items()}
    tries = Counter()
    for i in range(0, len(order), together):
        rows, starts = [], []
        for name in order[i : i + together]:
            kind = left[name].pop(0)
            if kind == "started":
                tries[name] += 1
                starts.append((name, tries[name]))
                continue
            if starts:
                journal.commit(info, rows, starts, 1.0)
                rows, starts = [], []
            value = '"one\\ntwo"' if kind == "succeeded" else None
            rows.append((name, tries[name], kind, 1.0, None, None, value, None))
        journal.commit(info, rows, starts, 1.0)


@given(journals(), st.sets(st.sampled_from(STEPS)))
def test_what_a_resume_reads_is_the_fold_of_the_events(history, known):
    index = {name: i for i, name in enumerate(sorted(known))}
    shape = Shape(names=[], digests=[], needs=[])
    with (
        tempfile.TemporaryDirectory() as folder,
        Journal(Path(folder, "runs.db")) as journal,
    ):
        info = journal.create(
            "r", workflow="w", source=None, params={}, shape=shape, workers=1,
            executor="inline",
        )  # fmt: skip
        write(journal, info, *history)
        past = journal.past(info.key, index)
        events = list(journal.events("r"))
    tries, ended, succeeded = {}, {}, {}
    for event in events:
        if event.kind == "started":
            tries[event.step] = event.attempt
        elif event.kind == "succeeded":
            succeeded[event.step] = event.value
        elif event.kind in ("failed", "retrying"):
            ended[event.step] = event.attempt
    assert past.last == len(events)
    for name in STEPS:
        text = past.text(name, index.get(name))
        assert text == succeeded.get(name)
        told = past.tries.get(name, int(text is not None))
        assert told == tries.get(name, 0)
    assert past.interrupted == sorted(
        name
        for name, number in tries.items()
        if name not in succeeded and ended.get(name) != number
    )


@given(
    st.lists(st.tuples(st.text(), st.text(), st.lists(st.integers(0, 10**6)))),
)
def test_the_shape_of_a_run_is_read_back_as_it_was(steps):
    names, digests, needs = (
        (list(part) for part in zip(*steps, strict=True)) if steps else ([], [], [])
    )
    shape = Shape(names=names, digests=digests, needs=needs)
    digest, body = shape.pack()
    assert Shape.unpack(body) == shape
    assert digest == shape.whole()
