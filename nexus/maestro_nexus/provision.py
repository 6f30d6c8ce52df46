"""Bring a Nexus to the wanted state; a second run changes nothing."""

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from maestro_nexus._api import Api, quoted
from maestro_nexus._desired import Resource, Settings, differences, resources
from maestro_nexus.errors import NexusError


@dataclass(frozen=True, slots=True)
class Step:
    """What was done to one thing: created, updated, unchanged, or skipped."""

    title: str
    done: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """A user to be there, with its role."""

    name: str
    role: str
    password: str | None = None  # only used when the user is created


def provision(
    api: Api,
    settings: Settings,
    accounts: tuple[Account, ...],
    *,
    keep_password: Callable[[str, str], object],
) -> Iterator[Step]:
    """Yield each step as it is done.

    Args:
        api: an administrator's access.
        settings: names and the upstream.
        accounts: users to be there.
        keep_password: called with user and password before a user with a new
            random password is created, so that it cannot be lost.

    Raises:
        NexusError: the server refused, or did not do what it confirmed.
    """
    yield accept_eula(api)
    yield anonymous_off(api)
    for resource in resources(settings):
        yield ensure(api, resource)
    for account in accounts:
        yield ensure_user(api, account, keep_password)


def ensure(api: Api, resource: Resource) -> Step:
    """Create or update one resource, and read it back.

    Raises:
        NexusError: it is not as wanted afterwards. A routing rule that was
            silently ignored would leave dependency confusion open.
    """
    before = api.get(resource.read)
    if before is None:
        api.post(resource.create, resource.body)
        done = "created"
    elif not wrong(resource, before):
        return Step(resource.title, "unchanged")
    elif resource.update is None:
        found = "; ".join(wrong(resource, before))
        raise NexusError(f"{resource.title} cannot be changed: {found}")
    else:
        api.put(resource.update, resource.body)
        done = "updated"
    left = wrong(resource, api.get(resource.read))
    if left:
        raise NexusError(f"{resource.title} was {done}, but {'; '.join(left)}")
    return Step(resource.title, done)


def wrong(resource: Resource, found: Any) -> list[str]:
    """Return how a resource differs from what is wanted."""
    compared = {k: v for k, v in resource.body.items() if k not in resource.write_only}
    return differences(compared, found)


def accept_eula(api: Api) -> Step:
    """Accept the licence: without it every repository request is refused."""
    status = api.get("/v1/system/eula")
    if status is None:
        return Step("licence", "skipped: this version asks for none")
    if status.get("accepted"):
        return Step("licence", "unchanged")
    # The text must come back word for word.
    api.post("/v1/system/eula", status | {"accepted": True})
    return Step("licence", "accepted")


def anonymous_off(api: Api) -> Step:
    """Switch anonymous access off."""
    found = api.get("/v1/security/anonymous") or {}
    wanted = {
        "enabled": False,
        "userId": "anonymous",
        "realmName": "NexusAuthorizingRealm",
    }
    if not differences(wanted, found):
        return Step("anonymous access", "unchanged")
    api.put("/v1/security/anonymous", wanted)
    return Step("anonymous access", "switched off")


def ensure_user(
    api: Api, account: Account, keep_password: Callable[[str, str], object]
) -> Step:
    """Create a user, or give one the right role; passwords stay as they are."""
    rows = api.get(f"/v1/security/users?userId={quoted(account.name)}") or []
    found = next((row for row in rows if row["userId"] == account.name), None)
    title = f"user {account.name}"
    if found is None:
        password = account.password or secrets.token_urlsafe(24)
        keep_password(account.name, password)
        api.post(
            "/v1/security/users",
            {
                "userId": account.name,
                "firstName": account.name,
                "lastName": "maestro",
                "emailAddress": f"{account.name}@localhost",
                "password": password,
                "status": "active",
                "roles": [account.role],
            },
        )
        return Step(title, "created")
    if account.role in found.get("roles", []) and found.get("status") == "active":
        return Step(title, "unchanged")
    roles = sorted({*found.get("roles", []), account.role})
    changed = found | {"roles": roles, "status": "active"}
    api.put(f"/v1/security/users/{quoted(account.name)}", changed)
    return Step(title, "updated")


def rotate(api: Api, user: str, *, keep_password: Callable[[str, str], object]) -> None:
    """Give a user a new random password; it is kept before it is set."""
    password = secrets.token_urlsafe(24)
    keep_password(user, password)
    api.put_text(f"/v1/security/users/{quoted(user)}/change-password", password)
