"""HTTP: POST /jobs, GET /jobs/ID, GET /preview, GET /health."""

import json
import os
import signal
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from ..registry.service_registry import ServiceRegistry
from .clients import UNAVAILABLE, Quality, Refused, Templates
from .jobs import Jobs


class App:
    def __init__(self, environ) -> None:
        self.audit = Jobs.open_audit(environ["AUDIT_DIR"], "engine")
        self.registry = ServiceRegistry.open(environ["REGISTRY_URL"])
        self.templates = Templates(self.registry, "template", timeout=2)
        quality = Quality(self.registry, "quality", timeout=20)
        clients = {"template": self.templates, "quality": quality}
        self.jobs = Jobs(environ["DATA_DIR"], clients, self.audit)

    def answer(self, method, path, body):
        url = urlsplit(path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        if (method, url.path) == ("GET", "/health"):
            return 200, {"ok": True}
        if (method, url.path) == ("POST", "/jobs"):
            self.jobs.accept({key: str(body[key]) for key in ("job", "template", "name")})
            return 202, {"job": body["job"]}
        if method == "GET" and url.path.startswith("/jobs/"):
            state = self.jobs.states.get(url.path.removeprefix("/jobs/"))
            return (404, {"error": "no such job"}) if state is None else (200, {"state": state})
        if (method, url.path) == ("GET", "/preview"):
            return 200, {"text": self.templates.render(query["template"], query["name"])}
        return 404, {"error": "no such page"}

    def close(self):
        self.jobs.stop()
        self.registry.close()
        self.audit.close()


def handler(app):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            length = int(self.headers.get("Content-Length") or 0)
            try:
                body = json.loads(self.rfile.read(length)) if length else {}
                code, answer = app.answer(self.command, self.path, body)
            except (KeyError, Refused, json.JSONDecodeError) as error:
                code, answer = 400, {"error": str(error)}
            except UNAVAILABLE as error:
                code, answer = 503, {"error": f"{type(error).__name__}: {error}"}
            raw = json.dumps(answer).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        do_POST = do_GET

        def log_message(self, *args):
            pass

    return Handler


def main() -> None:
    app = App(os.environ)
    server = ThreadingHTTPServer(("127.0.0.1", int(os.environ.get("PORT", "0"))), handler(app))
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    app.jobs.start()
    registration = app.registry.register("engine", port=server.server_port)
    print(f"ready {server.server_port}", flush=True)
    server.serve_forever()
    registration.close()
    server.server_close()
    app.close()


if __name__ == "__main__":
    main()
