"""HTTP: POST /check {"text": ...}, GET /health."""

import json
import os
import signal
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from services.core import audit_logger, service_registry

from .check import check
from .style import Style


class App:
    def __init__(self, environ) -> None:
        self.audit = audit_logger.AuditLogger(
            environ["AUDIT_DIR"],
            origin="letters.example/audit",
            actor=audit_logger.Actor.service("quality"),
        )
        self.registry = service_registry.ServiceRegistry.open(environ["REGISTRY_URL"])
        self.style = Style(self.registry)

    def answer(self, method, path, body):
        if (method, path) == ("GET", "/health"):
            return 200, {"ok": True}
        if (method, path) == ("POST", "/check"):
            found = check(body["text"], self.style.read())
            outcome = "success" if found["ok"] else "failure"
            self.audit.record("letter.check", outcome=outcome, data={"failed": found["failed"]})
            return 200, found
        return 404, {"error": "no such page"}

    def close(self):
        self.registry.close()
        self.audit.close()


def handler(app):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            length = int(self.headers.get("Content-Length") or 0)
            try:
                body = json.loads(self.rfile.read(length)) if length else {}
                code, answer = app.answer(self.command, self.path, body)
            except (KeyError, json.JSONDecodeError) as error:
                code, answer = 400, {"error": str(error)}
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
    registration = app.registry.register("quality", port=server.server_port)
    print(f"ready {server.server_port}", flush=True)
    server.serve_forever()
    registration.close()
    server.server_close()
    app.close()


if __name__ == "__main__":
    main()
