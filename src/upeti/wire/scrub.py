"""What a provider's error may hold and nobody but its reader is to see: keys, addresses of people, ids of accounts.

Rules: an excerpt for records, logs and lists is scrubbed of everything that looks like one of these, known or not, and of
what it repeats of the request: words of users are in no record. For the client only the operator's own secret is taken
out; everything else stays byte for byte. Pure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

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


# An error repeats a value of the request whole, or a piece of it: shorter pieces are words that every text has.
_VALUE_LETTERS_MIN: Final = 3
_PIECE_LETTERS_MIN: Final = 12
_STEP_LETTERS: Final = _PIECE_LETTERS_MIN // 2  # a piece that is long enough has one of these wherever it begins
_ASKED_BYTES_MAX: Final = (
    1 << 20
)  # to compare takes milliseconds; a longer request has its error recorded without words
# Names of fields whose values say nothing of anybody, and that an error should be able to name.
_PLAIN_FIELDS: Final = frozenset({"model", "role", "type"})


def excerpt(body: bytes, secrets: Iterable[str] = (), asked: bytes = b"") -> str:
    """Return the beginning of ``body`` for a record: one line, scrubbed, of at most ``EXCERPT_LETTERS_MAX`` letters.

    ``asked`` is the body of the request that ``body`` answers: what is repeated of it is taken out too.
    """
    for secret in secrets:
        body = without(body, secret)
    # A key that the cut divides would not be known as one: the cut comes last.
    text = body[: 16 * EXCERPT_LETTERS_MAX].decode("utf-8", "replace")
    if asked:
        text = _without_asked(text, asked)
    text = _PATTERNS.sub(HIDDEN, text)
    return " ".join("".join(one if one.isprintable() else " " for one in text).split())[:EXCERPT_LETTERS_MAX]


def _without_asked(text: str, asked: bytes) -> str:
    if len(asked) > _ASKED_BYTES_MAX:
        return HIDDEN
    try:
        values = set(_values(json.loads(asked)))
    except (ValueError, RecursionError):  # no JSON: a text as a whole
        values = {asked.decode("utf-8", "replace")}
    # Errors repeat values as they are, or as JSON writes them, with and without letters beyond ASCII.
    forms = values | {json.dumps(one, ensure_ascii=ascii)[1:-1] for one in values for ascii in (False, True)}
    for value in sorted((one for one in forms if one in text), key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(value)}(?!\w)", HIDDEN, text)
    return _without_pieces(text, "\0".join(forms))


def _without_pieces(text: str, asked: str) -> str:
    """Take out every run of letters, long enough to be no chance, that is in ``asked`` too."""
    made: list[str] = []
    start = at = 0
    while at + _STEP_LETTERS <= len(text):
        found = asked.find(text[at : at + _STEP_LETTERS])
        first, last = at, at + _STEP_LETTERS
        while found >= 0 and last - first < _PIECE_LETTERS_MIN:
            first, last = _common(text, start, at, asked, found)
            found = asked.find(text[at : at + _STEP_LETTERS], found + 1)
        if last - first >= _PIECE_LETTERS_MIN:
            made += [text[start:first], HIDDEN]
            start = at = last
        else:
            at += _STEP_LETTERS
    return "".join((*made, text[start:]))


def _common(text: str, start: int, at: int, asked: str, found: int) -> tuple[int, int]:
    """Return how far the letters at ``at`` and at ``found`` agree, not before ``start``."""
    first, before = at, found
    while first > start and before and text[first - 1] == asked[before - 1]:
        first, before = first - 1, before - 1
    last, after = at, found
    while last < len(text) and after < len(asked) and text[last] == asked[after]:
        last, after = last + 1, after + 1
    return first, last


def _values(value: Any, name: str = "") -> Iterator[str]:
    if isinstance(value, str):
        if name not in _PLAIN_FIELDS and len(value) >= _VALUE_LETTERS_MIN:
            yield value
    elif isinstance(value, dict):
        for key, one in value.items():
            yield from _values(one, key)
    elif isinstance(value, list):
        for one in value:
            yield from _values(one, name)


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
