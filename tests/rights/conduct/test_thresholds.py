"""Thresholds as data: what is shipped can be read, and what is wrong says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from upeti.core.errors import ConfigError
from upeti.rights.conduct.thresholds import Limit, parse, thresholds

SHIPPED = Path(__file__).parents[3] / "src/upeti/rights/conduct/thresholds.toml"


def test_what_is_shipped_has_a_date_and_a_source() -> None:
    assert parse(SHIPPED.read_text(), "x") == thresholds()
    assert thresholds().date.year >= 2026
    assert "make bench-conduct" in thresholds().source


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("calls = 1000 ", "calls = 19 ", "at least 20 calls"),
        ("reference_calls = 3000", "reference_calls = 999", "the past as many as a window"),
        ("p_max = 0.001", 'p_max = "low"', "Expected `float`"),
        ("[drift]", "[drift", "mine.toml"),
        ("keys_min", "keys_least", "keys_least"),
    ],
)
def test_what_is_wrong(old: str, new: str, why: str) -> None:
    with pytest.raises(ConfigError, match=r"mine\.toml") as caught:
        parse(SHIPPED.read_text().replace(old, new), "mine.toml")
    assert why in str(caught.value)


def test_limits() -> None:
    assert [Limit("w", above=0.5).fires(value) for value in (0.5, 0.6)] == [False, True]
    assert [Limit("w", below=0.5).fires(value) for value in (0.5, 0.4)] == [False, True]
