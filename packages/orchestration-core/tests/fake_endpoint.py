"""An endpoint that speaks the chat protocol, as badly as it is told."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def completion(text="", *, finish="stop", usage=(7, 3), tool_calls=None) -> bytes:
    """Return a whole answer."""
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if tool_calls:
        message["tool_calls"] = tool_calls
    body: dict[str, Any] = {"choices": [{"message": message, "finish_reason": finish}]}
    if usage:
        body["usage"] = {"prompt_tokens": usage[0], "completion_tokens": usage[1]}
    return json.dumps(body).encode()


def sse(*chunks: Any, done: bool = True) -> bytes:
    """Return a stream of chunks."""
    lines = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
    return "".join([*lines, "data: [DONE]\n\n" if done else ""]).encode()


def delta(text: str) -> dict[str, Any]:
    """Return one piece of text."""
    return {"choices": [{"delta": {"content": text}}]}


class Seen:
    """One request that arrived."""

    def __init__(self, path: str, headers: Any, body: Any, client: Any) -> None:
        self.path, self.headers, self.body, self.client = path, headers, body, client


class Endpoint:
    """Answers each request with the next function of the script."""

    def __init__(self) -> None:
        self.script: list[Callable[[Any], None]] = []
        self.seen: list[Seen] = []
        self.hung_up = threading.Event()
        self.started = threading.Event()
        self.url = ""

    def say(self, body: bytes, status: int = 200, **headers: str) -> None:
        """Answer a request with a whole body."""

        def answer(handler: Any) -> None:
            handler.send_response(status)
            for key, value in headers.items():
                handler.send_header(key.replace("_", "-"), value)
            handler.send_header("Content-Length", str(len(body)))
            handler.end_headers()
            handler.wfile.write(body)

        self.script.append(answer)

    def cut(self, body: bytes, *, announced: int = 0) -> None:
        """Send a part and close the connection."""

        def answer(handler: Any) -> None:
            handler.send_response(200)
            if announced:
                handler.send_header("Content-Length", str(announced))
            handler.send_header("Connection", "close")
            handler.end_headers()
            handler.wfile.write(body)
            handler.close_connection = True

        self.script.append(answer)

    def chunked(self, body: bytes, *, size: int = 7) -> None:
        """Send a body in small chunks: the pieces do not end where lines end."""

        def answer(handler: Any) -> None:
            handler.send_response(200)
            handler.send_header("Transfer-Encoding", "chunked")
            handler.end_headers()
            for at in range(0, len(body), size):
                piece = body[at : at + size]
                handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            handler.wfile.write(b"0\r\n\r\n")

        self.script.append(answer)

    def drip(self, *, close: bool) -> None:
        """Stream without end, until the client hangs up."""

        def answer(handler: Any) -> None:
            handler.send_response(200)
            if close:
                handler.send_header("Connection", "close")
            else:
                handler.send_header("Transfer-Encoding", "chunked")
            handler.end_headers()
            piece = sse(delta("x"), done=False)
            if not close:
                piece = b"%x\r\n%s\r\n" % (len(piece), piece)
            try:
                for _ in range(2000):
                    handler.wfile.write(piece)
                    self.started.set()
                    time.sleep(0.01)
            except OSError:
                self.hung_up.set()
            handler.close_connection = True

        self.script.append(answer)

    def drop(self) -> None:
        """Close the connection without an answer."""

        def answer(handler: Any) -> None:
            handler.close_connection = True

        self.script.append(answer)


@contextmanager
def endpoint() -> Iterator[Endpoint]:
    """Serve on a free loopback port."""
    found = Endpoint()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            raw = self.rfile.read(size)
            body = json.loads(raw) if raw else None
            client = self.client_address
            found.seen.append(Seen(self.path, self.headers, body, client))
            found.script.pop(0)(self)

        do_GET = do_POST  # noqa: N815 - the name that http.server looks for

        def log_message(self, *args: Any) -> None:
            """Stay quiet."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *args: Any) -> None:
            """A client that hangs up is what some tests want."""

    with Server(("127.0.0.1", 0), Handler) as server:
        found.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield found
        finally:
            server.shutdown()
            thread.join()
