"""Signed notes, checkpoints and verification keys.

Sources: C2SP signed-note, tlog-checkpoint, tlog-proof.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from maestro_audit_logger._ed25519 import ed25519_verify
from maestro_audit_logger._merkle import HASH_BYTES, verify_inclusion
from maestro_audit_logger.errors import InvalidNote, InvalidProof, UntrustedNote

ED25519 = 0x01
HMAC_TYPE = b"\xffmaestro-audit/hmac-v1"
MAX_SIGNATURES = 64
PROOF_HEADER = "c2sp.org/tlog-proof@v1"
_KEY_NAME = re.compile(r"[^\s+]+\Z")
_NUMBER = re.compile(r"(0|[1-9][0-9]{0,18})\Z", re.ASCII)
_SIGNATURE = re.compile(r"— (\S+) (\S+)\Z")


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature line of a note."""

    name: str
    key_id: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class Note:
    """A text and the signatures under it, not yet checked."""

    text: str
    signatures: tuple[Signature, ...]

    def __str__(self) -> str:
        lines = [signature_line(s.name, s.key_id, s.value) for s in self.signatures]
        return f"{self.text}\n{''.join(lines)}"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The size and root hash of a log at one moment."""

    origin: str
    size: int
    root: bytes

    @property
    def text(self) -> str:
        """Return the note text of C2SP tlog-checkpoint."""
        return f"{self.origin}\n{self.size}\n{_b64(self.root)}\n"


class VerificationKey(Protocol):
    """What checks a signature: an Ed25519 public key or an HMAC start key."""

    @property
    def name(self) -> str:
        """The key's name, as in the signature line."""

    @property
    def key_id(self) -> bytes:
        """The key's four-byte id."""

    def verify(self, text: bytes, signature: bytes) -> bool:
        """Tell whether the signature is this key's over this text."""


@dataclass(frozen=True, slots=True)
class Ed25519Key:
    """A public key; `str()` gives its vkey, `parse_key` reads it."""

    name: str
    public: bytes

    @property
    def key_id(self) -> bytes:
        """Return SHA-256(name || LF || type || key)[:4]."""
        return key_id(self.name, bytes([ED25519]) + self.public)

    def verify(self, text: bytes, signature: bytes) -> bool:
        """Tell whether the signature is this key's over this text."""
        return ed25519_verify(self.public, text, signature)

    def __str__(self) -> str:
        body = _b64(bytes([ED25519]) + self.public)
        return f"{self.name}+{self.key_id.hex()}+{body}"


@dataclass(frozen=True, slots=True)
class HmacKey:
    """The first key of a ratchet, which the auditor keeps; a secret.

    Seal number n is made with key n, where key n+1 = HMAC(key n, "next"). Who
    breaks in after seal n finds key n+1 and cannot remake earlier seals.
    """

    name: str
    start: bytes = field(repr=False)

    @property
    def key_id(self) -> bytes:
        """Return the public id, from which the key cannot be found."""
        public = hmac.digest(self.start, b"id", "sha256")
        return key_id(self.name, HMAC_TYPE + public)

    def at(self, epoch: int) -> bytes:
        """Return the key of one epoch; O(epoch)."""
        key = self.start
        for _ in range(epoch):
            key = next_key(key)
        return key

    def verify(self, text: bytes, signature: bytes) -> bool:
        """Tell whether the seal was made with the key of its epoch."""
        if len(signature) != 8 + HASH_BYTES:
            return False
        key = self.at(min(epoch_of(signature), 1 << 24))
        return hmac.compare_digest(seal(key, epoch_of(signature), text), signature)

    def __str__(self) -> str:
        return f"HMAC+KEY+{self.name}+{self.key_id.hex()}+{_b64(self.start)}"


def next_key(key: bytes) -> bytes:
    """Return the key of the next epoch."""
    return hmac.digest(key, b"next", "sha256")


def seal(key: bytes, epoch: int, text: bytes) -> bytes:
    """Return the seal of a text: its epoch in 8 bytes, then the HMAC."""
    number = epoch.to_bytes(8, "big")
    return number + hmac.digest(key, number + text, "sha256")


def epoch_of(signature: bytes) -> int:
    """Return the epoch that a seal claims."""
    return int.from_bytes(signature[:8], "big")


def key_id(name: str, typed_key: bytes) -> bytes:
    """Return the four-byte key id of C2SP signed-note."""
    return hashlib.sha256(name.encode() + b"\n" + typed_key).digest()[:4]


def signature_line(name: str, key_id: bytes, value: bytes) -> str:
    """Return one signature line, with its newline."""
    return f"— {name} {_b64(key_id + value)}\n"


def parse_note(note: str) -> Note:
    """Split a note into text and signatures.

    Raises:
        InvalidNote: it is not a note, or a signature line is malformed.
    """
    if any(ord(letter) < 0x20 and letter != "\n" for letter in note):
        raise InvalidNote("expected no control characters in a note")
    text, gap, tail = note.rpartition("\n\n")
    if not gap or (tail and not tail.endswith("\n")):
        raise InvalidNote("expected a text, an empty line and signature lines")
    lines = tail[:-1].split("\n") if tail else []
    if len(lines) > MAX_SIGNATURES:
        raise InvalidNote(f"expected at most {MAX_SIGNATURES} signatures")
    return Note(text + "\n", tuple(_parse_signature(line) for line in lines))


