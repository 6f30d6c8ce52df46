"""Sign checkpoints with Ed25519; needs the extra `crypto`."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import TYPE_CHECKING, final

from maestro_audit_logger._creation import checked_name
from maestro_audit_logger._note import ED25519, Ed25519Key
from maestro_audit_logger._signers import write_key
from maestro_audit_logger.errors import InvalidNote

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_PREFIX = "PRIVATE+KEY+"


def _algorithm() -> type[Ed25519PrivateKey]:
    """Return cryptography's class; this module can be imported without it."""
    try:
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise ImportError(
            "signing with Ed25519 needs cryptography: "
            'pip install "maestro-audit-logger[crypto]"'
        ) from error
    return ed25519.Ed25519PrivateKey


@final
class Ed25519Signer:
    """Sign with a private key; anybody can check with `public`.

    Raises:
        ImportError: the extra `crypto` is not installed.
        InvalidSetting: the name has a space or a plus sign in it.
    """

    def __init__(self, name: str, private: bytes) -> None:
        checked_name("name", name)
        self._private = _algorithm().from_private_bytes(private)
        public = self._private.public_key().public_bytes_raw()
        self.public = Ed25519Key(name, public)

    @classmethod
    def generate(cls, name: str) -> Ed25519Signer:
        """Make a new key pair."""
        return cls(name, _algorithm().generate().private_bytes_raw())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Ed25519Signer:
        """Read a key that `save` has written.

        Raises:
            InvalidNote: the file holds no such key.
        """
        text = Path(path).read_text("utf-8").strip()
        parts = text.removeprefix(_PREFIX).split("+", 2)
        if not text.startswith(_PREFIX) or len(parts) != 3:
            raise InvalidNote(f"{path}: expected PRIVATE+KEY+name+id+base64")
        try:
            raw = base64.b64decode(parts[2])
        except ValueError as error:
            raise InvalidNote(f"{path}: expected base64 after the id") from error
        if len(raw) != 33 or raw[0] != ED25519:
            raise InvalidNote(f"{path}: not an Ed25519 key")
        signer = cls(parts[0], raw[1:])
        if signer.key_id.hex() != parts[1]:
            raise InvalidNote(f"{path}: the id does not belong to the key")
        return signer

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the private key to a new file of mode 0600.

        Raises:
            KeyExists: the file is there.
        """
        raw = bytes([ED25519]) + self._private.private_bytes_raw()
        body = base64.b64encode(raw).decode()
        line = f"{_PREFIX}{self.name}+{self.key_id.hex()}+{body}\n"
        write_key(path, line.encode(), "Ed25519Signer.load")

    @property
    def name(self) -> str:
        """Return the key's name."""
        return self.public.name

    @property
    def key_id(self) -> bytes:
        """Return the key's four-byte id."""
        return self.public.key_id

    def sign(self, text: bytes) -> bytes:
        """Return the 64-byte signature over the text."""
        return self._private.sign(text)

    def retire(self, signature: bytes) -> None:
        """Do nothing: this key signs for ever."""
