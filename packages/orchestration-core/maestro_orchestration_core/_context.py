"""The context window: token estimates without a vocabulary, and compaction."""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, final

from .errors import ContextOverflowError

_PIECE: Final = re.compile(
    r"(?P<word>[A-Za-z]+)|(?P<digits>[0-9]+)|(?P<line>\n[ \t]*)"
    r"|(?P<other>[^\x00-\x7f]+)|(?P<punct>[^\sA-Za-z0-9\x80-\U0010ffff]+)|\s+"
)
_PER_MESSAGE: Final = 4
Estimate = Callable[[str], int]


def estimate_tokens(text: str) -> int:
    """Return about how many tokens a text has; off by up to 30 % on real text."""
    total = 0.0
    for found in _PIECE.finditer(text):
        kind = found.lastgroup
        length = found.end() - found.start()
        if kind == "word":
            total += 1 if length <= 8 else -(-length // 6)
        elif kind == "digits":
            total += -(-length // 3)
        elif kind == "punct":
            total += -(-length // 2)
        elif kind == "other":
            total += 0.8 * length
        elif kind == "line":
            total += 1
    return round(total)


def message_tokens(
    messages: Iterable[Mapping[str, Any]], estimate: Estimate = estimate_tokens
) -> int:
    """Return about how many tokens chat messages take, framing included."""
    total = 0
    for message in messages:
        total += _PER_MESSAGE + estimate(str(message.get("content") or ""))
        for call in message.get("tool_calls") or ():
            total += estimate(str(call))
    return total


@final
class Calibration:
    """Learn per model how far the estimate is off, from what providers report."""

    def __init__(self, weight: float = 0.2) -> None:
        self._weight = weight
        self._ratio: dict[str, float] = {}

    def learn(self, model: str, *, estimated: int, real: int) -> None:
        """Take one observation: the provider counted `real` prompt tokens."""
        if estimated > 0 and real > 0:
            seen = real / estimated
            old = self._ratio.get(model, seen)
            self._ratio[model] = old + self._weight * (seen - old)

    def ratio(self, model: str) -> float:
        """Return real over estimated, 1.0 before the first observation."""
        return self._ratio.get(model, 1.0)


Messages = list[Mapping[str, Any]]


class Strategy(Protocol):
    """One way to make messages shorter; called once, if they do not fit."""

    def __call__(self, messages: Messages, over: int, /) -> Messages:
        """Return shorter messages; `over` is how many estimated tokens must go."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """How much a model reads, and how to make room.

    Strategies run in order until the messages fit; if they never do, the call
    fails with ContextOverflowError before anything is sent.
    """

    limit: int
    """Tokens in and out together."""
    reserve_output: int = 1024
    strategies: Sequence[Strategy] = ()
    estimate: Estimate = estimate_tokens

    def fit(self, messages: Messages, *, ratio: float = 1.0) -> Messages:
        """Return messages that fit; `ratio` is real over estimated tokens."""
        room = self.limit - self.reserve_output
        fitted = messages
        strategies = self.strategies or (drop_tool_results(), sliding())
        for strategy in strategies:
            size = int(message_tokens(fitted, self.estimate) * ratio)
            if size <= room:
                return fitted
            fitted = strategy(fitted, math.ceil((size - room) / ratio))
        size = int(message_tokens(fitted, self.estimate) * ratio)
        if size > room:
            raise ContextOverflowError(
                f"about {size} tokens do not fit {room} (window {self.limit} less "
                f"{self.reserve_output} for the answer)"
            )
        return fitted


def drop_tool_results(*, keep_last: int = 2) -> Strategy:
    """Replace the text of old tool results; the calls stay, so pairs stay whole."""

    def shorten(messages: Messages, over: int) -> Messages:  # noqa: ARG001
        tools = [n for n, m in enumerate(messages) if m.get("role") == "tool"]
        old = set(tools[: len(tools) - keep_last] if keep_last else tools)
        return [
            {**m, "content": "[result dropped]"} if n in old else m
            for n, m in enumerate(messages)
        ]

    return shorten


def sliding(*, keep_last: int = 1) -> Strategy:
    """Drop the oldest after the head until it fits; never split a pair.

    The head is system and the first message after it.

    Args:
        keep_last: Messages at the end that always stay.
    """

    def shorten(messages: Messages, over: int) -> Messages:
        head = _head(messages)
        start, freed = head, 0
        last = len(messages) - keep_last
        while start < len(messages) and (freed < over or _is_result(messages[start])):
            if start >= last and not _is_result(messages[start]):
                break
            freed += message_tokens(messages[start : start + 1])
            start += 1
        if start > last:  # a pair at the end stays whole: go back to its call
            start = _start_of_pair(messages, max(head, last), head)
        return [*messages[:head], *messages[start:]]

    return shorten


def summarise(write: Callable[[str], str], *, keep_last: int = 4) -> Strategy:
    """Put one message written by `write` in the place of the middle ones."""

    def shorten(messages: Messages, over: int) -> Messages:  # noqa: ARG001
        head = _head(messages)
        start = _start_of_pair(messages, max(head, len(messages) - keep_last), head)
        middle = messages[head:start]
        if not middle:
            return messages
        text = "\n".join(f"{m['role']}: {m.get('content') or ''}" for m in middle)
        note = {"role": "user", "content": f"Earlier: {write(text)}"}
        return [*messages[:head], note, *messages[start:]]

    return shorten


def _is_result(message: Mapping[str, Any]) -> bool:
    return message.get("role") == "tool"


def _start_of_pair(messages: Messages, start: int, head: int) -> int:
    """Go back from a tool result to the call that it needs before it."""
    while head < start < len(messages) and _is_result(messages[start]):
        start -= 1
    return start


def _head(messages: Messages) -> int:
    """Return how many first messages always stay: system and the first other."""
    n = 0
    while n < len(messages) and messages[n].get("role") == "system":
        n += 1
    n = min(n + 1, len(messages))
    while n < len(messages) and messages[n].get("role") == "tool":
        n += 1  # results of a call that stays, stay
    return n
