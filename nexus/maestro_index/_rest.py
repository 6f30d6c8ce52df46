"""Nexus's REST API, as far as release tools use it."""

import base64
import logging
from collections.abc import Iterable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from maestro_index._index import GROUP, HOSTED, PROXY, Index, of
from maestro_index._store import FileRecord
from maestro_index.errors import Refused

PAGE_SIZE = 50  # components a page, as in Nexus
log = logging.getLogger(__name__)


def status(_request: Request) -> Response:
    """Say that the server runs and is writable."""
    return Response(status_code=200)


def repositories(request: Request) -> Response:
    """List the three repositories."""
    of(request).reader(request)
    base = str(request.base_url).rstrip("/")
    kinds = {HOSTED: "hosted", PROXY: "proxy", GROUP: "group"}
    return JSONResponse(
        [
            {
                "name": name,
                "format": "pypi",
                "type": kind,
                "url": f"{base}/repository/{name}",
                "attributes": {},
            }
            for name, kind in kinds.items()
        ]
    )


def components(request: Request) -> Response:
    """List the components of the hosted repository, 50 a page."""
    index = of(request)
    index.reader(request)
    if request.query_params.get("repository", HOSTED) not in {HOSTED, GROUP}:
        return JSONResponse({"items": [], "continuationToken": None})
    found = [
        key
        for key in component_keys(index)
        if request.query_params.get("name", key[0]) == key[0]
        and request.query_params.get("version", key[1]) == key[1]
    ]
    token = request.query_params.get("continuationToken")
    start = 0
    if token:
        after = decode_id(token)
        start = sum(1 for key in found if key <= after)
    chosen = found[start : start + PAGE_SIZE]
    more = len(found) > start + PAGE_SIZE
    return JSONResponse(
        {
            "items": [describe(request, index, *key) for key in chosen],
            "continuationToken": encode_id(*chosen[-1]) if more else None,
        }
    )


def component(request: Request) -> Response:
    """Answer one component."""
    index = of(request)
    index.reader(request)
    key = decode_id(request.path_params["id"])
    if key not in component_keys(index):
        raise Refused(404, "no such component")
    return JSONResponse(describe(request, index, *key))


def component_delete(request: Request) -> Response:
    """Remove a version with all its files: 204."""
    index = of(request)
    user = index.deployer(request)
    name, version = decode_id(request.path_params["id"])
    if not index.store.delete(name, version):
        raise Refused(404, "no such component")
    log.info("deleted %s %s by %s", name, version, user.name)
    return Response(status_code=204)


def component_keys(index: Index) -> list[tuple[str, str]]:
    """Return (name, version) of every component, sorted."""
    return sorted(
        {
            (r.name, r.version)
            for n in index.store.projects()
            for r in index.store.files(n)
        }
    )


def describe(request: Request, index: Index, name: str, version: str) -> dict[str, Any]:
    """Return a component as Nexus's REST API shows it."""
    records = [r for r in index.store.files(name) if r.version == version]
    return {
        "id": encode_id(name, version),
        "repository": HOSTED,
        "format": "pypi",
        "group": None,
        "name": name,
        "version": version,
        "assets": list(assets(request, records)),
    }


def assets(request: Request, records: Iterable[FileRecord]) -> Iterable[dict[str, Any]]:
    """Yield the files of a component as assets."""
    base = str(request.base_url).rstrip("/")
    for record in records:
        yield {
            "downloadUrl": f"{base}/repository/{HOSTED}/{record.path}",
            "path": record.path,
            "id": encode_id(record.name, record.filename),
            "repository": HOSTED,
            "format": "pypi",
            "checksum": {
                "sha256": record.sha256,
                "sha1": record.sha1,
                "md5": record.md5,
            },
            "fileSize": record.size,
            "lastModified": record.uploaded,
            "uploader": record.uploader,
            "pypi": {"name": record.name, "version": record.version},
        }


def encode_id(first: str, second: str) -> str:
    """Return an opaque id of two words."""
    return base64.urlsafe_b64encode(f"{first}\n{second}".encode()).decode().rstrip("=")


def decode_id(text: str) -> tuple[str, str]:
    """Return the two words of an id.

    Raises:
        Refused: 404 when it is no id of ours.
    """
    try:
        padded = text + "=" * (-len(text) % 4)
        first, _, second = base64.urlsafe_b64decode(padded).decode().partition("\n")
    except ValueError:
        raise Refused(404, f"{text!r} is no id of this index") from None
    return first, second
