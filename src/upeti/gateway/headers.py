"""Headers in both directions: rebuilt from allow-lists, never passed through.

What is not listed here does not cross the gateway: not the client's credentials, cookies or addresses, not the
provider's organisation, cookies or limits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from upeti.wire import deferral

# From the client to the provider. Accept decides an answer's form; the rest names optional parts of the APIs.
_TO_PROVIDER: Final = frozenset(
    {
        b"content-type",
        b"accept",
        b"openai-beta",
        b"anthropic-beta",
        b"anthropic-version",
        b"idempotency-key",
    }
)

# From the provider to the client, besides content-type and length, which are set anew.
_TO_CLIENT: Final = frozenset(
    {
        b"content-encoding",
        b"content-disposition",
        b"location",
        b"retry-after",
        b"retry-after-ms",
        b"x-should-retry",
        b"openai-processing-ms",
        b"openai-version",
        b"openai-model",
    }
)

# The provider's own id of the request, by its header.
_REQUEST_IDS: Final = (b"x-request-id", b"request-id", b"apim-request-id")

# Azure: the provisioned deployment that was full, in the answer of the standard one that took the call over.
SPILLOVER: Final = b"x-ms-spillover-from-deployment"

# Amazon: the type of an error, which its body does not say.
AMAZON_ERROR: Final = b"x-amzn-errortype"

# An own model leaves the call to the next candidate.
DEFERRED: Final = deferral.HEADER.encode()

# What the gateway itself needs of an answer's head.
_READ: Final = frozenset(
    {b"content-type", b"content-length", b"transfer-encoding", AMAZON_ERROR, SPILLOVER, DEFERRED, *_REQUEST_IDS}
)

_KEPT: Final = _TO_CLIENT | _READ
_NAMES_MAX: Final = 1024
known_names: dict[bytes, bytes] = {}  # what ``kept_name`` returned


def kept_name(name: bytes) -> bytes:
    """Return an answer header's name in lower case, or nothing when nobody needs it; remember it."""
    if len(known_names) >= _NAMES_MAX:
        known_names.clear()
    lower = name.lower()
    known_names[name] = lower if lower in _KEPT else b""
    return known_names[name]


def request_headers(sent: Mapping[bytes, bytes], defaults: Sequence[tuple[str, str]]) -> bytes:
    """Return the lines that go on to the provider; ``defaults`` are its own, sent unless the client sent them."""
    lines = b""
    for name in sent:
        if name in _TO_PROVIDER:
            lines += b"%b: %b\r\n" % (name, sent[name])
    for default, text in defaults:
        if default.encode() not in sent:
            lines += f"{default}: {text}\r\n".encode()
    return lines


def answer_headers(got: Mapping[bytes, bytes]) -> bytes:
    """Return the lines of the provider's answer that go on to the client."""
    lines = b""
    for name in got:
        if name in _TO_CLIENT:
            lines += b"%b: %b\r\n" % (name, got[name])
    return lines


def provider_request_id(got: Mapping[bytes, bytes]) -> str:
    for name in _REQUEST_IDS:
        if name in got:
            return got[name].decode("ascii", "replace")[:128]
    return ""
