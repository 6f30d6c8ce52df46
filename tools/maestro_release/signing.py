"""Sign and check statements: DSSE envelopes with Ed25519.

The key is the file that MAESTRO_SIGNING_KEY names, or .maestro/signing-key.pem,
made at the first release with mode 0600. Whoever verifies trusts the public
keys in tools/release-keys/*.pem, and the key of this checkout.

Source: the DSSE protocol, https://github.com/secure-systems-lab/dsse
"""

import base64
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

from maestro_release.errors import UsageFault, VerifyFailed

PAYLOAD_TYPE = "application/vnd.in-toto+json"
KEY = "signing-key.pem"
TRUSTED = Path("tools", "release-keys")


def signing_key(
    state: Path, environ: Mapping[str, str] = os.environ
) -> Ed25519PrivateKey:
    """Return the key to sign with; make one where there is none.

    Raises:
        UsageFault: the named file is no Ed25519 key.
    """
    named = environ.get("MAESTRO_SIGNING_KEY")
    path = Path(named) if named else state / KEY
    if not named and not path.exists():
        make_key(path)
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise UsageFault(f"{path} cannot be read as a signing key: {error}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise UsageFault(f"{path} is no Ed25519 key")
    return key


def make_key(path: Path) -> None:
    """Write a new key, readable by its owner alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    # A kill in the middle must not leave half a key where a key is expected.
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def trusted_keys(
    root: Path, state: Path, environ: Mapping[str, str] = os.environ
) -> dict[str, Ed25519PublicKey]:
    """Return the public keys that are trusted here, by their id.

    Raises:
        UsageFault: a file in tools/release-keys is no Ed25519 public key.
    """
    found = {}
    for path in sorted((root / TRUSTED).glob("*.pem")):
        try:
            key = serialization.load_pem_public_key(path.read_bytes())
        except ValueError as error:
            raise UsageFault(
                f"{path} cannot be read as a public key: {error}"
            ) from error
        if not isinstance(key, Ed25519PublicKey):
            raise UsageFault(f"{path} is no Ed25519 key")
        found[key_id(key)] = key
    if environ.get("MAESTRO_SIGNING_KEY") or (state / KEY).exists():
        mine = signing_key(state, environ).public_key()
        found[key_id(mine)] = mine
    return found


def key_id(key: Ed25519PublicKey) -> str:
    """Return the id of a key: the start of the SHA-256 of its raw bytes."""
    raw = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return hashlib.sha256(raw).hexdigest()[:16]


def public_pem(key: Ed25519PrivateKey) -> str:
    """Return the public half as text, to be put into tools/release-keys."""
    return (
        key.public_key()
        .public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        .decode()
    )


def signed(statement: Mapping[str, Any], key: Ed25519PrivateKey) -> dict[str, Any]:
    """Return an envelope around a statement."""
    payload = json.dumps(statement, sort_keys=True, separators=(",", ":")).encode()
    signature = key.sign(pre_authentication(PAYLOAD_TYPE, payload))
    return {
        "payloadType": PAYLOAD_TYPE,
        "payload": base64.b64encode(payload).decode(),
        "signatures": [
            {
                "keyid": key_id(key.public_key()),
                "sig": base64.b64encode(signature).decode(),
            }
        ],
    }


def opened(
    envelope: Mapping[str, Any], trusted: Mapping[str, Ed25519PublicKey]
) -> tuple[dict[str, Any], str]:
    """Return the statement in an envelope and the id of the key that signed it.

    Raises:
        VerifyFailed: no trusted key signed exactly these bytes.
    """
    try:
        payload = base64.b64decode(envelope["payload"], validate=True)
        kind = envelope["payloadType"]
        signatures = [
            (s["keyid"], base64.b64decode(s["sig"], validate=True))
            for s in envelope["signatures"]
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise VerifyFailed(f"this is no DSSE envelope: {error!r}") from error
    for keyid, signature in signatures:
        key = trusted.get(keyid)
        if key is None:
            continue
        try:
            key.verify(signature, pre_authentication(kind, payload))
        except InvalidSignature:
            raise VerifyFailed(
                f"the signature of key {keyid} does not fit: the statement was changed"
            ) from None
        statement: dict[str, Any] = json.loads(payload)
        return statement, keyid
    ids = ", ".join(keyid for keyid, _ in signatures) or "nobody"
    raise VerifyFailed(
        f"signed by {ids}, whom nobody here trusts; put the public key into {TRUSTED}/"
    )


def pre_authentication(kind: str, payload: bytes) -> bytes:
    """Return the bytes that are signed (DSSE's PAE)."""
    parts = [b"DSSEv1", b"%d" % len(kind), kind.encode(), b"%d" % len(payload), payload]
    return b" ".join(parts)
