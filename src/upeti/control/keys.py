"""Client keys: 256 random bits that are shown once, and the row that knows their digest."""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from datetime import UTC, datetime
from typing import Final

import msgspec

from upeti.core.amount import AmountError, parse_pico
from upeti.core.config import Name
from upeti.core.errors import ConfigError

KEY_PREFIX: Final = "upeti-"
_SPAN: Final = re.compile(r"(\d+)([hdw])")
_SPAN_S: Final = {"h": 3600, "d": 86_400, "w": 7 * 86_400}


class KeyRow(msgspec.Struct, frozen=True):
    """A client key as the state keeps it: never the key, only its digest."""

    id: str
    sha256: str  # hex
    tenant: str
    project: str = ""
    feature: str = ""
    routes: tuple[str, ...] = ()  # empty: all
    limit_pico: int | None = None
    created_ns: int = 0
    expires_ns: int = 0  # 0: never
    revoked_ns: int = 0  # 0: not revoked


class KeyRequest(msgspec.Struct, frozen=True):
    """What a key is to be, as people write it."""

    tenant: str
    project: str = ""
    feature: str = ""
    limit: str = ""  # decimal USD; empty: no limit
    routes: tuple[str, ...] = ()  # empty: all
    expires: str = ""  # a date, a time, or a span such as 30d; empty: never


def make_key(wanted: KeyRequest) -> tuple[str, KeyRow]:
    """Return a new key and its row. Raises ``ConfigError`` for what does not fit."""
    now_ns = time.time_ns()
    key = KEY_PREFIX + secrets.token_hex(32)
    row = KeyRow(
        id=f"k-{secrets.token_hex(6)}",
        sha256=hashlib.sha256(key.encode()).hexdigest(),
        tenant=_name("tenant", wanted.tenant),
        project=_name("project", wanted.project) if wanted.project else "",
        feature=_name("feature", wanted.feature) if wanted.feature else "",
        routes=wanted.routes,
        limit_pico=_limit(wanted.limit),
        created_ns=now_ns,
        expires_ns=expiry_ns(wanted.expires, now_ns),
    )
    return key, row


def audit_key(secret: str, task: str) -> str:
    """Return the key that audits of a task are asked with: one for each, so that each has a limit of its own."""
    return f"{secret}-{hashlib.blake2b(task.encode(), key=secret.encode()[:64], digest_size=16).hexdigest()}"


def expiry_ns(text: str, now_ns: int) -> int:
    """Return the moment that ``text`` names, in nanoseconds since 1970 UTC; 0 for an empty text.

    A date or time without a zone is UTC. Raises ``ConfigError``, also for a moment that has passed.
    """
    if not text:
        return 0
    span = _SPAN.fullmatch(text)
    if span is not None:
        return now_ns + int(span.group(1)) * _SPAN_S[span.group(2)] * 10**9
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"expires: {text!r} is no time; write 2027-01-31, 2027-01-31T12:00Z or 30d") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    at_ns = int(moment.timestamp()) * 10**9
    if at_ns <= now_ns:
        raise ConfigError(f"expires: {text} has passed; choose a later time")
    return at_ns


def _name(field: str, value: str) -> str:
    try:
        return msgspec.convert(value, Name)
    except msgspec.ValidationError:
        raise ConfigError(
            f"{field}: {value!r} does not have the right form; use 1 to 128 letters, digits and _ . : / -"
        ) from None


def _limit(text: str) -> int | None:
    if not text:
        return None
    try:
        limit_pico = parse_pico(text)
    except AmountError as error:
        raise ConfigError(f"limit: {error}; write it like 10.50") from None
    if limit_pico < 0:
        raise ConfigError("limit: below zero; give what the key may spend in all, or leave it out")
    return limit_pico
