"""How long a provider says to wait. What follows from its errors is in test_signals and test_probe."""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest

from upeti.gateway.reaction import retry_after_s


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({b"retry-after": b"7"}, 7.0),
        ({b"retry-after": b" 0.5 "}, 0.5),
        ({b"retry-after-ms": b"250", b"retry-after": b"1"}, 0.25),
        ({b"retry-after-ms": b"soon", b"retry-after": b"1"}, 1.0),
        ({b"retry-after": b"-3"}, 0.0),
        ({b"retry-after": b"nan"}, None),
        ({b"retry-after": b"inf"}, None),
        ({b"retry-after": b"next week"}, None),
        ({b"retry-after": b"\xff"}, None),
        ({b"retry-after": b"Fri, 01 Jan 2021 00:00:00 GMT"}, 0.0),
    ],
)
def test_what_it_says(headers: dict[bytes, bytes], seconds: float | None) -> None:
    assert retry_after_s(headers) == seconds


def test_a_date() -> None:
    found = retry_after_s({b"retry-after": formatdate(time.time() + 100, usegmt=True).encode()})
    assert found is not None
    assert 90 < found <= 101
