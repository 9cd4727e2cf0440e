"""Windows: one follows the other in every zone, whatever its clocks do, and a label gives its window back."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfoNotFoundError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upeti.money.window import ALL_TIME, WindowKind, iso_time, window_at, window_named

NS = 10**9
KINDS: tuple[WindowKind, ...] = ("month", "week", "day", "minute")
# Clocks that jump at midnight, twice a year or once, that are half an hour off, or that left out a whole day.
ZONES = (
    "UTC",
    "Asia/Jakarta",
    "America/New_York",
    "America/Sao_Paulo",
    "Africa/Cairo",
    "Asia/Beirut",
    "Atlantic/Azores",
    "America/St_Johns",
    "Australia/Lord_Howe",
    "Asia/Kathmandu",
    "Pacific/Apia",
)
MOMENTS = st.integers(946_684_800, 2_208_988_800)  # 2000 to 2040


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp()) * NS


@given(st.sampled_from(KINDS), st.sampled_from(ZONES), MOMENTS)
def test_windows_follow_each_other_without_gap_or_overlap(kind: WindowKind, zone: str, second: int) -> None:
    now_ns = second * NS
    window = window_at(kind, zone, now_ns)
    assert window.begins_ns <= now_ns < window.ends_ns
    assert window_at(kind, zone, window.begins_ns) == window
    assert window_at(kind, zone, window.ends_ns - 1) == window
    following = window_at(kind, zone, window.ends_ns)
    assert following.begins_ns == window.ends_ns
    assert following.label > window.label
    assert window_named(kind, zone, window.label) == window


@pytest.mark.parametrize(
    ("kind", "zone", "moment", "label", "begins", "ends"),
    [
        (
            "month",
            "Asia/Jakarta",
            "2026-11-30T16:59:59Z",
            "2026-11",
            "2026-11-01T00:00+07:00",
            "2026-12-01T00:00+07:00",
        ),
        (
            "month",
            "Asia/Jakarta",
            "2026-11-30T17:00:00Z",
            "2026-12",
            "2026-12-01T00:00+07:00",
            "2027-01-01T00:00+07:00",
        ),
        # Monday to Sunday; the year of a week is that of its Thursday.
        ("week", "UTC", "2026-11-29T23:59:59Z", "2026-W48", "2026-11-23T00:00Z", "2026-11-30T00:00Z"),
        ("week", "UTC", "2027-01-01T12:00:00Z", "2026-W53", "2026-12-28T00:00Z", "2027-01-04T00:00Z"),
        # A day of 23 hours and one of 25.
        (
            "day",
            "America/New_York",
            "2026-03-08T12:00Z",
            "2026-03-08",
            "2026-03-08T00:00-05:00",
            "2026-03-09T00:00-04:00",
        ),
        (
            "day",
            "America/New_York",
            "2026-11-01T12:00Z",
            "2026-11-01",
            "2026-11-01T00:00-04:00",
            "2026-11-02T00:00-05:00",
        ),
        # In Cairo the clock jumped from 00:00 to 01:00 on 2026-04-24: the day begins then.
        ("day", "Africa/Cairo", "2026-04-24T12:00Z", "2026-04-24", "2026-04-24T01:00+03:00", "2026-04-25T00:00+03:00"),
        # Samoa had no 2011-12-30.
        ("day", "Pacific/Apia", "2011-12-30T10:00Z", "2011-12-31", "2011-12-31T00:00+14:00", "2012-01-01T00:00+14:00"),
        (
            "minute",
            "Asia/Kathmandu",
            "2026-11-23T22:07:59Z",
            "2026-11-23T22:07",
            "2026-11-23T22:07Z",
            "2026-11-23T22:08Z",
        ),
    ],
)
def test_where_windows_begin(kind: WindowKind, zone: str, moment: str, label: str, begins: str, ends: str) -> None:
    assert window_at(kind, zone, at(moment)) == (label, at(begins), at(ends))


def test_all_time_has_no_end() -> None:
    assert window_at("total", "UTC", 5) == ALL_TIME == window_named("total", "UTC", "")


@pytest.mark.parametrize(
    ("kind", "label"),
    [
        ("month", "2026-13"),
        ("month", "2026-11-01"),
        ("week", "2026-W54"),
        ("week", "2026-48"),
        ("day", "2026-02-30"),
        ("day", "20260201"),
        ("day", ""),
        ("minute", "2026-11-23T22:07:01"),
        ("minute", "2026-11-23"),
        ("total", "2026"),
    ],
)
def test_a_label_of_no_window_names_none(kind: WindowKind, label: str) -> None:
    assert window_named(kind, "UTC", label) is None


def test_an_unknown_zone_is_an_error() -> None:
    with pytest.raises(ZoneInfoNotFoundError):
        window_at("day", "Mars/Olympus", 0)


def test_a_time_is_told_as_its_zone_has_it() -> None:
    assert iso_time(at("2026-11-30T17:00Z"), "Asia/Jakarta") == "2026-12-01T00:00:00+07:00"
