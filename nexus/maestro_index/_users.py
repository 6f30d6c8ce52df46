"""Users and passwords: Basic authentication against a small file.

users.json, mode 0600: `{"v": 1, "users": {"deployer": {"salt": ..., "hash":
..., "deploy": true}}}`; hashes are scrypt (RFC 7914).
"""

import base64
import binascii
import hashlib
import hmac
import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from maestro_index.errors import Refused

REALM = 'BASIC realm="Sonatype Nexus Repository Manager"'
_SCRYPT = {"n": 2**14, "r": 8, "p": 1}


@dataclass(frozen=True, slots=True)
class User:
    """Somebody who has shown a right password."""

    name: str
    may_deploy: bool


class Users:
    """The users of one index."""

    def __init__(self, path: Path) -> None:
        """Read the file, or start with nobody."""
        self._path = path
        # scrypt takes 50 ms on purpose; a header that was right once is remembered
        # by its keyed hash, so that sixteen uploads pay for it once.
        self._key = secrets.token_bytes(32)
        self._right: dict[bytes, User] = {}
        try:
            self._users = json.loads(path.read_text(encoding="utf-8"))["users"]
        except FileNotFoundError:
            self._users = {}

    def add(self, name: str, password: str, *, may_deploy: bool) -> None:
        """Create a user or give one a new password."""
        salt = secrets.token_bytes(16)
        self._users[name] = {
            "salt": salt.hex(),
            "hash": hashlib.scrypt(password.encode(), salt=salt, **_SCRYPT).hex(),
            "deploy": may_deploy,
        }
        write_secret(self._path, {"v": 1, "users": self._users})
        self._right.clear()

    def authenticate(self, header: str | None) -> User | None:
        """Return who sent an Authorization header; None without one.

        Raises:
            Refused: 401 when the user or the password is wrong.
        """
        if header is None:
            return None
        key = hmac.digest(self._key, header.encode(), "sha256")
        known = self._right.get(key)
        if known:
            return known
        name, password = _decode(header)
        entry = self._users.get(name)
        if entry is None:
            raise Refused(401, "unknown user or wrong password")
        salt = bytes.fromhex(entry["salt"])
        shown = hashlib.scrypt(password.encode(), salt=salt, **_SCRYPT)
        if not hmac.compare_digest(shown.hex(), entry["hash"]):
            raise Refused(401, "unknown user or wrong password")
        user = User(name, bool(entry["deploy"]))
        self._right[key] = user
        return user


def _decode(header: str) -> tuple[str, str]:
    scheme, _, value = header.partition(" ")
    try:
        text = base64.b64decode(value, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        raise Refused(401, "the Authorization header is not Basic") from None
    name, colon, password = text.partition(":")
    if scheme.lower() != "basic" or not colon:
        raise Refused(401, "the Authorization header is not Basic")
    return name, password


def write_secret(path: Path, content: object) -> None:
    """Write JSON that only the owner may read, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
