"""Running jobs: a worker that loses none.

Three things run beside each other. The reader takes new jobs while there are
free places. The reclaimer takes over jobs whose worker fell silent, and moves
delayed jobs that are due, also when nothing new arrives. The heartbeat runs on
a thread of its own, so that a handler that blocks the event loop keeps its job.

A finished job is acknowledged by a script that first checks that the job is
still this worker's: whoever was stopped for too long cannot finish it twice.
"""

import asyncio
import inspect
import json
import logging
import os
import random
import signal
import socket
import threading
import time
import traceback
import uuid
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from maestro_workflow_engine._arguments import callback, hinted, whole
from maestro_workflow_engine.streams import _scripts
from maestro_workflow_engine.streams._message import (
    Message,
    decode,
    encode,
    pairs,
    parse,
    parse_fields,
)
from maestro_workflow_engine.streams._queue import result_key
from maestro_workflow_engine.streams._redis import (
    BLOCK_MS,
    Client,
    connect,
    connect_async,
    connection_errors,
    response_error,
)
from maestro_workflow_engine.streams._topology import Stream, check_queue, create_group
from maestro_workflow_engine.streams.errors import BadPayload, Reject, StreamsError

log = logging.getLogger(__name__)
Handler = Callable[..., Any]
H = TypeVar("H", bound=Handler)
TRACE_LIMIT = 8_000  # characters of a traceback kept with a dead letter
FORGET_AFTER = 3_600.0  # seconds after which a silent worker's name is removed
LONG_AGO = 10**9  # ms; an entry handed back looks this old
LONGEST_REST = 365 * 86_400.0  # seconds that `backoff` can ask for
RECONNECT = (0.05, 2.0)  # seconds: first and longest wait for Redis


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a handler is given beside the payload.

    `fence` rises with each delivery of an entry: pass it on to a store that
    refuses older ones, or use `id` as a unique key, to have an effect once.
    """

    id: str
    type: str
    key: str  # dedupe key, or ""
    entry: str  # stream id
    stream: str
    deliveries: int  # of this entry, the present one included
    tries: int  # failed tries before
    put_at: float  # seconds since 1970, server's clock

    @property
    def fence(self) -> tuple[str, int]:
        """The stream id and the delivery count."""
        return (self.entry, self.deliveries)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamEvent:
    """Something happened to a job or to the worker.

    Kinds: started, done, retried, dead, lost (somebody else has the job, or its
    entry was trimmed), reclaimed, reconnected, stopped.
    """

    kind: str
    stream: str
    job: str = ""
    type: str = ""
    detail: str = ""
    seconds: float = 0.0


@dataclass(slots=True)
class WorkerStats:
    """Counters since the start."""

    started: int = 0
    done: int = 0
    retried: int = 0
    dead: int = 0
    lost: int = 0
    reclaimed: int = 0
    reconnected: int = 0


@dataclass(slots=True)
class _Flight:
    """A job on its way."""

    key: str
    entry: str
    deliveries: int
    message: Message | None  # None: the entry could not be read
    fields: dict[str, str]
    task: "asyncio.Task[None] | None" = None
    started: bool = False
    taken_at: float = field(default_factory=time.monotonic)


@hinted
class Worker:
    """Runs the jobs of one stream for one group.

    Args:
        url: `redis://host:port/db`.
        stream: from a `Topology`.
        group: one of the stream's groups; the only one by default.
        concurrency: jobs at a time.
        backoff: seconds before a failed job runs again, given its failed tries;
            exponential with full jitter by default, at most a minute.
        keep_results: seconds that return values are kept; None keeps none.
        grace: seconds that running jobs have after a stop.
        on_event: called with each `StreamEvent`; an error in it is logged.
        name: of this worker; host, process and a random part by default.

    Handlers run on the event loop when they are `async def`, else on threads.
    """

    def __init__(
        self,
        url: str,
        stream: Stream,
        *,
        group: str | None = None,
        concurrency: int = 32,
        backoff: Callable[[int], float] | None = None,
        keep_results: float | None = None,
        grace: float = 10.0,
        on_event: Callable[[StreamEvent], None] | None = None,
        name: str | None = None,
    ) -> None:
        """Check the arguments; nothing is connected before `run`."""
        check_queue("Worker", url, stream)
        whole("Worker", "concurrency", concurrency)
        callback("Worker", "backoff", backoff)
        callback("Worker", "on_event", on_event)
        self.stream = stream
        self.group = _choose_group(stream, group)
        self.name = (
            name or f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        )
        self.stats = WorkerStats()
        self._url = url
        self._concurrency = concurrency
        self._backoff = backoff or full_jitter
        self._keep_results = keep_results
        self._grace = grace
        self._on_event = on_event
        self._handlers: dict[str, tuple[Handler, type | None]] = {}
        self._flights: dict[str, _Flight] = {}  # by entry id; read by the heartbeat
        self._finished: dict[str, list[dict[str, Any]]] = {}
        self._stop: asyncio.Event | None = None
        self._changed: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop_early = False
        self._reclaiming = False  # whether an answer about taken jobs is on its way
        self._ending = False  # what ends from now on is acknowledged by `_finish`

    def handler(self, type: str, payload: type | None = None) -> Callable[[H], H]:
        """Register the function for a job type.

        It is called as `function(job, payload)`. With a dataclass as `payload`,
        the JSON is checked against its fields; what does not fit is a dead letter.
        """

        def register(function: H) -> H:
            if type in self._handlers:
                raise StreamsError(f"job type {type!r} has a handler already")
            self._handlers[type] = (function, payload)
            return function

        return register

    def run(self, *, until_empty: bool = False) -> WorkerStats:
        """Work until SIGTERM, SIGINT or `stop`; return the counters.

        Args:
            until_empty: return once no job waits, is delayed or is running.
        """
        return asyncio.run(self.arun(until_empty=until_empty, signals=True))

    async def arun(
        self, *, until_empty: bool = False, signals: bool = False
    ) -> WorkerStats:
        """Do what `run` does in the running event loop."""
        self._loop, self._ending = asyncio.get_running_loop(), False
        self._stop, self._changed = asyncio.Event(), asyncio.Event()
        if self._stop_early:
            self._stop.set()
        undo = self._listen_to_signals() if signals else lambda: None
        redis, reader = connect_async(self._url), connect_async(self._url)
        pulse = _Pulse(self)
        pool = ThreadPoolExecutor(self._concurrency, thread_name_prefix="maestro-job")
        tasks = [
            asyncio.create_task(self._patiently(self._read_new, reader, pool)),
            asyncio.create_task(self._patiently(self._reclaim, redis, pool)),
            asyncio.create_task(self._acknowledge_all(redis)),
        ]
        if until_empty:
            tasks.append(
                asyncio.create_task(self._patiently(self._watch_empty, redis, pool))
            )
        stopping = asyncio.create_task(self._stop.wait())
        try:
            pulse.start()
            await asyncio.wait([*tasks, stopping], return_when=asyncio.FIRST_COMPLETED)
            self._stop.set()
            await self._finish(redis, tasks)
        finally:
            pulse.stop()
            for task in [*tasks, stopping]:
                task.cancel()
            await asyncio.gather(*tasks, stopping, return_exceptions=True)
            # A thread cannot be ended; its job was handed back above.
            pool.shutdown(wait=False, cancel_futures=True)
            await redis.aclose()
            await reader.aclose()
            undo()
        self._emit("stopped")
        return self.stats

    def stop(self) -> None:
        """Ask the worker to stop; safe from any thread and from signal handlers."""
        self._stop_early = True
        if self._loop is not None and self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)

    # Taking jobs

    async def _patiently(
        self,
        step: Callable[[Client, ThreadPoolExecutor], Awaitable[None]],
        redis: Client,
        pool: ThreadPoolExecutor,
    ) -> None:
        """Repeat a step until the stop, over lost connections and lost groups."""
        assert self._stop is not None
        wait = 0.0
        while not self._stop.is_set():
            try:
                await step(redis, pool)
            except connection_errors() as error:
                wait = min(max(wait * 2, RECONNECT[0]), RECONNECT[1])
                if wait == RECONNECT[0]:
                    log.warning("redis is away: %s", error)
                await asyncio.sleep(wait * random.uniform(0.5, 1.0))
            except response_error() as error:
                # The stream was deleted: while nobody read it, or under our read.
                if not str(error).startswith(("NOGROUP", "UNBLOCKED")):
                    raise
                await self._create_groups(redis)
            else:
                if wait:
                    self.stats.reconnected += 1
                    self._emit("reconnected")
                wait = 0.0

    async def _create_groups(self, redis: Client) -> None:
        for key in self.stream.keys:
            try:
                await redis.execute_command(*create_group(key, self.group))
            except response_error() as error:
                if "BUSYGROUP" not in str(error):
                    raise

    async def _read_new(self, redis: Client, pool: ThreadPoolExecutor) -> None:
        free = await self._free_places()
        if not free:
            return
        script = redis.register_script(_scripts.TAKE)
        keys = list(self.stream.keys)
        answer = await script(keys=keys, args=[self.group, self.name, free])
        taken = json.loads(answer.decode("utf-8", "replace"))
        for key, entry, flat in taken:
            self._take(key, entry, 1, pairs(flat), pool)
        if not taken:
            await self._wait_for_new(redis, pool)

    async def _wait_for_new(self, redis: Client, pool: ThreadPoolExecutor) -> None:
        """Block until a job arrives; take that one."""
        streams = dict.fromkeys(self.stream.keys, ">")
        got = await redis.xreadgroup(
            self.group, self.name, streams, count=1, block=BLOCK_MS
        )
        for key, entries in _streams(got):
            for entry, fields in entries:
                flat = [part for pair in fields.items() for part in pair]
                self._take(key.decode(), entry.decode(), 1, parse_fields(flat), pool)

    async def _free_places(self) -> int:
        assert self._changed is not None
        free = self._concurrency - len(self._flights)
        if free <= 0:
            self._changed.clear()
            try:
                async with asyncio.timeout(BLOCK_MS / 1000):
                    await self._changed.wait()
            except TimeoutError:
                return 0
            free = self._concurrency - len(self._flights)
        return max(free, 0)

    async def _reclaim(self, redis: Client, pool: ThreadPoolExecutor) -> None:
        """Take over silent workers' jobs and move what is due; then rest a while."""
        await self._move_due(redis)
        for key in self.stream.keys:
            start = b"0-0"
            while free := self._concurrency - len(self._flights):
                if free < 0:
                    break
                script = redis.register_script(_scripts.RECLAIM)
                idle = int(self.stream.idle * 1000)
                self._reclaiming = True
                try:
                    start, rows, deleted = await script(
                        keys=[key], args=[self.group, self.name, idle, start, free]
                    )
                finally:
                    self._reclaiming = False
                for gone in deleted:
                    self._lost(key, gone.decode(), "its entry was trimmed or deleted")
                for entry, deliveries, fields in rows:
                    self.stats.reclaimed += 1
                    self._emit("reclaimed", detail=entry.decode())
                    self._take(
                        key, entry.decode(), deliveries, parse_fields(fields), pool
                    )
                if start == b"0-0":
                    break
            forget = redis.register_script(_scripts.FORGET_GONE)
            await forget(keys=[key], args=[self.group, int(FORGET_AFTER * 1000)])
        deadline = time.monotonic() + self.stream.idle / 3
        while time.monotonic() < deadline and not self._stopping():
            await asyncio.sleep(min(0.1, self.stream.idle / 3))
            await self._move_due(redis)

    async def _move_due(self, redis: Client) -> None:
        script = redis.register_script(_scripts.MOVE_DUE)
        while await script(keys=[self.stream.delayed], args=[100]) == 100:
            pass

    async def _watch_empty(self, redis: Client, _pool: ThreadPoolExecutor) -> None:
        assert self._stop is not None
        await asyncio.sleep(0.02)
        if self._flights or any(self._finished.values()):
            return
        script = redis.register_script(_scripts.EMPTY)
        keys = [self.stream.delayed, *self.stream.keys]
        if not await script(keys=keys, args=[self.group]) or self._reclaiming:
            return  # a reclaim on its way may have lost jobs to tell of
        self._stop.set()

    def _take(
        self,
        key: str,
        entry: str,
        deliveries: int,
        fields: dict[str, str],
        pool: ThreadPoolExecutor,
    ) -> None:
        running = self._flights.get(entry)
        if running:  # reclaimed from ourselves after a long stop; it still runs
            running.deliveries = deliveries
            return
        flight = _Flight(key, entry, deliveries, None, fields)
        self._flights[entry] = flight
        flight.task = asyncio.create_task(self._work(flight, pool))

    # Running jobs

    async def _work(self, flight: _Flight, pool: ThreadPoolExecutor) -> None:
        try:
            await self._run_handler(flight, pool)
        except asyncio.CancelledError:
            pass  # the stop hands it back
        finally:
            if self._changed is not None:
                self._changed.set()

    async def _run_handler(self, flight: _Flight, pool: ThreadPoolExecutor) -> None:
        begun = time.perf_counter()
        flight.started = True
        self.stats.started += 1
        try:
            message = parse(flight.fields, self.stream.max_payload)
            flight.message = message
            self._check_deliveries(flight, message)
            value = await self._call(flight, message, pool)
            outcome = self._done(flight, message, value)
        except (BadPayload, Reject, _Poison) as error:
            outcome = self._dead(flight, str(error), error)
        except Exception as error:  # a handler's own; recorded with the job
            outcome = self._failed(flight, error)
        if flight.entry in self._flights:
            self._finished.setdefault(flight.key, []).append(outcome)
            kind = next((k for k in ("dead", "retry") if k in outcome), "done")
            kind = {"retry": "retried"}.get(kind, kind)
            setattr(self.stats, kind, getattr(self.stats, kind) + 1)
            if self._on_event:
                seconds = time.perf_counter() - begun
                self._emit(kind, flight, seconds=seconds)

    def _check_deliveries(self, flight: _Flight, message: Message) -> None:
        # A delivery without an answer is a worker that died: it counts as a try.
        total = message.tries + flight.deliveries
        if total > self.stream.max_deliveries:
            raise _Poison(
                f"delivered {total} times, max_deliveries is "
                f"{self.stream.max_deliveries}: its workers died or it failed"
            )

    async def _call(
        self, flight: _Flight, message: Message, pool: ThreadPoolExecutor
    ) -> Any:
        found = self._handlers.get(message.type)
        if found is None:
            known = ", ".join(sorted(self._handlers)) or "none"
            raise Reject(f"no handler for type {message.type!r}; there are: {known}")
        function, wanted = found
        payload = decode(message.payload, wanted)
        job = Job(
            id=message.id,
            type=message.type,
            key=message.key,
            entry=flight.entry,
            stream=self.stream.name,
            deliveries=flight.deliveries,
            tries=message.tries,
            put_at=message.put / 1000,
        )
        if self._on_event:
            self._emit("started", flight)
        if inspect.iscoroutinefunction(function):
            return await function(job, payload)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(pool, function, job, payload)

    def _done(self, flight: _Flight, message: Message, value: Any) -> dict[str, Any]:
        outcome: dict[str, Any] = {"id": flight.entry, "n": flight.deliveries}
        if self._keep_results is not None:
            outcome["result"] = {
                "key": result_key(self.stream, message.id),
                "ms": int(self._keep_results * 1000),
                "value": encode(value, self.stream.max_payload),
            }
        if message.reply:
            encoded = encode(value, self.stream.max_payload)
            outcome["reply"] = _reply(message, "result", encoded)
        return outcome

    def _failed(self, flight: _Flight, error: Exception) -> dict[str, Any]:
        message = flight.message
        assert message is not None
        tries = message.tries + flight.deliveries
        if tries >= self.stream.max_deliveries:
            return self._dead(flight, f"{type(error).__name__}: {error}", error)
        fields = asdict(message) | {"tries": tries}
        member = [flight.key, *Message(**fields).fields()]
        wait = self._rest(tries)
        retry = {
            "key": self.stream.delayed,
            "ms": int(wait * 1000),
            "member": json.dumps(member, ensure_ascii=False),
        }
        return {"id": flight.entry, "n": flight.deliveries, "retry": retry}

    def _rest(self, tries: int) -> float:
        """Ask `backoff`; an error in it must not keep the job from its retry."""
        try:
            return max(0.0, min(float(self._backoff(tries)), LONGEST_REST))
        except Exception:
            log.exception("backoff(%s) failed; the default is taken", tries)
            return full_jitter(tries)

    def _dead(self, flight: _Flight, reason: str, error: Exception) -> dict[str, Any]:
        trace = "".join(traceback.format_exception(error))[-TRACE_LIMIT:]
        letter = flight.fields | {
            "reason": reason,
            "trace": trace,
            "deliveries": str(flight.deliveries),
            "origin": flight.key,
            "entry": flight.entry,
        }
        flat = [part for pair in letter.items() for part in pair]
        dead = {"key": self.stream.dlq, "keep": self.stream.keep_dead, "fields": flat}
        outcome = {"id": flight.entry, "n": flight.deliveries, "dead": dead}
        if flight.message is not None and flight.message.reply:
            outcome["reply"] = _reply(flight.message, "error", reason)
        return outcome

    # Acknowledging

    async def _acknowledge_all(self, redis: Client) -> None:
        """Send outcomes in batches, over lost connections; nothing is dropped."""
        assert self._changed is not None
        while not self._ending:
            if not any(self._finished.values()):
                await self._changed.wait()
                self._changed.clear()
                continue
            try:
                await self._acknowledge(redis)
            except connection_errors():
                await asyncio.sleep(RECONNECT[0])
            except response_error() as error:
                log.warning("redis refused to acknowledge: %s", error)
                await asyncio.sleep(RECONNECT[0])

    async def _acknowledge(self, redis: Client) -> None:
        for key in list(self._finished):
            outcomes = self._finished[key][:500]
            if not outcomes:
                continue
            script = redis.register_script(_scripts.FINISH)
            deletes = "1" if self.stream.deletes else "0"
            encoded = json.dumps(outcomes)
            lost = await script(
                keys=[key], args=[self.group, self.name, deletes, encoded]
            )
            # Only now: an outcome that was not sent is sent again.
            del self._finished[key][: len(outcomes)]
            gone = {entry.decode() for entry in lost}
            for outcome in outcomes:
                if outcome["id"] in gone:
                    self._lost(key, outcome["id"], "somebody else has it by now")
                self._flights.pop(outcome["id"], None)
            if self._changed is not None:
                self._changed.set()

    def _lost(self, key: str, entry: str, why: str) -> None:
        self.stats.lost += 1
        log.warning("lost job %s of %s: %s", entry, key, why)
        self._emit("lost", detail=f"{entry}: {why}")

    # Stopping

    async def _finish(self, redis: Client, tasks: list["asyncio.Task[None]"]) -> None:
        """Let running jobs end within the grace, hand back the rest."""
        for task in tasks:
            if task.done() and not task.cancelled() and task.exception():
                log.error("the worker failed", exc_info=task.exception())
        running = [f.task for f in self._flights.values() if f.task]
        if running:
            await asyncio.wait(running, timeout=self._grace)
        for task in running:
            task.cancel()
        # Both: up to Python 3.11 asyncio.wait_for, with which redis-py sends, drops a
        # cancellation that comes together with its result.
        self._ending = True
        tasks[2].cancel()
        await asyncio.gather(tasks[2], *running, return_exceptions=True)
        try:
            while any(self._finished.values()):
                await self._acknowledge(redis)
            await self._hand_back(redis)
        except connection_errors() as error:
            log.warning("redis is away at the end; jobs wait for a reclaim: %s", error)
        for task in tasks:
            if task.done() and not task.cancelled() and task.exception():
                raise task.exception() or RuntimeError

    async def _hand_back(self, redis: Client) -> None:
        for key in self.stream.keys:
            entries = [f.entry for f in self._flights.values() if f.key == key]
            if entries:
                script = redis.register_script(_scripts.HAND_BACK)
                await script(
                    keys=[key], args=[self.group, self.name, LONG_AGO, *entries]
                )
        self._flights.clear()

    def _stopping(self) -> bool:
        return self._stop is not None and self._stop.is_set()

    def _listen_to_signals(self) -> Callable[[], None]:
        loop = asyncio.get_running_loop()
        kinds = (signal.SIGTERM, signal.SIGINT)
        if threading.current_thread() is not threading.main_thread():
            return lambda: None
        for kind in kinds:
            loop.add_signal_handler(kind, self.stop)

        def undo() -> None:
            for kind in kinds:
                loop.remove_signal_handler(kind)

        return undo

    def _emit(
        self,
        kind: str,
        flight: _Flight | None = None,
        *,
        detail: str = "",
        seconds: float = 0.0,
    ) -> None:
        if self._on_event is None:
            return
        message = flight.message if flight else None
        event = StreamEvent(
            kind=kind,
            stream=self.stream.name,
            job=message.id if message else "",
            type=message.type if message else "",
            detail=detail,
            seconds=seconds,
        )
        try:
            self._on_event(event)
        except Exception:  # a listener must not stop the work
            log.exception("a listener of stream events failed")


