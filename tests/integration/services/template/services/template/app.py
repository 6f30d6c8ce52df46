"""HTTP: GET /render?template=T&name=N, GET /style, GET /health."""

import json
import os
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from services.core import Actor, AuditLogger, ServiceRegistry

from ..core.yaml_config_parser import ConfigError as BadSettings
from .settings import Settings, read_settings


class App:
    def __init__(self, settings: Settings, audit: AuditLogger) -> None:
        self.settings, self.audit = settings, audit

    def answer(self, path):
        url = urlsplit(path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        if url.path == "/health":
            return 200, {"ok": True}
        if url.path == "/style":
            return 200, self.settings.style
        if url.path == "/render":
            template = self.settings.templates.get(query.get("template"))
            if template is None or "name" not in query:
                return 404, {"error": "no such template, or no name"}
            text = template.substitute(name=query["name"])
            self.audit.record("letter.render", resource=("template", query["template"]))
            return 200, {"text": text}
        return 404, {"error": "no such page"}


def handler(app):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            code, answer = app.answer(self.path)
            raw = json.dumps(answer).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *args):
            pass

    return Handler


def main() -> int:
    try:
        settings = read_settings(os.environ["SETTINGS"])
    except BadSettings as error:
        print(f"template: {error}", file=sys.stderr)
        return 2
    audit = AuditLogger(
        os.environ["AUDIT_DIR"],
        origin="letters.example/audit",
        actor=Actor.service("template"),
    )
    app = App(settings, audit)
    server = ThreadingHTTPServer(("127.0.0.1", int(os.environ.get("PORT", "0"))), handler(app))
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    registry = ServiceRegistry.open(os.environ["REGISTRY_URL"])
    registration = registry.register("template", port=server.server_port)
    print(f"ready {server.server_port}", flush=True)
    server.serve_forever()
    registration.close()
    registry.close()
    server.server_close()
    audit.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
