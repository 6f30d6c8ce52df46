"""Read the pages of an index: PEP 691 (JSON) and PEP 503 (HTML)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedFile:
    """One file as a page of the index offers it."""

    filename: str
    url: str  # without fragment
    sha256: str | None  # None: the page does not say
    yanked: str | None = None  # the reason, may be empty


def json_files(page: Mapping[str, Any], base: str) -> list[PublishedFile]:
    """Read a page of PEP 691."""
    return [
        PublishedFile(
            filename=file["filename"],
            url=urljoin(base, file["url"]).split("#")[0],
            sha256=file.get("hashes", {}).get("sha256"),
            yanked=yank_reason(file.get("yanked", False)),
        )
        for file in page["files"]
    ]


def yank_reason(yanked: bool | str) -> str | None:  # noqa: FBT001  # the page's own type
    """Return the reason for a yank, or None when the file is not yanked."""
    if isinstance(yanked, str):
        return yanked
    return "" if yanked else None


def html_files(name: str, text: str, base: str) -> list[PublishedFile]:
    """Read a page of PEP 503."""
    from pypi_simple import ProjectPage  # 0.5 s, and only needed without JSON

    page = ProjectPage.from_html(name, text, base_url=base)
    return [
        PublishedFile(
            filename=file.filename,
            url=file.url,
            sha256=file.digests.get("sha256"),
            yanked=(file.yanked_reason or "") if file.is_yanked else None,
        )
        for file in page.packages
    ]
