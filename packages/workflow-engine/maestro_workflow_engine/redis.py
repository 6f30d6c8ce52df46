"""Attempts on Redis Streams: workers on any machine, for the extra `redis`.

Our engine keeps graph, journal, retries and results; the stream only carries
attempts. The data on the wire is JSON, and a worker runs only functions of modules
that it was told to allow.
"""

from __future__ import annotations

import asyncio
import builtins
import importlib
import inspect
import json
import threading
import uuid
from collections.abc import Callable, Iterable, Sequence
from time import time
from typing import Any, final

from ._arguments import hinted, texts, whole
from ._cause import RemoteTraceback, said, traceback_of
from ._executors._processes import find
from ._model import Attempt, Outcome, StepContext
from .errors import OptionError, StepCancelledError
from .streams import Group, Job, Queue, Stream, Worker
from .streams._redis import check_url, connect, connection_errors

JOB = "step"


class RemoteStepError(Exception):
    """A step raised something on a worker that is no built-in exception here."""


def stream_of(name: str = "maestro:streams:steps", *, lease: float = 5.0) -> Stream:
    """Return the stream that engine and workers must agree on.

    Args:
        name: the Redis key.
        lease: seconds without a heartbeat after which a worker's attempts are given
            to another; a live worker beats three times as often.
    """
    return Stream(
        name=name, groups=(Group(name="workers"),), idle=lease, max_deliveries=3
    )


@final
@hinted
class RedisExecutor:
    """Puts attempts into a stream and waits for the replies.

    Args:
        url: such as `redis://127.0.0.1:6379/0`.
        slots: attempts in flight: about as many as your workers run at a time.
        stream: from `stream_of`, the workers' own.
    """

    def __init__(self, url: str, *, slots: int, stream: Stream | None = None) -> None:
        check_url("RedisExecutor", url)
        self.slots = whole("RedisExecutor", "slots", slots)
        self._queue = Queue(url, stream or stream_of())
        self._redis = connect(url)
        self._reply = f"{self._queue.stream.name}:reply:{uuid.uuid4().hex}"
        self._lock = threading.Lock()  # guards _waiting
        self._waiting: dict[str, tuple[Attempt, Callable[[Outcome], None]]] = {}
        self._closing = False
        self._thread = threading.Thread(
            target=self._listen, name="maestro-redis", daemon=True
        )
        self._thread.start()

    def start(
        self, attempts: Sequence[Attempt], done: Callable[[Outcome], None]
    ) -> None:
        """Put each attempt into the stream."""
        for attempt in attempts:
            payload = {
                "fn": attempt.spec.ref,
                "args": list(attempt.args),
                "kwargs": {k: v for k, v in attempt.kwargs.items() if k != "ctx"},
                "chunked": attempt.chunked,
                "once": attempt.spec.once,
                "ctx": [attempt.run_id, attempt.step, attempt.number],
            }
            try:
                if attempt.spec.ref is None:
                    raise TypeError("its function must be at the top of a module")
                # The reply may be quicker than this call: hold the lock over it.
                with self._lock:
                    job = self._queue.put(JOB, payload, reply=self._reply)
                    self._waiting[job] = (attempt, done)
            except Exception as error:
                told = RuntimeError(f"step {attempt.step!r} cannot be sent: {error}")
                told.__cause__ = error
                done(Outcome(attempt, None, told, time(), time(), "redis"))

    def _listen(self) -> None:
        last = b"0"
        while not self._closing:
            try:
                got = self._redis.xread({self._reply: last}, count=500, block=500)
            except connection_errors():
                if not self._closing:
                    threading.Event().wait(0.2)
                continue
            streams = got.items() if isinstance(got, dict) else got
            for _, entries in streams:
                rows = entries[0] if isinstance(got, dict) else entries
                for entry, fields in rows:
                    last = entry
                    self._heard(fields)
                self._redis.xtrim(self._reply, minid=last)

    def _heard(self, fields: dict[bytes, bytes]) -> None:
        with self._lock:
            found = self._waiting.pop(fields[b"id"].decode(), None)
        if found is None:
            return
        attempt, done = found
        now = time()
        if b"error" in fields:  # delivered too often: its workers died
            error = RuntimeError(fields[b"error"].decode())
            done(Outcome(attempt, None, error, now, now, "redis", lost=True))
            return
        answer = json.loads(fields[b"result"])
        done(
            Outcome(
                attempt,
                answer.get("value"),
                _error(answer["error"]) if "error" in answer else None,
                answer["started"],
                answer["ended"],
                answer["worker"],
                lost=answer.get("lost", False),
            )
        )

    def cancel(self, attempt: Attempt) -> None:
        """Stop waiting for the attempt; a worker that has it goes on unheard."""
        with self._lock:
            job = next((j for j, w in self._waiting.items() if w[0] is attempt), None)
            found = self._waiting.pop(job) if job is not None else None
        if found is not None:
            error = StepCancelledError(attempt.step, attempt.number, "stopped")
            found[1](Outcome(attempt, None, error, time(), time(), "redis"))

    def close(self) -> None:
        """Stop listening and remove the reply stream."""
        if self._closing:
            return
        self._closing = True
        self._thread.join()
        try:
            self._redis.delete(self._reply)
        except connection_errors():
            pass  # it is only our own, and nobody else writes to it for long
        self._redis.close()
        self._queue.close()


