"""How a run comes by its steps: from workflows, the journal, maps, and undo steps."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import compress
from operator import attrgetter, not_
from typing import TYPE_CHECKING, final

from . import _model as m
from ._expression import Text
from ._graph import bottom_levels, compile_rest
from ._model import PENDING, SUCCEEDED, Node, Ref, Spec
from ._record import Record
from ._steps import POOLED, SPECIAL, UPSET_FAILED, Steps
from .errors import StepFailedError

if TYPE_CHECKING:
    from ._past import Past
    from ._workflow import Workflow

_RUNNABLE = ("python", "async", "command")
_name_of = attrgetter("name")


class Chunk:
    """Stands in a node's `when` for "an item list of a chunked map"."""

    __slots__ = ()


CHUNK = Chunk()


@final
class Growth:
    """Adds steps to a run, with what the journal remembers of them."""

    def __init__(
        self,
        steps: Steps,
        record: Record,
        *,
        past: Past | None,
        durations: Mapping[str, float],
        batching: bool,
    ) -> None:
        self.steps = steps
        self.record = record
        self.past = past
        self.durations = durations
        self.batching = batching  # whether attempts may wait in an executor
        self.kinds: set[str] = set()
        self._compensated = False
        self._undoes = False  # whether any step has one that undoes it

    def add(self, workflow: Workflow, priorities: Sequence[float] | None) -> None:
        """Append a workflow's nodes, whose positions must follow those we have."""
        steps = self.steps
        nodes = workflow.nodes
        shift = len(steps.nodes)
        count = len(nodes)
        texts = self._remembered(nodes, known=not shift)
        done = _which(texts)
        left: Sequence[int] = range(count)
        if texts:
            left = list(compress(left, map(not_, done)))
        if shift or texts:
            graph = compile_rest(count, _needs(nodes, left, shift, done))
        else:
            graph = workflow.graph()
        special, times = self._looks(nodes)
        if priorities is None:
            if known := self.durations:
                for index in left:
                    times[index] = known.get(nodes[index].name, times[index])
            priorities = bottom_levels(graph, times)
        steps.nodes += nodes
        steps.waits += graph.waits
        after = graph.successors
        steps.successors += [[i + shift for i in s] for s in after] if shift else after
        steps.priority += priorities[:count]
        steps.grow(count)
        if steps.group is not None:
            steps.group += [steps.groups] * count
        steps.special[shift:] = special
        if shift or len(workflow.index) != count:
            names = map(_name_of, nodes)
            steps.index.update(zip(names, range(shift, shift + count), strict=False))
        else:
            steps.index = workflow.index.copy()
        self._recall(shift, texts, done, steps.index)
        state, waits = steps.state, steps.waits
        steps.arrived += (
            [i for i in range(shift, shift + count) if not waits[i] and not state[i]]
            if shift
            else [i for i in left if not waits[i] and not state[i]]
        )

    def mark(self, spec: Spec) -> int:
        """Tell how much there is to do before steps of this kind start."""
        self.kinds.add(spec.kind)
        self._undoes |= spec.compensate is not None
        if spec.timeout is not None or spec.once:
            # A queued attempt's clock would run already; and after a crash a `once`
            # step that had only waited its turn would look as if it had begun.
            self.batching = False
        if spec.kind not in _RUNNABLE or spec.run_on != "success" or spec.cache:
            return SPECIAL
        return POOLED if spec.pools else 0

    def _looks(self, nodes: Sequence[Node]) -> tuple[bytearray, list[float]]:
        """Tell what is special about each step, and how long it may take."""
        known: dict[int, tuple[int, float]] = {}
        last: Spec | None = None
        mark, guess = 0, 0.0
        special = bytearray()
        times: list[float] = []
        for node in nodes:
            spec = node.spec
            if spec is not last:  # neighbours often share theirs
                last = spec
                found = known.get(id(spec))
                if found is None:
                    found = known[id(spec)] = (self.mark(spec), _guess(spec))
                mark, guess = found
            times.append(guess)
            plain = node.direct or (node.when is True and node.mapping is None)
            special.append(mark if plain else SPECIAL)
        return special, times

    def _remembered(
        self, nodes: Sequence[Node], *, known: bool = False
    ) -> list[str | None]:
        """The results of steps that succeeded earlier; nothing in a new run."""
        if self.past is None:
            return []
        if known:
            return self.past.texts
        return list(map(self.past.extra.get, map(_name_of, nodes)))

    def _recall(
        self,
        shift: int,
        texts: list[str | None],
        done: bytes,
        places: Mapping[str, int],
    ) -> None:
        """Take over what the journal says about the steps from `shift` on.

        `places` has their positions by name, and may have those of others too.
        """
        steps = self.steps
        past = self.past
        if past is None:
            return
        steps.tries[shift:] = done  # one attempt, unless the journal counts them
        for name, number in past.tries.items():
            if (index := places.get(name, -1)) >= shift:
                steps.tries[index] = number
        steps.state[shift:] = done.translate(_TO_SUCCEEDED)
        steps.texts[shift:] = texts
        steps.stored = True
        steps.earlier[shift:] = done
        for name, decision in past.decided.items():
            index = places.get(name, -1)
            if index < shift or texts[index - shift] is not None:
                continue
            if decision == "skip":
                steps.reasons[index] = "decided"
                steps.state[index] = m.SKIPPED
                steps.pass_on(index, 0)
            elif decision == "fail":
                message = f"step {name!r} was declared failed"
                error = StepFailedError(name, steps.tries[index], message)
                steps.errors[index] = error
                steps.state[index] = m.FAILED
                steps.reasons[index] = "decided"
                steps.pass_on(index, UPSET_FAILED)
        # What waits for nothing else now arrives with the other roots: see the callers.
        steps.arrived[:] = [i for i in steps.arrived if i < shift]

    def recall_new(self, first: int) -> None:
        """Do so for steps that this run has just added; they know who waits for them."""
        nodes = self.steps.nodes[first:]
        texts = self._remembered(nodes)
        places = {node.name: index for index, node in enumerate(nodes, first)}
        self._recall(first, texts, _which(texts), places)
        waits, successors = self.steps.waits, self.steps.successors
        for index, text in enumerate(texts, first):
            if text is not None:
                for other in successors[index]:
                    waits[other] -= 1

    def compensate(self) -> bool:
        """After a failure, add the undo steps of what had succeeded; latest first."""
        steps = self.steps
        if self._compensated or not (steps.errors or steps.cancelling):
            return False
        self._compensated = True
        if not self._undoes:
            return False
        todo = [
            (steps.ended[i], i)
            for i, node in enumerate(steps.nodes)
            if node.spec.compensate is not None and steps.state[i] == m.SUCCEEDED
        ]
        if not todo or steps.cancelling == "cancelled":
            return False
        self.record.log("", 0, "compensating")
        before: tuple[int, ...] = ()
        first = len(steps.nodes)
        for _, index in sorted(todo, reverse=True):
            node = steps.nodes[index]
            undo = node.spec.compensate
            assert undo is not None
            name = f"undo:{node.name}"
            args = undo.argv or (Ref(index, node.name),)
            args = tuple(
                Text(a) if isinstance(a, str) and "${" in a else a for a in args
            )
            # Always: one that fails must not keep the others from being undone.
            self.mark(undo)
            steps.nodes.append(Node(name, _always(undo), args, None, before, before))
            steps.index[name] = len(steps.nodes) - 1
            before = (len(steps.nodes) - 1,)
        count = len(steps.nodes) - first
        steps.grow(count)
        steps.special[first:] = b"\1" * count
        steps.waits += [0] + [1] * (count - 1)
        steps.successors += [[i + 1] for i in range(first, first + count - 1)] + [[]]
        steps.priority += [0.0] * count
        if steps.group is not None:
            steps.group += [0] * count
        steps.cancelling = ""
        self.recall_new(first)
        steps.arrived += [
            i
            for i in range(first, first + count)
            if not steps.waits[i] and not steps.state[i]
        ]
        return bool(steps.arrived)


