"""What a provider's error may hold and nobody but its reader is to see: keys, addresses of people, ids of accounts.

Rules: an excerpt for records, logs and lists is scrubbed of everything that looks like one of these, known or not. For
the client only the operator's own secret is taken out; everything else stays byte for byte. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

HIDDEN: Final = "[hidden]"
EXCERPT_LETTERS_MAX: Final = 500

# Each with what it is there for. Masked keys ("sk-proj-****abcd") still tell their ends.
_PATTERNS: Final = re.compile(
    "|".join(
        (
            r"eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)?",  # JSON web tokens (Microsoft Entra)
            r"(?i:bearer)\s+[^\s\"',;]{8,}",
            r"\b(?:sk|pk|rk|gsk|xai|fk|upeti|ghp|glpat|hf)[-_][A-Za-z0-9_*.-]{6,}",  # keys with the makers' prefixes
            r"\bAIza[A-Za-z0-9_*-]{10,}",  # Google
            r"\b(?:AKIA|ASIA)[A-Z0-9]{8,}",  # Amazon
            r"\b(?:org|proj|user|acct|team|wrkspc|workspace)[-_][A-Za-z0-9_-]{6,}",
            r"\bprojects/[0-9]{6,}",  # Google's project numbers
            r"\b[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}\b",  # Azure's subscriptions, tenants, principals
            r"\b[0-9a-fA-F]{32,}\b",  # Azure's older keys
            r"\b[A-Za-z0-9+/]{60,}={0,2}",  # … and its newer ones
            r"[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+",  # e-mail
        )
    )
)


def excerpt(body: bytes, secrets: Iterable[str] = ()) -> str:
    """Return the beginning of ``body`` for a record: one line, scrubbed, of at most ``EXCERPT_LETTERS_MAX`` letters."""
    # A key that the cut divides would not be known as one: the cut comes last.
    text = body[: 16 * EXCERPT_LETTERS_MAX].decode("utf-8", "replace")
    for secret in secrets:
        if secret:
            text = text.replace(secret, HIDDEN)
    text = _PATTERNS.sub(HIDDEN, text)
    return " ".join("".join(one if one.isprintable() else " " for one in text).split())[:EXCERPT_LETTERS_MAX]


def without(body: bytes, secret: str) -> bytes:
    """Return ``body`` without ``secret``, which may stand in it as it is or with JSON's escapes of a slash."""
    if not secret:
        return body
    plain = secret.encode()
    if plain in body:
        body = body.replace(plain, HIDDEN.encode())
    if b"/" in plain and (escaped := plain.replace(b"/", rb"\/")) in body:
        body = body.replace(escaped, HIDDEN.encode())
    return body
