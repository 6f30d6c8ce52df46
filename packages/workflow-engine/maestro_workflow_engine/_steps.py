"""What a run knows of its steps: lists indexed by a step's position."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, final

from . import _model as m
from ._dispatch import Dispatcher
from ._expression import Expression, Text
from ._model import Attempt, Node, Ref, Spec
from .errors import StepError

if TYPE_CHECKING:
    from ._journal import Journal

UPSET_FAILED, UPSET_SKIPPED = 1, 2  # what upset a step: bits
SPECIAL, POOLED = 1, 2  # a step that does not simply start once nothing holds it


@final
class Stored:
    """A result that is text, as the journal keeps it."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text


@final
class Steps:
    """The state of each step of one run, its values, and what is ready to start."""

    def __init__(
        self,
        params: Mapping[str, Any],
        dispatcher: Dispatcher,
        journal: Journal | None,
    ) -> None:
        self.params = params
        self.dispatcher = dispatcher
        self.journal = journal
        self.nodes: list[Node] = []
        self.index: dict[str, int] = {}
        self.state = bytearray()
        self.special = bytearray()
        self.earlier = bytearray()  # 1 for what succeeded before this resume
        self.waits: list[int] = []
        self.successors: list[list[int]] = []
        self.priority: list[float] = []
        self.group: list[int] | None = None  # which addition each came with
        self.groups = 0
        self.expanded: dict[int, tuple[int, int]] = {}  # a map's items: first, count
        self.tries: list[int] = []
        self.started = array("d")
        self.ended = array("d")
        self.worker: list[str] = []
        self.results: list[Any] = []
        # Results that are still text, as the journal keeps them: most are never looked
        # at again. Without a journal there are none.
        self.texts: list[str | None] = []
        self.stored = False  # whether any are
        self.reasons: dict[int, str] = {}
        self.errors: dict[int, StepError] = {}
        self.upset: dict[int, int] = {}
        self.arrived: list[int] = []  # what waits for nothing any more
        self.running: dict[int, Attempt] = {}
        self.cancelling = ""  # why nothing more is started

    def grow(self, count: int) -> None:
        self.state += bytes(count)
        self.earlier += bytes(count)
        self.special += bytes(count)
        self.results += [None] * count
        if self.journal is not None:
            self.texts += [None] * count
        self.tries += [0] * count
        self.started.frombytes(bytes(8 * count))
        self.ended.frombytes(bytes(8 * count))
        self.worker += [""] * count

    def move(self, index: int, new: int) -> None:
        """Change a step's state: the one place where that happens."""
        old = self.state[index]
        if not m.MOVES[old * 16 + new]:
            raise AssertionError(
                f"step {self.nodes[index].name!r} cannot go from {m.STATE_NAMES[old]} "
                f"to {m.STATE_NAMES[new]}"
            )
        self.state[index] = new

    def make_ready(self, index: int) -> None:
        if not m.MOVES[self.state[index] * 16 + m.READY]:
            self.move(index, m.READY)  # which raises
        self.state[index] = m.READY
        self.dispatcher.push(
            index,
            self.priority[index],
            self.nodes[index].spec.pools,
            self.group[index] if self.group is not None else 0,
        )

    def release(self, index: int, spec: Spec) -> None:
        self.dispatcher.release(
            spec.pools, self.group[index] if self.group is not None else 0
        )

    def pass_on(self, index: int, bad: int) -> None:
        """Tell those that wait for a step that it brings no result."""
        waits = self.waits
        for other in self.successors[index]:
            # A step that was skipped upsets only those who use its result.
            if bad & UPSET_FAILED or index not in self.nodes[other].after:
                self.upset[other] = self.upset.get(other, 0) | bad
            waits[other] -= 1
            if not waits[other]:
                self.arrived.append(other)

    def reason(self, index: int) -> str:
        """Return why a step is in its state, where that needs saying."""
        return self.reasons.get(index, "earlier" if self.earlier[index] else "")

    def result(self, index: int) -> Any:
        """Return a step's result, decoded when it came from the journal."""
        if self.stored and (text := self.texts[index]) is not None:
            assert self.journal is not None
            self.results[index] = self.journal.decode(text)
            self.texts[index] = None
        return self.results[index]

    def arguments(self, args: Sequence[Any]) -> list[Any]:
        """Fill in a step's arguments: `_resolve` for the most frequent shapes."""
        result = self.result
        found = []
        for value in args:
            kind = type(value)
            if kind is Ref and not value.path:
                value = result(value.index)  # noqa: PLW2901
            elif kind is not str and kind is not int:
                value = self.resolve(value)  # noqa: PLW2901
            found.append(value)
        return found

    def resolve(self, value: Any) -> Any:
        kind = type(value)
        if kind is Ref:
            found = self.result(value.index)
            return value.pick(found) if value.path else found
        if kind is tuple or kind is list:
            return [self.resolve(item) for item in value]
        if kind is dict:
            return {key: self.resolve(item) for key, item in value.items()}
        if kind is Expression or kind is Text:
            return self.value(value)
        return value

    def value(self, value: Any) -> Any:
        if isinstance(value, Expression | Text):
            return value.evaluate(self._by_name, self.params)
        return self.resolve(value)

    def _by_name(self, name: str) -> Any:
        return self.result(self.index[name])
