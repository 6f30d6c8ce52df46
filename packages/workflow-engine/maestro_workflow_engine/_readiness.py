"""What happens to a step once nothing holds it: start, skip, wait, or fan out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, final

from . import _model as m
from ._endings import Endings
from ._growth import CHUNK, Growth
from ._model import READY, Node
from ._record import Record
from ._steps import SPECIAL, UPSET_FAILED, Steps, Stored
from .errors import StepFailedError


@final
class Readiness:
    """Decides about steps that have arrived where nothing holds them."""

    def __init__(
        self,
        steps: Steps,
        record: Record,
        growth: Growth,
        endings: Endings,
        approved: Iterable[str],
    ) -> None:
        self.steps = steps
        self.record = record
        self.growth = growth
        self.endings = endings
        self.approved = set(approved)
        self.gates: set[int] = set()  # those that wait for somebody

    def settle(self) -> None:
        """See what each arrived step does now. A list, not recursion: chains are long."""
        steps = self.steps
        arrived, special, upset = (
            steps.arrived,
            steps.special,
            steps.upset,
        )
        state = steps.state
        if not upset and steps.group is None:
            # Most steps only become ready; the rest goes through the loop below.
            plain: list[int] = []
            rest: list[int] = []
            for index in arrived:
                if special[index] or state[index]:
                    rest.append(index)
                else:
                    state[index] = READY
                    plain.append(index)
            arrived[:] = rest
            steps.dispatcher.add(plain, steps.priority)
        while arrived:
            index = arrived.pop()
            if state[index] != m.PENDING and state[index] != m.WAITING:
                continue
            if special[index] != SPECIAL and (not upset or index not in upset):
                steps.make_ready(index)
            elif index in steps.expanded:
                self._join(index)
            else:
                self._consider(index)

    def _consider(self, index: int) -> None:
        """Decide about a step that may be skipped, or that is not a plain call."""
        node = self.steps.nodes[index]
        spec = node.spec
        upset = self.steps.upset.get(index, 0)
        if spec.run_on == "success" and upset:
            self.endings.skip(
                index, "upstream_failed" if upset & UPSET_FAILED else "upstream_skipped"
            )
            return
        if spec.run_on == "failure" and not upset & UPSET_FAILED:
            self.endings.skip(index, "nothing_failed")
            return
        try:
            wanted = (
                node.when is True or node.when is CHUNK or self.steps.value(node.when)
            )
        except Exception as error:
            self.endings.fail(index, self.endings.wrapped(index, error), "condition")
            return
        if not wanted:
            self.endings.skip(index, "condition_false")
        elif spec.kind == "barrier":
            self.endings.succeed(index, None)
        elif spec.kind == "gate":
            self._gate(index)
        elif node.mapping is not None:
            self._expand(index)
        elif spec.cache and self._from_cache(index):
            pass
        else:
            self.steps.make_ready(index)

    def _gate(self, index: int) -> None:
        name = self.steps.nodes[index].name
        if name in self.approved:
            self.record.log(name, 0, "approved")
            self.endings.succeed(index, True)
        elif self.steps.state[index] != m.WAITING:
            self.steps.move(index, m.WAITING)
            self.gates.add(index)
            self.record.log(name, 0, "waiting")
        else:
            self.gates.add(index)

    def _from_cache(self, index: int) -> bool:
        from ._digest import cache_key

        node = self.steps.nodes[index]
        try:
            key = cache_key(
                node.spec,
                self.steps.resolve(node.args),
                self.steps.resolve(node.kwargs or {}),
            )
        except Exception as error:
            told = StepFailedError(
                node.name, 0, f"step {node.name!r} cannot be cached: {error}"
            )
            self.endings.fail(index, told, "inputs")
            return True
        self.endings.cache_keys[index] = key
        if self.record.journal is not None:
            text = self.record.journal.cached(key)
            if text is None:
                return False
            self.endings.succeed(index, Stored(text), note="cached")
            return True
        if key in self.endings.cache:
            self.endings.succeed(index, self.endings.cache[key], note="cached")
            return True
        return False

    def _expand(self, index: int) -> None:
        """Make a step for each item of a map, or each chunk of items."""
        steps = self.steps
        node = steps.nodes[index]
        mapping = node.mapping
        assert mapping is not None
        try:
            found = steps.resolve(mapping.items)
            if isinstance(found, str | bytes):
                raise TypeError(
                    f"expected a list to map over, got the text {found!r:.60} "
                    "(a command gives a list with capture 'lines' or 'json')"
                )
            items = list(found)
        except Exception as error:
            self.endings.fail(index, self.endings.wrapped(index, error), "inputs")
            return
        size = mapping.chunk
        parts: list[tuple[Any]]
        if size > 1:
            parts = [(items[i : i + size],) for i in range(0, len(items), size)]
        else:
            parts = [(item,) for item in items]
        if not parts:
            self.endings.succeed(index, [])
            return
        first, count = len(steps.nodes), len(parts)
        spec, name, kwargs = node.spec, node.name, node.kwargs
        marker = CHUNK if size > 1 else True
        steps.nodes += [
            Node(f"{name}[{k}]", spec, part, kwargs, (), (), marker)
            for k, part in enumerate(parts)
        ]
        steps.grow(count)
        special = self.growth.mark(spec)
        steps.special[first:] = bytes([special]) * count
        steps.waits += [0] * count
        steps.successors += [[index]] * count  # one list for all: nobody adds to it
        steps.priority += [steps.priority[index]] * count
        if steps.group is not None:
            steps.group += [steps.group[index]] * count
        steps.expanded[index] = (first, count)
        steps.waits[index] = count
        steps.move(index, m.WAITING)
        if not self.record.silent:
            self.record.log(name, 0, "expanded", note=str(count))
        fresh = range(first, first + count)
        if self.growth.past is not None:
            self.growth.recall_new(first)
            fresh = [i for i in fresh if not steps.state[i]]  # type: ignore[assignment]
        if not steps.waits[index]:
            steps.arrived.append(index)
        elif special or steps.group is not None:
            steps.arrived += reversed(fresh)
        else:
            steps.state[first:] = bytes(
                state or m.READY for state in steps.state[first:]
            )
            steps.dispatcher.extend(fresh, steps.priority[index])

    def _join(self, index: int) -> None:
        """Collect the results of a map's items."""
        steps = self.steps
        first, count = steps.expanded[index]
        states = steps.state[first : first + count]
        if states.count(m.SUCCEEDED) == count:
            values = [steps.result(i) for i in range(first, first + count)]
            mapping = steps.nodes[index].mapping
            assert mapping is not None
            if mapping.chunk > 1:
                values = [item for part in values for item in part]
            self.endings.succeed(index, values)
            return
        failed = [i for i in range(first, first + count) if i in steps.errors]
        if not failed:
            self.endings.skip(index, "upstream_skipped")
            return
        name = steps.nodes[index].name
        error = StepFailedError(
            name,
            steps.tries[failed[0]],
            f"{len(failed)} of {count} items of {name!r} failed; the first: "
            f"{steps.errors[failed[0]]}",
        )
        error.__cause__ = steps.errors[failed[0]]
        self.endings.fail(index, error, "item_failed")
