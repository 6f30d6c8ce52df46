"""What a Nexus for these packages looks like: data only."""

from dataclasses import dataclass, field
from typing import Any

from maestro_nexus._api import quoted

# Names that must never come from the proxy: a group merges its members file by
# file, so a public maestro-resilience 99.0 would be offered beside ours.
PRIVATE = ["^/simple/maestro[-_.].*", "^/packages/maestro[-_.].*"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What differs between servers."""

    upstream: str  # the index behind the proxy, without /simple
    blob_store: str = "maestro"
    hosted: str = "pypi-hosted"
    proxy: str = "pypi-proxy"
    group: str = "pypi-group"
    keep_days: int = 30  # files of the proxy that nobody asked for


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """One thing on the server: where it is read, made and changed."""

    title: str
    read: str
    create: str
    update: str | None  # None: cannot be changed once made
    body: dict[str, Any]
    # Sent, but not compared: not echoed, or spelled differently by versions.
    write_only: frozenset[str] = field(default_factory=frozenset)


RULE = "maestro-private"  # the routing rule


def resources(settings: Settings) -> list[Resource]:
    """Return everything in the order in which it must be made."""
    return [*places(settings), *repositories(settings), *roles(settings)]


def places(settings: Settings) -> list[Resource]:
    """Return what the repositories refer to: blob store, routing rule, cleanup."""
    return [
        Resource(
            title=f"blob store {settings.blob_store}",
            read=f"/v1/blobstores/file/{quoted(settings.blob_store)}",
            create="/v1/blobstores/file",
            update=None,
            body={"name": settings.blob_store, "path": settings.blob_store},
            write_only=frozenset({"name"}),
        ),
        _named(
            "routing rule", RULE, "/v1/routing-rules",
            {
                "description": "maestro-* is ours: never from the proxy",
                "mode": "BLOCK",
                "matchers": PRIVATE,
            },
        ),
        _named(
            "cleanup policy", policy_name(settings), "/v1/cleanup-policies",
            {
                "format": "pypi",
                "notes": "files of the proxy that nobody asked for",
                "criteriaLastDownloaded": settings.keep_days,
            },
        ),
    ]  # fmt: skip


def repositories(settings: Settings) -> list[Resource]:
    """Return the hosted repository, the proxy and the group."""
    storage = {
        "blobStoreName": settings.blob_store,
        "strictContentTypeValidation": True,
    }
    return [
        _repository(
            "hosted", settings.hosted,
            {
                "storage": storage | {"writePolicy": "allow_once"},
                "cleanup": {"policyNames": []},
                "component": {"proprietaryComponents": True},
            },
        ),
        _repository(
            "proxy", settings.proxy,
            {
                "storage": storage,
                "cleanup": {"policyNames": [policy_name(settings)]},
                "proxy": {
                    "remoteUrl": settings.upstream,
                    "contentMaxAge": 1440,
                    "metadataMaxAge": 1440,
                },
                "negativeCache": {"enabled": True, "timeToLive": 60},
                "httpClient": {"blocked": False, "autoBlock": True},
                # 3.77 reads the one, 3.96 the other.
                "routingRule": RULE,
                "routingRuleName": RULE,
            },
            write_only=frozenset({"routingRule"}),
        ),
        _repository(
            "group", settings.group,
            {
                "storage": storage,
                "group": {"memberNames": [settings.hosted, settings.proxy]},
            },
        ),
    ]  # fmt: skip


def roles(settings: Settings) -> list[Resource]:
    """Return who may do what."""
    return [
        _role("maestro-read", "install packages", [(settings.group, "browse", "read")]),
        _role(
            "maestro-deploy", "publish, list and take back packages",
            [(settings.hosted, "browse", "read", "add", "edit", "delete"),
             (settings.group, "browse", "read")],
        ),
    ]  # fmt: skip


def policy_name(settings: Settings) -> str:
    """Return the name of the cleanup policy."""
    return f"{settings.proxy}-unused"


def _named(kind: str, name: str, path: str, body: dict[str, Any]) -> Resource:
    at = f"{path}/{quoted(name)}"
    return Resource(
        title=f"{kind} {name}",
        read=at,
        create=path,
        update=at,
        body={"name": name} | body,
    )


def _repository(
    kind: str, name: str, body: dict[str, Any], write_only: frozenset[str] = frozenset()
) -> Resource:
    path = f"/v1/repositories/pypi/{kind}"
    return Resource(
        title=f"{kind} repository {name}",
        read=f"{path}/{quoted(name)}",
        create=path,
        update=f"{path}/{quoted(name)}",
        body={"name": name, "online": True} | body,
        write_only=write_only,
    )


def _role(name: str, description: str, rights: list[tuple[str, ...]]) -> Resource:
    privileges = [
        f"nx-repository-view-pypi-{repository}-{action}"
        for repository, *actions in rights
        for action in actions
    ]
    path = f"/v1/security/roles/{quoted(name)}"
    body = {
        "id": name,
        "name": name,
        "description": description,
        "privileges": privileges,
        "roles": [],
    }
    return Resource(
        title=f"role {name}",
        read=path,
        create="/v1/security/roles",
        update=path,
        body=body,
    )


def differences(wanted: Any, found: Any, where: str = "") -> list[str]:
    """Return how what was found differs from what is wanted.

    More than is wanted is no difference; the order of lists of names does not
    count, except where Nexus gives it a meaning (memberNames).
    """
    if isinstance(wanted, dict):
        if not isinstance(found, dict):
            return [f"{where or 'it'} is missing"]
        return [
            text
            for key, value in wanted.items()
            for text in differences(value, found.get(key), f"{where}.{key}".strip("."))
        ]
    if isinstance(wanted, list) and isinstance(found, list):
        ordered = where.endswith("memberNames")
        same = wanted == found if ordered else sorted(wanted) == sorted(found)
        return [] if same else [f"{where} is {found!r}, wanted {wanted!r}"]
    if isinstance(wanted, str) and isinstance(found, str):
        # Versions differ in case: ALLOW_ONCE and allow_once are one policy.
        return (
            []
            if wanted.lower() == found.lower()
            else [f"{where} is {found!r}, wanted {wanted!r}"]
        )
    return [] if wanted == found else [f"{where} is {found!r}, wanted {wanted!r}"]
