"""Take a published version back: hide it from new installs, or remove it."""

from urllib.parse import quote

import requests

from maestro_release.errors import IndexFault
from maestro_release.index import Index


def yank(index: Index, name: str, version: str, reason: str | None) -> None:
    """Mark a version as yanked, or, with None, take the mark back.

    Installers then choose it only when it is asked for by `==`.

    Raises:
        IndexFault: the server cannot yank (Nexus cannot), or lacks the version.
    """
    path = f"/service/rest/maestro/yank/{quote(name)}/{quote(version)}"
    method = "DELETE" if reason is None else "PUT"
    response = index.request(
        method,
        path,
        accept="*/*",
        with_password=True,
        body=None if reason is None else reason.encode(),
    )
    if response.status_code == requests.codes.no_content:
        return
    if response.status_code == requests.codes.not_found:
        if files_of_version(index, name, version):
            raise IndexFault(
                f"{index.url} cannot yank: Nexus has no such mark for hosted files. "
                f"Publish a fixed version, or remove this one with "
                f"`maestro-release delete {name}=={version}`"
            )
        raise IndexFault(f"{name} {version} is not published on {index.url}")
    raise index.refusal(response.status_code, response.text)


def files_of_version(index: Index, name: str, version: str) -> list[str]:
    """Return the files of a version as the REST API lists them."""
    return [
        asset["path"].rsplit("/", 1)[-1]
        for component in index.components(name, version)
        for asset in component.get("assets", ())
    ]


def delete(index: Index, name: str, version: str) -> list[str]:
    """Remove a version with all its files; return them, none when there are none.

    The same version can be published again afterwards, with other bytes, and
    whoever installed the old ones will not notice: better raise the version.
    """
    removed = []
    for component in list(index.components(name, version)):
        response = index.request(
            "DELETE",
            f"/service/rest/v1/components/{quote(component['id'])}",
            accept="*/*",
            with_password=True,
        )
        if response.status_code not in {
            requests.codes.no_content,
            requests.codes.not_found,  # somebody else was faster
        }:
            raise index.refusal(response.status_code, response.text)
        removed += [a["path"].rsplit("/", 1)[-1] for a in component.get("assets", ())]
    return removed
