"""A client for OpenAI-compatible endpoints, standard library only.

Calls run on threads with kept-alive connections. Cancelling closes the socket,
so a server that streams sees it at once.
"""

import asyncio
import http.client
import json
import os
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from typing import Any, Final, final
from urllib.parse import urlsplit

from ._messages import Reply, Request, ToolCall, Usage
from .errors import (
    ContextOverflowError,
    ModelError,
    RateLimitedError,
    SettingsError,
)

_MAX_ANSWER: Final = 50_000_000
_LONGEST_WAIT: Final = 86_400
_STALE: Final = (BrokenPipeError, ConnectionResetError, http.client.RemoteDisconnected)
_OVERFLOW: Final = (
    "context_length",
    "context size",
    "exceed_context",
    "too many tokens",
)


@final
class OpenAICompatible:
    """One model at one endpoint. Task-safe; close it, or use it as a context."""

    def __init__(
        self,
        base_url: str,
        *,
        model: str,
        key_env: str | None = None,
        timeout: float = 300.0,
        threads: int = 64,
        headers: Mapping[str, str] | None = None,
        on_delta: Callable[[str], None] | None = None,
    ) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise SettingsError(f"{base_url!r} is not an http(s) URL", key="base_url")
        self.name = model
        self._url = parts
        self._path = parts.path.rstrip("/")
        self._key_env = key_env
        self._timeout = timeout
        self._headers = dict(headers or {})
        self._on_delta = on_delta
        self._idle: deque[http.client.HTTPConnection] = deque()
        self._active: set[_Call] = set()
        self._lock = threading.Lock()  # guards _idle, _active and _closed
        self._closed = False
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="maestro-model")

    def __repr__(self) -> str:
        return f"OpenAICompatible({self._url.netloc!r}, model={self.name!r})"

    async def complete(self, request: Request) -> Reply:
        """Answer one chat call; streams when `on_delta` was given.

        `on_delta` runs on the call's thread; a call that is tried again starts
        its text anew.
        """
        body = self._body(request)
        call = _Call()
        loop = asyncio.get_running_loop()
        with self._lock:  # after close the pool takes no more work
            self._check_open()
            work = loop.run_in_executor(self._pool, self._post, body, call)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            call.cancel()
            work.add_done_callback(_forget)
            raise

    def health(self) -> dict[str, Any]:
        """Return the endpoint's model list; raise ModelError."""
        return self._exchange("GET", "/models", None, _Call(), stream=False)

    def close(self) -> None:
        """Cut the calls that are under way, close the connections, end the threads."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, deque()
            active = list(self._active)
        for call in active:
            call.cancel()
        for connection in idle:
            connection.close()
        self._pool.shutdown(wait=True)

    def __enter__(self) -> "OpenAICompatible":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _body(self, request: Request) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.name,
            "messages": [_message(m) for m in request.messages],
        }
        if request.tools:
            body["tools"] = list(request.tools)
        if request.schema:
            body["response_format"] = {
                "type": "json_schema",
                "json_schema": {
                    "name": "answer",
                    "strict": True,
                    "schema": request.schema,
                },
            }
        settings = {
            "temperature": request.temperature,
            "max_tokens": request.max_output,
            "seed": request.seed,
        }
        body |= {k: v for k, v in settings.items() if v is not None}
        if self._on_delta:
            body["stream"] = True
            body["stream_options"] = {"include_usage": True}
        return {**body, **(request.extra or {})}

    def _post(self, body: dict[str, Any], call: "_Call") -> Reply:
        raw = json.dumps(body).encode()
        answer = self._exchange(
            "POST", "/chat/completions", raw, call, stream=bool(body.get("stream"))
        )
        return _reply(answer)

    def _exchange(
        self, method: str, path: str, body: bytes | None, call: "_Call", *, stream: bool
    ) -> dict[str, Any]:
        headers = self._all_headers()
        with self._lock:
            self._active.add(call)
        try:
            fresh = False
            while True:
                connection, reused = self._connection(fresh=fresh)
                try:
                    call.follow(connection)
                    connection.request(method, self._path + path, body, headers)
                    response = connection.getresponse()
                except (OSError, http.client.HTTPException) as error:
                    connection.close()
                    # A kept-alive connection may have died unseen: once more, anew.
                    if reused and isinstance(error, _STALE) and not call.cancelled:
                        fresh = True
                        continue
                    raise ModelError(
                        f"{self._url.netloc}: {type(error).__name__}: {error}",
                        retry=not call.cancelled,
                    ) from error
                except BaseException:
                    connection.close()
                    raise
                return self._answer(connection, response, stream=stream)
        finally:
            with self._lock:
                self._active.discard(call)

    def _answer(
        self,
        connection: http.client.HTTPConnection,
        response: http.client.HTTPResponse,
        *,
        stream: bool,
    ) -> dict[str, Any]:
        try:
            if response.status != 200:
                raise _failure(response, response.read(100_000), self._url.netloc)
            if stream:
                answer = _gather(_lines(response), self._on_delta)
            else:
                raw = response.read(_MAX_ANSWER)
                if len(raw) >= _MAX_ANSWER:
                    raise ValueError(f"over {_MAX_ANSWER} bytes")
                answer = json.loads(raw)
            reusable = response.isclosed() and not response.will_close
        except (OSError, http.client.HTTPException, ValueError) as error:
            connection.close()
            response.close()
            raise ModelError(
                f"{self._url.netloc}: broken answer: {error}", status=200, retry=True
            ) from error
        except BaseException:
            connection.close()
            response.close()
            raise
        self._keep(connection, reusable=reusable)
        if not isinstance(answer, dict):
            raise ModelError(
                f"{self._url.netloc}: expected an object, got {answer!r:.80}"
            )
        return answer

    def _connection(self, *, fresh: bool) -> tuple[http.client.HTTPConnection, bool]:
        with self._lock:
            self._check_open()
            if self._idle and not fresh:
                return self._idle.pop(), True
        host, port = self._url.hostname or "", self._url.port
        if self._url.scheme == "https":
            context = ssl.create_default_context()
            return http.client.HTTPSConnection(
                host, port, timeout=self._timeout, context=context
            ), False
        return http.client.HTTPConnection(host, port, timeout=self._timeout), False

    def _check_open(self) -> None:
        if self._closed:
            raise ModelError(f"the client of {self._url.netloc} is closed")

    def _keep(self, connection: http.client.HTTPConnection, *, reusable: bool) -> None:
        with self._lock:
            if reusable and not self._closed:
                self._idle.append(connection)
                return
        connection.close()

    def _all_headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "Accept": "*/*", **self._headers}
        key = os.environ.get(self._key_env) if self._key_env else None
        if self._key_env and not key:
            raise SettingsError(f"environment variable {self._key_env} is not set")
        if key:
            headers["Authorization"] = f"Bearer {key}"
        return headers


class _Call:
    """What cancelling needs to know of a call on another thread."""

    def __init__(self) -> None:
        self.cancelled = False
        self._sock: socket.socket | None = None

    def follow(self, connection: http.client.HTTPConnection) -> None:
        """Connect, and remember the socket: http.client forgets it too early."""
        if connection.sock is None:
            connection.connect()
        self._sock = connection.sock
        # Set before this is read, so either cancel sees the socket or we see it.
        if self.cancelled:
            raise ModelError("cancelled")

    def cancel(self) -> None:
        self.cancelled = True
        if self._sock is not None:
            try:
                self._sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                return  # closed in between


def _forget(work: "asyncio.Future[Reply]") -> None:
    if not work.cancelled():
        work.exception()


def openai_compatible(
    base_url: str, *, model: str, key_env: str | None = None, **options: Any
) -> OpenAICompatible:
    """Return a model at an OpenAI-compatible endpoint; options as the class takes."""
    return OpenAICompatible(base_url, model=model, key_env=key_env, **options)


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    if "tool_calls" not in message:
        return dict(message)
    calls = [
        {
            **call,
            "function": {
                "name": call["function"]["name"],
                "arguments": json.dumps(call["function"]["arguments"]),
            },
        }
        for call in message["tool_calls"]
    ]
    return {**message, "tool_calls": calls}


def _failure(response: http.client.HTTPResponse, raw: bytes, where: str) -> ModelError:
    text = raw.decode("utf-8", "replace")
    try:
        error = json.loads(text).get("error")
        said = str(error.get("message") or text if isinstance(error, dict) else error)
    except (ValueError, AttributeError):
        said = text
    message = f"{where}: HTTP {response.status}: {said.strip()[:400]}"
    wait = _seconds(response.headers.get("retry-after", ""))
    if response.status == 429 or (response.status == 503 and wait is not None):
        return RateLimitedError(message, retry_after=wait, status=response.status)
    if response.status in {400, 413} and any(w in text.lower() for w in _OVERFLOW):
        return ContextOverflowError(message, status=response.status)
    return ModelError(message, status=response.status, retry=response.status >= 500)


def _seconds(value: str) -> float | None:
    """Read Retry-After: seconds or a date (RFC 9110, 10.2.3); at most a day."""
    if value.strip().isdecimal():
        return float(min(int(value), _LONGEST_WAIT))
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return None
    if date.tzinfo is None:
        return None
    return min(max(0.0, date.timestamp() - time.time()), _LONGEST_WAIT)


def _lines(response: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    """Yield the JSON events of a server-sent stream; a cut stream is an error."""
    size = 0
    while True:
        line = response.readline(1_000_000)
        size += len(line)
        if not line:
            raise ValueError("the stream ended before [DONE]")
        if size > _MAX_ANSWER:
            raise ValueError(f"over {_MAX_ANSWER} bytes")
        if not line.startswith(b"data:"):
            continue
        payload = line[5:].strip()
        if payload == b"[DONE]":
            response.read()
            return
        chunk = json.loads(payload)
        if not isinstance(chunk, dict):
            problem = f"expected an object in the stream, got {chunk!r:.80}"
            raise ValueError(problem)  # noqa: TRY004 - of the answer, not of a type
        yield chunk


def _gather(
    chunks: Iterator[dict[str, Any]], on_delta: Callable[[str], None] | None
) -> dict[str, Any]:
    """Put the pieces of a stream together as if it had not been one."""
    text: list[str] = []
    calls: dict[int, dict[str, Any]] = {}
    finish, usage = "", None
    for chunk in chunks:
        if "error" in chunk:
            raise ValueError(str(chunk["error"])[:400])
        usage = chunk.get("usage") or usage
        for choice in _dicts(chunk.get("choices")):
            delta = choice.get("delta") or {}
            finish = choice.get("finish_reason") or finish
            if piece := delta.get("content"):
                text.append(piece)
                if on_delta:
                    on_delta(piece)
            for part in _dicts(delta.get("tool_calls")):
                _add_call(calls, part)
    message = {"content": "".join(text), "tool_calls": list(calls.values())}
    return {"choices": [{"message": message, "finish_reason": finish}], "usage": usage}


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [v for v in value if isinstance(v, dict)] if isinstance(value, list) else []


def _add_call(calls: dict[int, dict[str, Any]], part: dict[str, Any]) -> None:
    call = calls.setdefault(part.get("index") or 0, {"id": "", "function": {}})
    call["id"] = part.get("id") or call["id"]
    function = call["function"]
    for key, value in (part.get("function") or {}).items():
        if isinstance(value, str):
            function[key] = function.get(key, "") + value


def _reply(answer: dict[str, Any]) -> Reply:
    try:
        choice = answer["choices"][0]
        message = choice["message"]
        calls = tuple(
            ToolCall(
                id=str(call.get("id") or n),
                name=str(call["function"]["name"]),
                arguments=_arguments(call["function"].get("arguments")),
            )
            for n, call in enumerate(message.get("tool_calls") or ())
        )
        text = message.get("content") or ""
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ModelError(f"not a chat completion: {answer!r:.200}") from error
    if not isinstance(text, str):  # a list of parts, as some servers send it
        text = "".join(str(part.get("text") or "") for part in _dicts(text))
    finish = str(choice.get("finish_reason") or "stop")
    return Reply(text, None, _usage(answer.get("usage")), calls, finish)


def _usage(counts: Any) -> Usage | None:
    """Return what was counted; None when the server did not say."""
    if not isinstance(counts, dict) or not isinstance(counts.get("prompt_tokens"), int):
        return None
    details = counts.get("prompt_tokens_details") or {}
    return Usage(
        input_tokens=counts["prompt_tokens"],
        output_tokens=counts.get("completion_tokens") or 0,
        cached_tokens=details.get("cached_tokens") or 0,
    )


def _arguments(raw: Any) -> dict[str, Any]:
    try:
        value = json.loads(raw) if isinstance(raw, str) and raw else raw or {}
    except ValueError:
        return {"$unreadable": raw}  # the tool's own check tells the model
    return value if isinstance(value, dict) else {"$unreadable": raw}
