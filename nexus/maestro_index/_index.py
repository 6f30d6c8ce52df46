"""What all requests share: the store, the upstream, the users, and who may do what."""

import re
import uuid
from dataclasses import dataclass, field

from starlette.requests import Request

from maestro_index._store import HostedStore
from maestro_index._upstream import Upstream
from maestro_index._users import User, Users
from maestro_index.errors import Refused

HOSTED, PROXY, GROUP = "pypi-hosted", "pypi-proxy", "pypi-group"


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """Everything that the requests share."""

    store: HostedStore
    upstream: Upstream
    users: Users
    anonymous: bool = True  # may read without a password
    private: re.Pattern[str] = field(default=re.compile(r"maestro-.*"))
    instance: str = field(default_factory=lambda: uuid.uuid4().hex)

    def reader(self, request: Request) -> None:
        """Let a reader pass.

        Raises:
            Refused: 401 for a wrong password, or for none where one is needed.
        """
        if self._user(request) is None and not self.anonymous:
            raise Refused(401, "this index wants a user and a password")

    def deployer(self, request: Request) -> User:
        """Return the user when they may upload and delete.

        Raises:
            Refused: 401 without a user, 403 without the right.
        """
        user = self._user(request)
        if user is None:
            raise Refused(401, "uploads want a user and a password")
        if not user.may_deploy:
            raise Refused(403, f"user {user.name!r} may not deploy")
        return user

    def _user(self, request: Request) -> User | None:
        return self.users.authenticate(request.headers.get("authorization"))


def of(request: Request) -> Index:
    """Return the index that a request is for."""
    found: Index = request.app.state.index
    return found
