"""Ed25519 signatures over a document, in an envelope (DSSE, "Dead Simple Signing Envelope")."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import Error
from securesystemslib.signer import CryptoSigner, Signature, SSlibKey

from visage_core.errors import InputError

PAYLOAD_TYPE = "application/vnd.in-toto+json"


class SigningKeyError(InputError):
    """A key that cannot be used."""


class NotSignedError(Exception):
    """An envelope that is not what the holder of the key wrote."""


def load_signer(path: Path) -> CryptoSigner:
    """The private key in a PEM file (PKCS8, without a passphrase). Raises SigningKeyError."""
    remedy = "Give a PEM file made by `openssl genpkey -algorithm ed25519`, without a passphrase"
    content = _read(path, "sign", remedy)
    try:
        key = load_pem_private_key(content, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise SigningKeyError(
            "sign", f"{path} holds no private key that can be read, or one with a passphrase", remedy
        ) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise SigningKeyError("sign", f"the key in {path} is not of the kind Ed25519", remedy)
    return CryptoSigner(key, _key(key.public_key()))


def load_key(path: Path) -> SSlibKey:
    """The public key in a PEM file. Raises SigningKeyError."""
    remedy = "Give the public half of an Ed25519 key, made by `openssl pkey -in KEY.pem -pubout`"
    content = _read(path, "key", remedy)
    try:
        key = load_pem_public_key(content)
    except (ValueError, UnsupportedAlgorithm):
        raise SigningKeyError("key", f"{path} holds no public key that can be read", remedy) from None
    if not isinstance(key, Ed25519PublicKey):
        raise SigningKeyError("key", f"the key in {path} is not of the kind Ed25519", remedy)
    return _key(key)


def enveloped(payload: bytes, signer: CryptoSigner) -> bytes:
    """The envelope of a signed payload, as a file's content."""
    envelope = Envelope(payload, PAYLOAD_TYPE, {})
    envelope.sign(signer)
    return _written(envelope)


def opened(content: bytes, key: SSlibKey) -> bytes:
    """The payload of an envelope that the key has signed. Raises NotSignedError where any byte of it is
    another than the one that was written."""
    try:
        envelope = Envelope.from_dict(json.loads(content))
    except (Error, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise NotSignedError("it is no envelope of a signature") from None
    signature = envelope.signatures.get(key.keyid)
    if signature is None:
        raise NotSignedError(
            f"it is not signed by this key, but by {', '.join(envelope.signatures) or 'none'}"
        )
    try:
        envelope.verify([key], 1)
    except Error:
        raise NotSignedError("its signature does not fit its content") from None
    # JSON and base64 can say the same in several ways, and what stands beside the signature is not signed.
    alone = {key.keyid: Signature(key.keyid, signature.signature)}
    if content != _written(Envelope(envelope.payload, PAYLOAD_TYPE, alone)):
        raise NotSignedError("it holds more than what is signed, or is not written as the gate does")
    return envelope.payload


def _read(path: Path, field: str, remedy: str) -> bytes:
    if str(path).startswith(("-----BEGIN", "LS0tLS")):
        # Not repeated here: errors end up in logs.
        raise SigningKeyError(field, "this is a key itself, and a path is asked for", remedy)
    try:
        return path.read_bytes()
    except OSError as error:
        raise SigningKeyError(field, f"{path} cannot be read: {error.strerror}", remedy) from None


def _key(key: Ed25519PublicKey) -> SSlibKey:
    """A public key under the SHA-256 of its DER form as its id, which openssl tells too."""
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return SSlibKey.from_crypto(key, hashlib.sha256(der).hexdigest())


def _written(envelope: Envelope) -> bytes:
    return (json.dumps(envelope.to_dict(), indent=2) + "\n").encode()
