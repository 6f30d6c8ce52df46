"""Putting jobs and looking at queues."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from maestro_workflow_engine._arguments import hinted
from maestro_workflow_engine.streams import _scripts
from maestro_workflow_engine.streams._message import Message, new_message, parse_fields
from maestro_workflow_engine.streams._redis import Client, connect, connect_async
from maestro_workflow_engine.streams._topology import Stream, check_queue
from maestro_workflow_engine.streams.errors import QueueFull, StreamsError

BATCH = 500  # jobs in one round trip


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupStatus:
    """One group of one stream, urgent and ordinary jobs together."""

    name: str
    workers: int
    pending: int  # given to a worker and not finished
    lag: int  # never given to a worker
    oldest_idle: float  # seconds since the last sign of life of a pending job


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamStatus:
    """A queue at one moment."""

    name: str
    length: int  # entries, urgent ones included
    delayed: int
    dead: int
    groups: tuple[GroupStatus, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A job that was given up."""

    entry: str  # id in the dead-letter stream; `requeue` takes it
    job: str
    type: str
    payload: str
    reason: str
    trace: str
    deliveries: int


@hinted
class Queue:
    """The producer's side of one stream. Thread-safe; one per process is enough.

    Args:
        url: `redis://host:port/db`.
        stream: from a `Topology`.

    Example: `Queue(url, AUTOMATION["jobs"]).put("resize", {"image": 7})`
    """

    def __init__(self, url: str, stream: Stream) -> None:
        """Connect on first use."""
        check_queue("Queue", url, stream)
        self.stream = stream
        self._url = url
        self._redis = connect(url)
        self._put = self._redis.register_script(_scripts.PUT)
        self._async: Client | None = None

    def put(
        self,
        type: str,
        payload: object = None,
        *,
        key: str | None = None,
        delay: float = 0.0,
        urgent: bool = False,
        reply: str | None = None,
    ) -> str:
        """Put one job and return its id; it is in Redis when this returns.

        Args:
            type: which handler runs it.
            payload: JSON data or a dataclass.
            key: a second job with this key is not put while the first is
                remembered (`dedupe_for`); the first one's id is returned.
            delay: seconds until it may run.
            urgent: before every job that is not.
            reply: a stream that gets the outcome as an entry.

        Raises:
            BadPayload: not JSON, or too large.
            QueueFull: the stream has reached `max_length`.
        """
        message = self._message(type, payload, key, reply)
        keys, arguments = self._arguments(message, delay, urgent=urgent)
        return self._read(self._put(keys=keys, args=arguments))

    def put_many(self, type: str, payloads: Iterable[object]) -> list[str]:
        """Put jobs of one type in few round trips; return their ids.

        Raises:
            BadPayload: before anything is put, when one of them is bad.
            QueueFull: those before the limit are put.
        """
        messages = [self._message(type, payload, None, None) for payload in payloads]
        ids: list[str] = []
        for start in range(0, len(messages), BATCH):
            pipe = self._redis.pipeline(transaction=False)
            for message in messages[start : start + BATCH]:
                keys, arguments = self._arguments(message, 0.0, urgent=False)
                self._put(keys=keys, args=arguments, client=pipe)
            ids += [self._read(answer) for answer in pipe.execute()]
        return ids

    async def aput(
        self,
        type: str,
        payload: object = None,
        *,
        key: str | None = None,
        delay: float = 0.0,
        urgent: bool = False,
        reply: str | None = None,
    ) -> str:
        """Do what `put` does without blocking the event loop."""
        if self._async is None:
            self._async = connect_async(self._url)
        message = self._message(type, payload, key, reply)
        keys, arguments = self._arguments(message, delay, urgent=urgent)
        script = self._async.register_script(_scripts.PUT)
        return self._read(await script(keys=keys, args=arguments))

    def result(self, job: str) -> Any:
        """Return what a handler returned, where the worker keeps results.

        Raises:
            StreamsError: not there: not finished, not kept, or forgotten.
        """
        found = self._redis.get(result_key(self.stream, job))
        if found is None:
            raise StreamsError(
                f"no result of job {job}: it is not finished, or its worker does "
                "not keep results (Worker(..., keep_results=seconds))"
            )
        return json.loads(found)

    def status(self) -> StreamStatus:
        """Return the queue's figures."""
        groups = [self._group_status(group.name) for group in self.stream.groups]
        return StreamStatus(
            name=self.stream.name,
            length=sum(self._redis.xlen(key) for key in self.stream.keys),
            delayed=self._redis.zcard(self.stream.delayed),
            dead=self._redis.xlen(self.stream.dlq),
            groups=tuple(groups),
        )

    def peek(self, count: int = 10) -> list[dict[str, str]]:
        """Return the oldest entries, urgent ones first, without taking them."""
        found: list[dict[str, str]] = []
        for key in self.stream.keys:
            rows = (
                self._redis.xrange(key, count=count - len(found))
                if count > len(found)
                else []
            )
            found += [
                {"entry": entry.decode(), "stream": key}
                | parse_fields([part for pair in fields.items() for part in pair])
                for entry, fields in rows
            ]
        return found

    def dead(self, count: int = 100) -> list[DeadLetter]:
        """Return the newest dead letters."""
        rows = self._redis.xrevrange(self.stream.dlq, count=count)
        return [_dead_letter(entry.decode(), fields) for entry, fields in rows]

    def requeue(self, entry: str) -> bool:
        """Put a dead letter back as a fresh job; False when it is not there."""
        script = self._redis.register_script(_scripts.REQUEUE)
        return bool(script(keys=[self.stream.dlq, self.stream.name], args=[entry]))

    def trim(self) -> int:
        """Remove entries that every group has finished; return how many.

        Nothing that waits or is being worked on is removed.
        """
        return sum(self._trim(key) for key in self.stream.keys)

    def close(self) -> None:
        """Close the connections of the sync side."""
        self._redis.close()

    async def aclose(self) -> None:
        """Close both sides."""
        self.close()
        if self._async is not None:
            await self._async.aclose()
            self._async = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _message(
        self, type_: str, payload: object, key: str | None, reply: str | None
    ) -> Message:
        return new_message(
            type_, payload, key=key, reply=reply, limit=self.stream.max_payload
        )

    def _arguments(
        self, message: Message, delay: float, *, urgent: bool
    ) -> tuple[list[str], list[Any]]:
        if not 0 <= delay < 10 * 365 * 86_400:
            raise StreamsError(f"delay must be 0 to ten years of seconds, is {delay!r}")
        dedupe = f"{self.stream.name}:dedupe:{message.key}" if message.key else ""
        keys = [self.stream.high if urgent else self.stream.name, dedupe]
        return keys, [
            int(self.stream.dedupe_for * 1000),
            self.stream.max_length or 0,
            self.stream.delayed if delay else "",
            int(delay * 1000),
            *message.fields(),
        ]

    def _read(self, answer: Any) -> str:
        code, value = answer
        text = value.decode() if isinstance(value, bytes) else str(value)
        if code == -1:
            limit = self.stream.max_length or 0
            raise QueueFull(self.stream.name, int(text), limit)
        return text

    def _group_status(self, name: str) -> GroupStatus:
        workers: set[bytes] = set()
        pending = lag = 0
        oldest = 0.0
        for key in self.stream.keys:
            if not self._redis.exists(key):
                continue
            for row in self._redis.xinfo_groups(key):
                if row["name"] == name.encode():
                    pending += row["pending"]
                    lag += self._lag(key, row)
                    workers |= {
                        c["name"] for c in self._redis.xinfo_consumers(key, name)
                    }
                    rows = self._redis.xpending_range(key, name, "-", "+", 1000)
                    idles = [r["time_since_delivered"] / 1000 for r in rows]
                    oldest = max([oldest, *idles])
        return GroupStatus(
            name=name,
            workers=len(workers),
            pending=pending,
            lag=lag,
            oldest_idle=oldest,
        )

    def _lag(self, key: str, row: dict[str, Any]) -> int:
        """Count what no worker of a group has been given."""
        if self.stream.deletes:  # what is finished is gone, so the rest waits
            return int(self._redis.xlen(key) - row["pending"])
        if row["lag"] is not None:
            return int(row["lag"])
        last = "(" + row["last-delivered-id"].decode()
        return len(self._redis.xrange(key, last))  # Redis lost count: deletions

    def _trim(self, key: str) -> int:
        if not self._redis.exists(key):
            return 0
        needed = []
        for row in self._redis.xinfo_groups(key):
            pending = self._redis.xpending(key, row["name"])
            if pending["pending"]:
                needed.append(_after(pending["min"], 0))
            else:
                needed.append(_after(row["last-delivered-id"], 1))
        if not needed:
            return 0
        first = min(needed)
        return int(
            self._redis.xtrim(key, minid=f"{first[0]}-{first[1]}", approximate=False)
        )


def result_key(stream: Stream, job: str) -> str:
    """Return where the result of a job is kept."""
    return f"{stream.name}:result:{job}"


def _after(entry: bytes, step: int) -> tuple[int, int]:
    milliseconds, _, number = entry.decode().partition("-")
    return int(milliseconds), int(number) + step


def _dead_letter(entry: str, raw: dict[bytes, bytes]) -> DeadLetter:
    fields = parse_fields([part for pair in raw.items() for part in pair])
    return DeadLetter(
        entry=entry,
        job=fields.get("id", ""),
        type=fields.get("type", ""),
        payload=fields.get("payload", ""),
        reason=fields.get("reason", ""),
        trace=fields.get("trace", ""),
        deliveries=int(fields.get("deliveries", 0)),
    )
