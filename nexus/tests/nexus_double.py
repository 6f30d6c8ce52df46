"""A double of Nexus's REST API that keeps what it is sent.

Bodies are checked against the types in Sonatype's own API client (the npm
package @sonatype/nexus-repo-api-client, Apache-2.0): names, required fields,
kinds and allowed values. It is a fixture, not part of the embedded index.
"""

import json
import re
import threading
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

# Path -> interface of the client for POST and PUT.
BODIES = {
    "/v1/blobstores/file": "FileBlobStoreApiCreateRequest",
    "/v1/routing-rules": "RoutingRuleXO",
    "/v1/cleanup-policies": "CleanupPolicyResourceXO",
    "/v1/repositories/pypi/hosted": "PypiHostedRepositoryApiRequest",
    "/v1/repositories/pypi/proxy": "PypiProxyRepositoryApiRequest",
    "/v1/repositories/pypi/group": "PypiGroupRepositoryApiRequest",
    "/v1/security/roles": "RoleXORequest",
}
# 3.77 knows this field, the client of 3.96 the other; both are sent on purpose.
OLDER_FIELDS = {("PypiProxyRepositoryApiRequest", "routingRule")}


class Types:
    """The interfaces of the client's .d.ts files."""

    def __init__(self, models: Path) -> None:
        self.models = models

    def check(self, name: str, body: Any) -> list[str]:
        text = (self.models / f"{name}.d.ts").read_text("utf-8")
        block = re.search(rf"export interface {name} \{{(.*?)\n\}}", text, re.DOTALL)
        assert block, name
        fields = re.findall(r"^    (\w+)(\?)?: (.+);$", block.group(1), re.MULTILINE)
        known = {field for field, _, _ in fields}
        problems = [
            f"{name}: unknown field {key}"
            for key in body
            if key not in known and (name, key) not in OLDER_FIELDS
        ]
        for field, optional, kind in fields:
            if field not in body:
                problems += [] if optional else [f"{name}: {field} is missing"]
            else:
                problems += self._check_value(name, field, kind, body[field], text)
        return problems

    def _check_value(
        self, name: str, field: str, kind: str, value: Any, text: str
    ) -> list[str]:
        plain = {"string": str, "boolean": bool, "number": (int, float)}
        kind = kind.replace(" | null", "")
        if kind in plain:
            right = isinstance(value, plain[kind])
            return [] if right else [f"{name}.{field} must be {kind}, is {value!r}"]
        if kind in {"Array<string>", "Set<string>"}:
            right = isinstance(value, list) and all(isinstance(v, str) for v in value)
            return [] if right else [f"{name}.{field} must be {kind}, is {value!r}"]
        if kind.endswith("Enum"):
            block = re.search(rf"const {kind}: \{{(.*?)\}};", text, re.DOTALL)
            assert block, kind
            allowed = re.findall(r'"([^"]+)"', block.group(1))
            return (
                []
                if value in allowed
                else [f"{name}.{field}: {value!r} is none of {allowed}"]
            )
        return self.check(kind, value)


class Double:
    """Starts with an unprovisioned server: EULA open, anonymous access on."""

    def __init__(self, types: Types | None, password: str = "first") -> None:
        self.types, self.passwords = types, {"admin": password}
        self.things: dict[str, Any] = {}
        self.writes: list[tuple[str, str]] = []
        self.problems: list[str] = []
        self.ignore_rule = False
        self.users: dict[str, Any] = {}
        self.eula = {"accepted": False, "disclaimer": "word for word"}
        self.anonymous = {"enabled": True, "userId": "anonymous", "realmName": "X"}
        self.app = Starlette(
            routes=[
                Route(
                    "/service/rest{path:path}",
                    self.answer,
                    methods=["GET", "POST", "PUT"],
                )
            ]
        )

    def check(self, name: str, body: Any) -> None:
        if self.types:
            self.problems += self.types.check(name, body)

    async def answer(self, request: Request) -> Response:
        path, method = request.path_params["path"], request.method
        if path.startswith("/v1/status"):
            return Response(status_code=200)
        user, password = self._login(request)
        if self.passwords.get(user) != password:
            return Response(status_code=401)
        raw = await request.body()
        if method != "GET":
            self.writes.append((method, path))
        if path.endswith("/change-password"):
            self.passwords[path.split("/")[-2]] = raw.decode()
            return Response(status_code=204)
        body = json.loads(raw) if raw else None
        if path == "/v1/system/eula":
            return self._eula(method, body)
        if path == "/v1/security/anonymous":
            return self._anonymous(method, body)
        if path.startswith("/v1/security/users"):
            return self._users(request, method, body)
        return self._thing(path, method, body)

    def _login(self, request: Request) -> tuple[str, str]:
        import base64

        value = request.headers.get("authorization", "Basic Og==").split()[1]
        user, _, password = base64.b64decode(value).decode().partition(":")
        return user, password

    def _eula(self, method: str, body: Any) -> Response:
        if method == "GET":
            return JSONResponse(self.eula)
        self.check("EulaStatus", body)
        if body.get("disclaimer") != self.eula["disclaimer"]:
            return Response("disclaimer differs", status_code=400)
        self.eula = body
        return Response(status_code=204)

    def _anonymous(self, method: str, body: Any) -> Response:
        if method == "PUT":
            self.check("AnonymousAccessSettingsXO", body)
            self.anonymous = body
        return JSONResponse(self.anonymous)

    def _users(self, request: Request, method: str, body: Any) -> Response:
        if method == "GET":
            wanted = request.query_params["userId"]
            return JSONResponse([u for name, u in self.users.items() if name == wanted])
        self.check("ApiCreateUser" if method == "POST" else "ApiUser", body)
        stored = {k: v for k, v in body.items() if k != "password"}
        self.users[body["userId"]] = stored | {"source": "default"}
        return Response(status_code=200 if method == "POST" else 204)

    def _thing(self, path: str, method: str, body: Any) -> Response:
        if method == "GET":
            found = self.things.get(path)
            return Response(status_code=404) if found is None else JSONResponse(found)
        base = path if method == "POST" else path.rpartition("/")[0]
        if base not in BODIES:
            return Response("no such endpoint", status_code=404)
        self.check(BODIES[base], body)
        name = body.get("id") or body["name"]
        at = f"{base}/{name}"
        if method == "POST" and at in self.things:
            return Response("Name is already used", status_code=400)
        stored = {k: v for k, v in body.items() if k != "routingRule"}
        if self.ignore_rule:
            stored.pop("routingRuleName", None)
        self.things[at] = stored
        return Response(status_code=201 if method == "POST" else 204)


class Served:
    """A double on a free port."""

    def __init__(self, double: Double) -> None:
        config = uvicorn.Config(double.app, port=0, log_level="error", lifespan="off")
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run)

    def __enter__(self) -> str:
        self.thread.start()
        while not self.server.started:
            assert self.thread.is_alive()
        port = self.server.servers[0].sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{port}"

    def __exit__(self, *_: object) -> None:
        self.server.should_exit = True
        self.thread.join()
