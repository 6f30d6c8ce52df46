"""The HTTP side: Nexus's paths and answers over the store and the upstream.

What Nexus does is copied where clients can tell: 200 for an upload by twine,
204 for one through the components API, 400 "cannot be updated" for a second
upload, 401 with its realm, 403 without the right. Where Nexus falls short for
clients (PEP 658, 691, 700 and yanking of hosted files) this server answers
more; nothing in this repository needs the difference.

The group answers from the hosted repository or from upstream, never from both,
and a private name (`maestro-*`) is never asked upstream.
"""

import errno
import logging

from packaging.utils import canonicalize_name
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import (
    FileResponse,
    PlainTextResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Route

from maestro_index import _pages as pages
from maestro_index import _rest as rest
from maestro_index._index import GROUP, HOSTED, PROXY, Index, of
from maestro_index._store import FileRecord, metadata_path
from maestro_index._upstream import Upstream, UpstreamFile
from maestro_index._users import REALM, User
from maestro_index.errors import Refused, UpstreamFault

UPLOAD_LIMIT = 1024 * 1024 * 1024  # bytes of one request
IMMUTABLE = {"Cache-Control": "max-age=31536000, immutable"}
log = logging.getLogger(__name__)


def create_app(index: Index) -> Starlette:
    """Return the ASGI application of one index."""
    v1 = "/service/rest/v1"
    app = Starlette(
        routes=[
            Route("/repository/{repository}/", upload, methods=["POST"]),
            Route("/repository/{repository}/simple", simple_root),
            Route("/repository/{repository}/simple/", simple_root),
            Route("/repository/{repository}/simple/{name}", simple_project),
            Route("/repository/{repository}/simple/{name}/", simple_project),
            Route(
                "/repository/{repository}/packages/{name}/{version}/{file}", download
            ),
            Route(f"{v1}/status", rest.status),
            Route(f"{v1}/status/writable", rest.status),
            Route(f"{v1}/repositories", rest.repositories),
            Route(f"{v1}/components", rest.components),
            Route(f"{v1}/components", component_upload, methods=["POST"]),
            Route(f"{v1}/components/{{id}}", rest.component),
            Route(f"{v1}/components/{{id}}", rest.component_delete, methods=["DELETE"]),
            Route(f"{v1}/search", rest.components),
            # Nexus cannot yank hosted files; this is ours alone.
            Route("/service/rest/maestro/yank/{name}/{version}", yank, methods=["PUT"]),
            Route(
                "/service/rest/maestro/yank/{name}/{version}",
                unyank,
                methods=["DELETE"],
            ),
        ],
        exception_handlers={
            Refused: on_refused,
            UpstreamFault: on_upstream_fault,
            OSError: on_os_error,
        },
    )
    app.state.index = index
    return app


async def on_refused(_request: Request, error: Exception) -> Response:
    """Answer with the status and sentence of a refusal."""
    assert isinstance(error, Refused)
    headers = {"WWW-Authenticate": REALM} if error.status == 401 else {}
    return PlainTextResponse(f"{error}\n", status_code=error.status, headers=headers)


async def on_upstream_fault(_request: Request, error: Exception) -> Response:
    """Answer 502: a 404 would make pip say that the project does not exist."""
    return PlainTextResponse(f"{error}\n", status_code=502)


async def on_os_error(_request: Request, error: Exception) -> Response:
    """Answer 507 for a full disk and 500 for anything else of the system."""
    assert isinstance(error, OSError)
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return PlainTextResponse("the disk of the index is full\n", status_code=507)
    log.error("request failed", exc_info=error)
    return PlainTextResponse(f"the index failed: {error.strerror}\n", status_code=500)


# Reading


def simple_root(request: Request) -> Response:
    """List the hosted projects; a proxy does not know all of its own."""
    index = of(request)
    index.reader(request)
    check_repository(request, PROXY, HOSTED, GROUP)
    named = request.path_params["repository"]
    names = [] if named == PROXY else index.store.projects()
    if pages.wants_json(request.headers.get("accept", "")):
        return page(request, pages.root_json(names), pages.JSON_TYPE)
    return page(request, pages.root_html(names), pages.HTML_TYPE)


def simple_project(request: Request) -> Response:
    """Answer the page of one project as HTML or JSON."""
    index = of(request)
    index.reader(request)
    repository = check_repository(request, PROXY, HOSTED, GROUP)
    name = canonicalize_name(request.path_params["name"])
    # Nexus answers with and without the last slash, so links must fit both.
    prefix = "../../" if request.url.path.endswith("/") else "../"
    rows = find_rows(index, repository, name, prefix)
    if not rows:
        raise Refused(404, f"{name} is not in {repository}")
    if pages.wants_json(request.headers.get("accept", "")):
        return page(request, pages.project_json(name, rows), pages.JSON_TYPE)
    return page(request, pages.project_html(name, rows), pages.HTML_TYPE)


def find_rows(index: Index, repository: str, name: str, prefix: str) -> list[pages.Row]:
    """Return the rows of a project: hosted ones, or else upstream's."""
    if repository in {HOSTED, GROUP}:
        hosted = [pages.hosted_row(r, prefix) for r in index.store.files(name)]
        if hosted or repository == HOSTED:
            return hosted
    if index.private.fullmatch(name):
        return []
    return [pages.upstream_row(f, name, prefix) for f in index.upstream.files(name)]


def download(request: Request) -> Response:
    """Answer a file, or the metadata of a wheel (PEP 658)."""
    index = of(request)
    index.reader(request)
    repository = check_repository(request, PROXY, HOSTED, GROUP)
    name = canonicalize_name(request.path_params["name"])
    filename = request.path_params["file"].removesuffix(".metadata")
    wants_metadata = filename != request.path_params["file"]
    if repository in {HOSTED, GROUP}:
        record = index.store.find(name, filename)
        if record:
            path = index.store.disk_path(record)
            return FileResponse(
                metadata_path(path) if wants_metadata else path, headers=IMMUTABLE
            )
    if repository == HOSTED or index.private.fullmatch(name):
        raise Refused(404, f"{filename} is not in {repository}")
    file = index.upstream.find(name, filename)
    if file is None:
        raise Refused(404, f"{filename} is not in {repository}")
    return from_upstream(request, index.upstream, file, wants_metadata=wants_metadata)


def from_upstream(
    request: Request, upstream: Upstream, file: UpstreamFile, *, wants_metadata: bool
) -> Response:
    """Answer a proxied file from the cache, or pass it on while keeping it."""
    if wants_metadata:
        if not file.offers_metadata:
            raise Refused(404, f"{file.filename}.metadata is not there")
        content = upstream.metadata(file)
        return Response(
            content, media_type="application/octet-stream", headers=IMMUTABLE
        )
    path = upstream.cached(file)
    if path is not None:
        return FileResponse(path, headers=IMMUTABLE, filename=file.filename)
    wanted_range = request.headers.get("range")
    headers = {"Accept-Encoding": "identity"}
    if wanted_range:
        headers["Range"] = wanted_range
    response = upstream.request(request.method, file.url, headers)
    passed_on = {
        key: response.headers[key]
        for key in ("Content-Length", "Content-Range", "Accept-Ranges", "Content-Type")
        if key in response.headers
    }
    if request.method == "HEAD" or wanted_range:
        # A part of a file cannot be checked, so it is not kept.
        with response:
            body = b"" if request.method == "HEAD" else response.content
        return Response(body, status_code=response.status_code, headers=passed_on)
    return StreamingResponse(upstream.stream(file, response), headers=passed_on)


def page(request: Request, text: str, media_type: str) -> Response:
    """Answer a page that caches keep apart by Accept."""
    body = b"" if request.method == "HEAD" else text.encode()
    headers = {"Vary": "Accept", "Cache-Control": "no-cache"}
    return Response(body, media_type=media_type, headers=headers)


def check_repository(request: Request, *allowed: str) -> str:
    """Return the repository's name.

    Raises:
        Refused: 404 when there is no such repository.
    """
    name = str(request.path_params["repository"])
    if name not in allowed:
        raise Refused(404, f"no repository {name!r}; there are {', '.join(allowed)}")
    return name


# Writing


async def upload(request: Request) -> Response:
    """Take an upload as twine, uv and Poetry send it: 200."""
    index = of(request)
    user = index.deployer(request)
    repository = check_repository(request, HOSTED, GROUP, PROXY)
    if repository != HOSTED:
        raise Refused(405, f"{repository} is read-only; upload to {HOSTED}")
    await receive(request, index, user, file_field="content")
    return PlainTextResponse("", status_code=200)


async def component_upload(request: Request) -> Response:
    """Take an upload through the components API: 204."""
    index = of(request)
    user = index.deployer(request)
    repository = request.query_params.get("repository")
    if repository != HOSTED:
        raise Refused(404, f"no hosted repository {repository!r}; there is {HOSTED}")
    await receive(request, index, user, file_field="pypi.asset")
    return Response(status_code=204)


async def receive(
    request: Request, index: Index, user: User, *, file_field: str
) -> FileRecord:
    """Read a multipart form and publish its file."""
    length = int(request.headers.get("content-length") or 0)
    if length > UPLOAD_LIMIT:
        raise Refused(413, f"an upload may have {UPLOAD_LIMIT} bytes, not {length}")
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise Refused(400, "the body must be multipart/form-data")
    async with request.form(max_files=4, max_part_size=4 * 1024 * 1024) as form:
        action = form.get(":action", "file_upload")
        if action != "file_upload":
            raise Refused(400, f":action {action!r} is not supported")
        content = form.get(file_field)
        if not isinstance(content, UploadFile) or not content.filename:
            raise Refused(400, f"the form has no file in the field {file_field!r}")
        claims = {key: value for key, value in form.items() if isinstance(value, str)}
        return await run_in_threadpool(publish, index, content, claims, user)


def publish(
    index: Index, content: UploadFile, claims: dict[str, str], user: User
) -> FileRecord:
    """Copy the file into the store and commit it."""
    incoming = index.store.incoming()
    try:
        while block := content.file.read(1024 * 1024):
            incoming.write(block)
        record = index.store.commit(incoming, str(content.filename), claims, user.name)
    finally:
        incoming.discard()
    log.info("published %s by %s", record.path, user.name)
    return record


# What Nexus has not


async def yank(request: Request) -> Response:
    """Mark a version as yanked; the body is the reason."""
    of(request).deployer(request)
    reason = (await request.body())[:1000].decode("utf-8", "replace")
    return await run_in_threadpool(set_yank, request, reason)


def unyank(request: Request) -> Response:
    """Take a yank back."""
    of(request).deployer(request)
    return set_yank(request, None)


def set_yank(request: Request, reason: str | None) -> Response:
    """Change the yank of a version: 204, or 404 when it is not there."""
    name, version = request.path_params["name"], request.path_params["version"]
    if not of(request).store.yank(name, version, reason):
        raise Refused(404, f"{name} {version} is not in {HOSTED}")
    return Response(status_code=204)