def _needs(
    nodes: Sequence[Node], left: Sequence[int], shift: int, done: bytes
) -> dict[int, list[int]]:
    """For the steps that are left: which of those, counted from `shift`, they need."""
    if not done:
        return {i: [other - shift for other in nodes[i].needs] for i in left}
    return {
        i: [other - shift for other in nodes[i].needs if not done[other - shift]]
        for i in left
    }


def _which(texts: Sequence[str | None]) -> bytes:
    """A 1 for each step that has a result."""
    return bytes([text is not None for text in texts])


_TO_SUCCEEDED = bytes([PENDING, SUCCEEDED, *range(2, 256)])


def _guess(spec: Spec) -> float:
    if spec.kind in ("gate", "barrier"):
        return 0.0
    return 1.0 if spec.estimate is None else spec.estimate


def _always(spec: Spec) -> Spec:
    return replace(spec, run_on="always")


def shifted(workflow: Workflow, shift: int, prefix: str) -> Workflow:
    """Copy a workflow so that its nodes follow those of a run."""
    from ._workflow import Workflow, moved

    copy = Workflow(workflow.name, params=workflow.params)
    for node in workflow.nodes:
        new = moved(node, shift, prefix)
        new.name = f"{prefix}/{node.name}"
        copy.nodes.append(new)
    return copy


def added_note(prefix: str, workflow: Workflow) -> str:
    """Describe a workflow added to a run, so that a resume can add it again."""
    return json.dumps(
        {"prefix": prefix, "source": workflow.source, "params": workflow.params},
        default=str,
    )
