"""Simple pages: PEP 503 as HTML, PEP 691 and 700 as JSON, from one list of rows."""

import html
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from maestro_index._store import FileRecord
from maestro_index._upstream import UpstreamFile

JSON_TYPE = "application/vnd.pypi.simple.v1+json"
HTML_TYPE = "text/html"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One file on a page."""

    filename: str
    version: str
    url: str
    sha256: str | None
    requires_python: str | None
    metadata_sha256: str | None
    has_metadata: bool
    yanked: str | None
    size: int | None
    uploaded: str | None


def hosted_row(record: FileRecord, prefix: str) -> Row:
    """Return the row of a hosted file; `prefix` leads to the repository."""
    return Row(
        filename=record.filename,
        version=record.version,
        url=prefix + record.path,
        sha256=record.sha256,
        requires_python=record.requires_python,
        metadata_sha256=record.metadata_sha256,
        has_metadata=record.metadata_sha256 is not None,
        yanked=record.yanked,
        size=record.size,
        uploaded=record.uploaded,
    )


def upstream_row(file: UpstreamFile, name: str, prefix: str) -> Row:
    """Return the row of a proxied file; `prefix` leads to the repository."""
    return Row(
        filename=file.filename,
        version=file.version,
        url=f"{prefix}packages/{name}/{file.version}/{file.filename}",
        sha256=file.sha256,
        requires_python=file.requires_python,
        metadata_sha256=file.metadata_sha256,
        has_metadata=file.offers_metadata,
        yanked=file.yanked,
        size=file.size,
        uploaded=file.uploaded,
    )


def wants_json(accept: str) -> bool:
    """Decide by the Accept header; HTML when in doubt, as pip's oldest version."""
    weights: dict[str, float] = {}
    for part in accept.split(","):
        kind, *parameters = [piece.strip() for piece in part.split(";")]
        weight = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                try:
                    weight = float(parameter[2:])
                except ValueError:
                    weight = 0.0
        weights[kind.lower()] = weight
    as_json = max(
        weights.get(JSON_TYPE, 0.0),
        weights.get("application/vnd.pypi.simple.latest+json", 0.0),
    )
    as_html = max(
        weights.get(HTML_TYPE, 0.0),
        weights.get("application/vnd.pypi.simple.v1+html", 0.0),
    )
    return as_json > 0 and as_json >= as_html


def project_html(name: str, rows: Iterable[Row]) -> str:
    """Return the PEP 503 page of one project."""
    lines = [_link(row) for row in rows]
    title = html.escape(f"Links for {name}")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="pypi:repository-version" content="1.1">'
        f"<title>{title}</title></head>\n<body><h1>{title}</h1>\n"
        + "".join(f"{line}<br/>\n" for line in lines)
        + "</body></html>\n"
    )


def _link(row: Row) -> str:
    attributes = [("href", row.url + (f"#sha256={row.sha256}" if row.sha256 else ""))]
    if row.requires_python:
        attributes.append(("data-requires-python", row.requires_python))
    if row.has_metadata:
        value = f"sha256={row.metadata_sha256}" if row.metadata_sha256 else "true"
        attributes += [
            ("data-dist-info-metadata", value),
            ("data-core-metadata", value),
        ]
    if row.yanked is not None:
        attributes.append(("data-yanked", row.yanked))
    text = " ".join(f'{key}="{html.escape(value)}"' for key, value in attributes)
    return f'<a {text} rel="internal">{html.escape(row.filename)}</a>'


def project_json(name: str, rows: Sequence[Row]) -> str:
    """Return the PEP 691 document of one project, with PEP 700's fields."""
    return json.dumps(
        {
            "meta": {"api-version": "1.1"},
            "name": name,
            "versions": list(dict.fromkeys(row.version for row in rows)),
            "files": [_file(row) for row in rows],
        }
    )


def _file(row: Row) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "filename": row.filename,
        "url": row.url,
        "hashes": {"sha256": row.sha256} if row.sha256 else {},
        "yanked": row.yanked or (row.yanked is not None),
    }
    if row.size is not None:
        fields["size"] = row.size
    if row.requires_python:
        fields["requires-python"] = row.requires_python
    if row.has_metadata:
        known = {"sha256": row.metadata_sha256} if row.metadata_sha256 else True
        fields["core-metadata"] = fields["dist-info-metadata"] = known
    if row.uploaded:
        fields["upload-time"] = row.uploaded
    return fields


def root_html(names: Iterable[str]) -> str:
    """Return the PEP 503 page that lists the projects."""
    links = "".join(f'<a href="{n}/">{n}</a><br/>\n' for n in map(html.escape, names))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>Simple index</title></head>\n<body>\n{links}</body></html>\n"
    )


def root_json(names: Iterable[str]) -> str:
    """Return the PEP 691 document that lists the projects."""
    projects = [{"name": name} for name in names]
    return json.dumps({"meta": {"api-version": "1.1"}, "projects": projects})