def parse_checkpoint(text: str) -> Checkpoint:
    """Read the text of a checkpoint.

    Raises:
        InvalidNote: it has not the three lines of tlog-checkpoint.
    """
    lines = text.split("\n")
    if len(lines) < 4 or lines[-1]:
        raise InvalidNote("expected three lines: origin, size, root hash")
    origin, size, root = lines[:3]
    if not origin:
        raise InvalidNote("expected an origin in the first line, got an empty one")
    if not _NUMBER.match(size):
        raise InvalidNote(f"expected a size without signs or zeros, got {size!r}")
    return Checkpoint(origin, int(size), _hash(root))


def verify_note(note: Note, keys: Sequence[VerificationKey]) -> list[Signature]:
    """Return the signatures by known keys, all of them checked.

    Raises:
        UntrustedNote: none is by a known key, or one of those is false.
    """
    known = {(key.name, key.key_id): key for key in keys}
    good: list[Signature] = []
    for signature in note.signatures:
        key = known.get((signature.name, signature.key_id))
        if key is None:
            continue
        if not key.verify(note.text.encode(), signature.value):
            raise UntrustedNote(f"the signature by {signature.name} is false")
        good.append(signature)
    if not good:
        names = ", ".join(sorted(key.name for key in keys)) or "none given"
        raise UntrustedNote(f"no signature by a known key ({names})")
    return good


def parse_key(text: str) -> Ed25519Key | HmacKey:
    """Read a vkey (`name+id+base64`) or the auditor's key (`HMAC+KEY+...`).

    Raises:
        InvalidNote: malformed, or the id does not belong to the key.
    """
    text = text.strip()
    is_hmac = text.startswith("HMAC+KEY+")
    parts = text.removeprefix("HMAC+KEY+").split("+", 2)
    if len(parts) != 3 or not _KEY_NAME.match(parts[0]):
        raise InvalidNote("expected a key as name+id+base64")
    name, identifier, body = parts
    raw = _unb64(body)
    key: Ed25519Key | HmacKey
    if is_hmac and len(raw) == HASH_BYTES:
        key = HmacKey(name, raw)
    elif not is_hmac and len(raw) == HASH_BYTES + 1 and raw[0] == ED25519:
        key = Ed25519Key(name, raw[1:])
    else:
        raise InvalidNote(f"the key {name} is of an unknown kind or length")
    if key.key_id.hex() != identifier:
        raise InvalidNote(
            f"the key {name} says id {identifier}, its bytes say {key.key_id.hex()}"
        )
    return key


@dataclass(frozen=True, slots=True)
class Proof:
    """That one entry is in the log: C2SP tlog-proof."""

    index: int
    path: tuple[bytes, ...]
    note: str

    def __str__(self) -> str:
        hashes = "".join(f"{_b64(step)}\n" for step in self.path)
        return f"{PROOF_HEADER}\nindex {self.index}\n{hashes}\n{self.note}"

    def check(self, entry: bytes, keys: Sequence[VerificationKey]) -> Checkpoint:
        """Check entry, path and signature; return the checkpoint proven against.

        Without keys only the arithmetic is checked, not who vouches for it.

        Raises:
            InvalidProof: the entry is not in that tree.
            UntrustedNote: the checkpoint is not by a known key.
        """
        note = parse_note(self.note)
        if keys:
            verify_note(note, keys)
        checkpoint = parse_checkpoint(note.text)
        leaf = hashlib.sha256(b"\0" + entry).digest()
        verify_inclusion(leaf, self.index, checkpoint.size, self.path, checkpoint.root)
        return checkpoint


def parse_proof(text: str) -> Proof:
    """Read a tlog-proof.

    Raises:
        InvalidProof: it is malformed.
    """
    head, gap, note = text.partition("\n\n")
    lines = head.split("\n")
    if not gap or lines[0] != PROOF_HEADER:
        raise InvalidProof(f"expected a proof that starts with {PROOF_HEADER!r}")
    rest = lines[2:] if lines[1:] and lines[1].startswith("extra ") else lines[1:]
    if not rest or not rest[0].startswith("index "):
        raise InvalidProof("expected a line 'index N'")
    index = rest[0].removeprefix("index ")
    if not _NUMBER.match(index):
        raise InvalidProof(f"expected an index without signs or zeros, got {index!r}")
    try:
        path = tuple(_hash(line) for line in rest[1:])
    except InvalidNote as error:
        raise InvalidProof(str(error)) from error
    return Proof(int(index), path, note)


def _parse_signature(line: str) -> Signature:
    match = _SIGNATURE.match(line)
    if not match or not _KEY_NAME.match(match[1]):
        raise InvalidNote(f"expected '— name base64', got {line!r}")
    raw = _unb64(match[2])
    if len(raw) <= 4:
        raise InvalidNote(f"the signature by {match[1]} is too short")
    return Signature(match[1], raw[:4], raw[4:])


def _hash(text: str) -> bytes:
    raw = _unb64(text)
    if len(raw) != HASH_BYTES:
        raise InvalidNote(f"expected a hash of 32 bytes, got {len(raw)}")
    return raw


def _b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _unb64(text: str) -> bytes:
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidNote(f"expected base64, got {text!r}") from error
    if _b64(raw) != text:
        raise InvalidNote(f"expected base64 in its one correct form, got {text!r}")
    return raw
