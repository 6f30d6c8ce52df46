"""Who signs checkpoints: an HMAC ratchet, or Ed25519 with `[crypto]`."""

from __future__ import annotations

import base64
import errno
import os
import secrets
from pathlib import Path
from typing import Protocol, final

from maestro_audit_logger._creation import checked_name
from maestro_audit_logger._files import Files
from maestro_audit_logger._note import HmacKey, epoch_of, next_key, seal
from maestro_audit_logger.errors import InvalidNote, KeyExists


class Signer(Protocol):
    """What signs checkpoints. `sign` runs under the log's lock."""

    @property
    def name(self) -> str:
        """The key's name, without spaces and plus signs."""

    @property
    def key_id(self) -> bytes:
        """The key's four-byte id."""

    def sign(self, text: bytes) -> bytes:
        """Return the signature over the text."""

    def retire(self, signature: bytes) -> None:
        """Forget what must not sign again, now that this signature is published.

        Called after publishing, and before the next signature once more for
        the last published one, in case a crash came in between.
        """


@final
class HmacRatchet:
    """Seal checkpoints with a key that is replaced after each seal.

    The file holds the next key only, in one line that is overwritten in place.
    `HmacRatchet.create` returns the start key as well: give it to the auditor
    and keep no copy on this machine.

    Args:
        path: the state file, mode 0600.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        _, self._name, self._key_id, _ = self._load()

    @classmethod
    def create(
        cls, path: str | os.PathLike[str], *, name: str
    ) -> tuple[HmacRatchet, HmacKey]:
        """Make a new ratchet, once; return it and the auditor's key.

        Raises:
            KeyExists: the file is there; `HmacRatchet(path)` opens it.
            InvalidSetting: the name has a space or a plus sign in it.
        """
        key = HmacKey(checked_name("name", name), secrets.token_bytes(32))
        line = _state_line(0, name, key.key_id, key.start)
        write_key(path, line, "HmacRatchet")
        return cls(path), key

    @property
    def name(self) -> str:
        """Return the key's name."""
        return self._name

    @property
    def key_id(self) -> bytes:
        """Return the id of the start key."""
        return self._key_id

    def sign(self, text: bytes) -> bytes:
        """Seal the text with the key of the present epoch."""
        epoch, _, _, key = self._load()
        return seal(key, epoch, text)

    def retire(self, signature: bytes) -> None:
        """Replace the key that made this published seal; idempotent."""
        epoch, name, identifier, key = self._load()
        if epoch > epoch_of(signature):
            return
        while epoch <= epoch_of(signature):
            epoch, key = epoch + 1, next_key(key)
        fd = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.pwrite(fd, _state_line(epoch, name, identifier, key), 0)
            os.fsync(fd)
        finally:
            os.close(fd)

    def _load(self) -> tuple[int, str, bytes, bytes]:
        try:
            epoch, name, identifier, key = self._path.read_text("utf-8").split()
            return int(epoch), name, bytes.fromhex(identifier), base64.b64decode(key)
        except ValueError as error:
            raise InvalidNote(f"{self._path}: not the state of a ratchet") from error


def write_key(path: str | os.PathLike[str], line: bytes, opener: str) -> None:
    """Write a key to a new file of mode 0600; none is left when that fails."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        fd = os.open(path, flags, 0o600)
    except FileExistsError:
        raise KeyExists(os.fspath(path), opener) from None
    try:
        if os.write(fd, line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fspath(path))
        os.fsync(fd)
        Files().sync_parent(Path(path))
    except BaseException:
        Path(path).unlink()
        raise
    finally:
        os.close(fd)


def _state_line(epoch: int, name: str, identifier: bytes, key: bytes) -> bytes:
    encoded = base64.b64encode(key).decode()
    return f"{epoch:020d} {name} {identifier.hex()} {encoded}\n".encode()
