"""Keep a conversation inside the model's window, with a record of what went."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ._tokens import Estimate, estimate_tokens, message_tokens
from .errors import ContextOverflowError

Messages = list[Mapping[str, Any]]


class Strategy(Protocol):
    """One way to make messages shorter; called until they fit."""

    def __call__(self, messages: Messages, over: int, /) -> Messages:
        """Return shorter messages; `over` is how many tokens are too many."""


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
            fitted = strategy(fitted, size - room)
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


def sliding(*, keep_last: int = 6) -> Strategy:
    """Keep system, the first user message and the last ones; never split a pair."""

    def shorten(messages: Messages, over: int) -> Messages:  # noqa: ARG001
        head = _head(messages)
        start = max(head, len(messages) - keep_last)
        while head < start < len(messages) and messages[start].get("role") == "tool":
            start -= 1  # a tool result needs the call before it
        return [*messages[:head], *messages[start:]]

    return shorten


def summarise(write: Callable[[str], str], *, keep_last: int = 4) -> Strategy:
    """Put one message written by `write` in the place of the middle ones."""

    def shorten(messages: Messages, over: int) -> Messages:  # noqa: ARG001
        head = _head(messages)
        start = max(head, len(messages) - keep_last)
        while head < start < len(messages) and messages[start].get("role") == "tool":
            start -= 1
        middle = messages[head:start]
        if not middle:
            return messages
        text = "\n".join(f"{m['role']}: {m.get('content') or ''}" for m in middle)
        note = {"role": "user", "content": f"Earlier: {write(text)}"}
        return [*messages[:head], note, *messages[start:]]

    return shorten


def _head(messages: Messages) -> int:
    """Return how many first messages always stay: system and the first other."""
    n = 0
    while n < len(messages) and messages[n].get("role") == "system":
        n += 1
    return min(n + 1, len(messages))
