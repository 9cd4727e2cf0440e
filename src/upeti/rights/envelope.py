"""Signed documents: DSSE envelopes (github.com/secure-systems-lab/dsse), signed with Ed25519.

Rules: what is signed is the payload's type and bytes together, so that a document cannot be passed off as one of another
kind. Whoever has the public key can check an envelope; nothing else of Upeti is needed. Pure.
"""

from __future__ import annotations

import base64
import binascii
import hashlib

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from upeti.core.errors import UpetiError


class SignatureError(UpetiError):
    """A document is not what was signed, or not by that key. The message says which."""


class _Signature(msgspec.Struct, frozen=True):
    keyid: str
    sig: str


class Envelope(msgspec.Struct, frozen=True, rename={"payload_type": "payloadType"}):
    """A payload with its signatures. ``payload`` is base64."""

    payload: str
    payload_type: str
    signatures: tuple[_Signature, ...]


class Signed(msgspec.Struct, frozen=True):
    """What an envelope holds once it was checked."""

    payload_type: str
    payload: bytes
    key_id: str  # of the key that signed it


def key_id(key: Ed25519PublicKey) -> str:
    """Return the SHA-256 of a public key's 32 bytes, in hex."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()


def seal(key: Ed25519PrivateKey, payload_type: str, payload: bytes) -> bytes:
    """Return the envelope of a payload, as JSON."""
    signature = key.sign(_authenticated(payload_type, payload))
    envelope = Envelope(
        base64.b64encode(payload).decode(),
        payload_type,
        (_Signature(key_id(key.public_key()), base64.b64encode(signature).decode()),),
    )
    return msgspec.json.format(msgspec.json.encode(envelope), indent=2) + b"\n"


def unseal(data: bytes, keys: list[Ed25519PublicKey]) -> Signed:
    """Return what an envelope holds when one of ``keys`` has signed it. Raises ``SignatureError``."""
    try:
        envelope = msgspec.json.decode(data, type=Envelope)
        payload = base64.b64decode(envelope.payload, validate=True)
        signatures = [(one.keyid, base64.b64decode(one.sig, validate=True)) for one in envelope.signatures]
    except (msgspec.MsgspecError, UnicodeDecodeError, binascii.Error) as error:
        raise SignatureError(f"this is no signed document (a DSSE envelope in JSON): {error}") from None
    known = {key_id(key): key for key in keys}
    named = [name for name, _ in signatures if name in known]
    if not named:
        signers = ", ".join(name[:16] for name, _ in signatures) or "nobody"
        raise SignatureError(f"it was signed by {signers}, which is none of the keys given: ask the signer for the key")
    for name, signature in signatures:
        if name in known:
            try:
                known[name].verify(signature, _authenticated(envelope.payload_type, payload))
            except InvalidSignature:
                raise SignatureError(
                    "the signature does not fit: the document was changed since it was signed"
                ) from None
    return Signed(envelope.payload_type, payload, named[0])


def _authenticated(payload_type: str, payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)