def _error(told: list[str]) -> Exception:
    name, text, *where = told
    error = _named(name, text)
    if where and where[0]:
        error.__cause__ = RemoteTraceback(where[0])
    return error


def _named(name: str, text: str) -> Exception:
    kind = getattr(builtins, name, None)
    if isinstance(kind, type) and issubclass(kind, Exception):
        try:
            return kind(text)
        except TypeError:
            pass
    return RemoteStepError(f"{name}: {text}")


def worker(
    url: str,
    allow: Iterable[str],
    *,
    stream: Stream | None = None,
    concurrency: int = 1,
) -> Worker:
    """Return a worker for steps; call its `run`.

    Args:
        url: the engine's Redis.
        allow: the modules whose functions may be called; nothing else is.
        stream: the engine's own.
        concurrency: attempts at a time.
    """
    allowed = frozenset(texts("worker()", "allow", allow))
    whole("worker()", "concurrency", concurrency)
    for module in allowed:
        try:
            importlib.import_module(module)
        except ImportError as error:
            path = module.removesuffix(".py") if module.endswith(".py") else ""
            hint = f"; did you mean {path!r}?" if path else ""
            raise OptionError(
                "allow", f"module {module!r} cannot be imported: {error}{hint}", module
            ) from error
    made = Worker(url, stream or stream_of(), concurrency=concurrency)

    @made.handler(JOB)
    def run(job: Job, payload: dict[str, Any]) -> dict[str, Any]:
        return _run(job, payload, allowed, made.name)

    return made


def _run(
    job: Job, payload: dict[str, Any], allowed: frozenset[str], name: str
) -> dict[str, Any]:
    """Run one attempt; what it raises is part of the answer, not a failed job."""
    started = time()
    answer: dict[str, Any] = {"started": started, "worker": name}
    try:
        if payload["once"] and job.deliveries > 1:
            answer["lost"] = True
            raise RuntimeError("a worker died while it ran this step")
        module = payload["fn"].partition(":")[0]
        if module not in allowed:
            raise PermissionError(f"this worker does not allow module {module!r}")
        value = _call(find(payload["fn"]), payload)
        json.dumps(value)
        answer["value"] = value
    except Exception as error:
        name, _, text = said(error).partition(": ")
        answer["error"] = [name, text, traceback_of(error)]
    return answer | {"ended": time()}


def _call(target: Callable[..., Any], payload: dict[str, Any]) -> Any:
    kwargs = dict(payload["kwargs"])
    if "ctx" in inspect.signature(target).parameters:
        run_id, step, number = payload["ctx"]
        kwargs["ctx"] = StepContext(
            run_id=run_id, step=step, attempt=number, idempotency_key=f"{run_id}/{step}"
        )

    def one(*args: Any) -> Any:
        value = target(*args, **kwargs)
        return asyncio.run(value) if inspect.iscoroutine(value) else value

    if payload["chunked"]:
        return [one(item) for item in payload["args"][0]]
    return one(*payload["args"])
