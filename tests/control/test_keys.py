"""Client keys: random, digested, and with an end that is understood."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

import pytest

from upeti.control.keys import KEY_PREFIX, KeyRequest, expiry_ns, make_key
from upeti.core.errors import ConfigError

NOW_NS = int(datetime(2026, 11, 23, 12, tzinfo=UTC).timestamp()) * 10**9
DAY_NS = 86_400 * 10**9


def test_a_key_has_256_random_bits() -> None:
    made = [make_key(KeyRequest("acme"))[0] for _ in range(50)]
    assert len(set(made)) == 50
    for key in made:
        assert len(bytes.fromhex(key.removeprefix(KEY_PREFIX))) == 32


def test_the_row_knows_only_the_digest() -> None:
    key, row = make_key(KeyRequest("acme", "p", "f", "0.000000000001", ("r",), "4w"))
    assert row.sha256 == hashlib.sha256(key.encode()).hexdigest()
    assert key not in repr(row)
    assert (row.limit_pico, row.routes) == (1, ("r",))
    assert row.expires_ns - row.created_ns == 28 * DAY_NS


@pytest.mark.parametrize(
    ("text", "after_ns"),
    [
        ("", -NOW_NS),  # never: 0
        ("12h", DAY_NS // 2),
        ("30d", 30 * DAY_NS),
        ("2w", 14 * DAY_NS),
        ("2026-11-24", DAY_NS // 2),
        ("2026-11-24T12:00", DAY_NS),
        ("2026-11-24T12:00Z", DAY_NS),
        ("2026-11-24T19:00+07:00", DAY_NS),
    ],
)
def test_expiry(text: str, after_ns: int) -> None:
    assert expiry_ns(text, NOW_NS) == NOW_NS + after_ns


@pytest.mark.parametrize("text", ["soon", "30", "30m", "-1d", "2026-13-01", "2026-11-23T11:59Z"])
def test_no_expiry(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^expires: .*; (write|choose)"):
        expiry_ns(text, NOW_NS)
