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
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
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
        self._lock = threading.Lock()  # guards _idle and _closed
        self._closed = False
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="maestro-model")

    def __repr__(self) -> str:
        return f"OpenAICompatible({self._url.netloc!r}, model={self.name!r})"

    async def complete(self, request: Request) -> Reply:
        """Answer one chat call; streams when `on_delta` was given."""
        body = self._body(request)
        call = _Call()
        loop = asyncio.get_running_loop()
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
        """Close the connections and end the threads."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, deque()
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
        for name, value in (
            ("temperature", request.temperature),
            ("max_tokens", request.max_output),
            ("seed", request.seed),
        ):
            if value is not None:
                body[name] = value
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
        fresh = False
        while True:
            connection, reused = self._connection(fresh=fresh)
            call.connection = connection
            if call.cancelled:
                connection.close()
                raise ModelError("cancelled")
            try:
                connection.request(
                    method, self._path + path, body=body, headers=self._all_headers()
                )
                response = connection.getresponse()
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                # A kept-alive connection may have died unseen: once more, on a new one.
                stale = isinstance(
                    error,
                    (
                        http.client.RemoteDisconnected,
                        BrokenPipeError,
                        ConnectionResetError,
                    ),
                )
                if reused and stale and not call.cancelled:
                    fresh = True
                    continue
                raise ModelError(
                    f"{self._url.netloc}: {type(error).__name__}: {error}", retry=True
                ) from error
            return self._answer(connection, response, stream=stream)

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
                answer = json.loads(raw)
            reusable = response.isclosed() and not response.will_close
        except (OSError, http.client.HTTPException, ValueError) as error:
            connection.close()
            raise ModelError(
                f"{self._url.netloc}: broken answer: {error}", status=200, retry=True
            ) from error
        except BaseException:
            connection.close()
            raise
        self._keep(connection, reusable=reusable)
        if not isinstance(answer, dict):
            raise ModelError(
                f"{self._url.netloc}: expected an object, got {answer!r:.80}"
            )
        return answer

    def _connection(self, *, fresh: bool) -> tuple[http.client.HTTPConnection, bool]:
        with self._lock:
            if self._closed:
                raise ModelError("the client is closed")
            if self._idle and not fresh:
                return self._idle.pop(), True
        host, port = self._url.hostname or "", self._url.port
        if self._url.scheme == "https":
            context = ssl.create_default_context()
            return http.client.HTTPSConnection(
                host, port, timeout=self._timeout, context=context
            ), False
        return http.client.HTTPConnection(host, port, timeout=self._timeout), False

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
        self.connection: http.client.HTTPConnection | None = None
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True
        sock = self.connection.sock if self.connection else None
        if sock is not None:
            try:
                sock.shutdown(socket.SHUT_RDWR)
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
        said = error.get("message", text) if isinstance(error, dict) else str(error)
    except (ValueError, AttributeError):
        said = text
    message = f"{where}: HTTP {response.status}: {said.strip()[:400]}"
    if response.status == 429:
        return RateLimitedError(message, retry_after=_seconds(response))
    if response.status == 400 and any(word in text.lower() for word in _OVERFLOW):
        return ContextOverflowError(message, status=400)
    return ModelError(message, status=response.status, retry=response.status >= 500)


def _seconds(response: http.client.HTTPResponse) -> float | None:
    value = response.headers.get("retry-after", "")
    try:
        return max(0.0, float(value))
    except ValueError:
        return None


def _lines(response: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    """Yield the JSON events of a server-sent stream; a cut stream is an error."""
    size = 0
    while True:
        line = response.readline(1_000_000)
        size += len(line)
        if not line or size > _MAX_ANSWER:
            raise ValueError("the stream ended before [DONE]")
        if not line.startswith(b"data:"):
            continue
        payload = line[5:].strip()
        if payload == b"[DONE]":
            response.read()
            return
        yield json.loads(payload)


def _gather(
    chunks: Iterator[dict[str, Any]], on_delta: Callable[[str], None] | None
) -> dict[str, Any]:
    text: list[str] = []
    calls: dict[int, dict[str, Any]] = {}
    finish, usage = "stop", None
    for chunk in chunks:
        if "error" in chunk:
            raise ValueError(str(chunk["error"]))
        usage = chunk.get("usage") or usage
        for choice in chunk.get("choices", ()):
            delta = choice.get("delta", {})
            finish = choice.get("finish_reason") or finish
            if delta.get("content"):
                text.append(delta["content"])
                if on_delta:
                    on_delta(delta["content"])
            for part in delta.get("tool_calls") or ():
                call = calls.setdefault(
                    part.get("index", 0), {"id": "", "function": {}}
                )
                call["id"] = part.get("id") or call["id"]
                for key, value in part.get("function", {}).items():
                    call["function"][key] = call["function"].get(key, "") + (
                        value or ""
                    )
    message = {"content": "".join(text), "tool_calls": list(calls.values())}
    return {"choices": [{"message": message, "finish_reason": finish}], "usage": usage}


def _reply(answer: dict[str, Any]) -> Reply:
    try:
        choice = answer["choices"][0]
        message = choice["message"]
        calls = tuple(
            ToolCall(
                id=str(call.get("id") or n),
                name=call["function"]["name"],
                arguments=_arguments(call["function"].get("arguments")),
            )
            for n, call in enumerate(message.get("tool_calls") or ())
        )
    except (KeyError, IndexError, TypeError) as error:
        raise ModelError(f"not a chat completion: {answer!r:.200}") from error
    counts = answer.get("usage") or {}
    details = counts.get("prompt_tokens_details") or {}
    usage = Usage(
        input_tokens=counts.get("prompt_tokens", 0),
        output_tokens=counts.get("completion_tokens", 0),
        cached_tokens=details.get("cached_tokens") or 0,
    )
    finish = choice.get("finish_reason") or "stop"
    return Reply(
        message.get("content") or "", None, usage if counts else None, calls, finish
    )


def _arguments(raw: Any) -> dict[str, Any]:
    try:
        value = json.loads(raw) if isinstance(raw, str) and raw else raw or {}
    except ValueError:
        return {"$unreadable": raw}  # the tool's own check tells the model
    return value if isinstance(value, dict) else {"$unreadable": raw}