class _Pulse:
    """The heartbeat: on its own thread, with its own connection."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._end = threading.Event()
        self._thread = threading.Thread(
            target=self._beat, name="maestro-heartbeat", daemon=True
        )

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._end.set()
        self._thread.join()

    def _beat(self) -> None:
        worker = self._worker
        redis = connect(worker._url)
        script = redis.register_script(_scripts.BEAT)
        try:
            while not self._end.wait(worker.stream.idle / 3):
                for key in worker.stream.keys:
                    # A copy: the event loop changes the dict meanwhile.
                    flights = list(worker._flights.values())
                    entries = [f.entry for f in flights if f.key == key]
                    if not entries:
                        continue
                    try:
                        script(keys=[key], args=[worker.group, worker.name, *entries])
                    except (*connection_errors(), response_error()) as error:
                        log.warning("no heartbeat: %s", error)
        finally:
            redis.close()


class _Poison(StreamsError):
    """A job that was delivered too often."""


def full_jitter(tries: int) -> float:
    """Return a wait in seconds: 0 to 0.5 * 2 ** tries, at most a minute.

    Source: Brooker, "Exponential Backoff and Jitter", 2015 ("full jitter").
    """
    return random.uniform(0.0, min(60.0, 0.5 * 2.0 ** min(tries, 20)))


def _choose_group(stream: Stream, group: str | None) -> str:
    names = [g.name for g in stream.groups]
    if group is None and len(names) == 1:
        return names[0]
    if group not in names:
        raise StreamsError(
            f"group {group!r} is not of stream {stream.name!r}; name one of: "
            + ", ".join(names)
        )
    return group


def _reply(message: Message, what: str, value: str) -> dict[str, Any]:
    fields = ["v", "1", "id", message.id, "type", message.type, what, value]
    return {"key": message.reply, "fields": fields}


def _streams(got: Any) -> list[Any]:
    """Return (key, entries) pairs of XREADGROUP's answer, RESP2 or RESP3."""
    if not got:
        return []
    if isinstance(got, dict):
        return [(key, rows[0] if rows else []) for key, rows in got.items()]
    return list(got)
