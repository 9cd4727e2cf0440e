"""Windows of budgets: a minute, a day, a week, a month of a time zone, or all time.

Rules: the windows of one kind and zone follow each other without gap or overlap, whatever the zone's clocks do, so a
moment is in one of them; each has a label that says which (``2026-11``), and the label alone gives the window back. A
day begins at the first 00:00 of its date, or, where the clocks skip it, at the moment they do; a week begins on Monday
(ISO 8601). Pure: the moment is passed in.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Final, Literal, NamedTuple
from zoneinfo import ZoneInfo

WindowKind = Literal["total", "month", "week", "day", "minute"]

_NS: Final = 10**9
_MINUTE_NS: Final = 60 * _NS
_DAY: Final = timedelta(days=1)


class Window(NamedTuple):
    """One window. ``label`` is empty, and the times are 0, when it is all time."""

    label: str
    begins_ns: int
    ends_ns: int  # the first moment after it; 0: never


ALL_TIME: Final = Window("", 0, 0)


def window_at(kind: WindowKind, zone: str, at_ns: int) -> Window:
    """Return the window that ``at_ns`` is in. Raises ``KeyError`` (``ZoneInfoNotFoundError``) for an unknown zone."""
    if kind == "total":
        return ALL_TIME
    if kind == "minute":
        return _minute(at_ns - at_ns % _MINUTE_NS)
    clock = ZoneInfo(zone)
    day = datetime.fromtimestamp(at_ns // _NS, clock).date()
    # A clock that is set back past midnight shows the date of yesterday again; by then today has begun.
    while at_ns >= _begin_ns(day + _DAY, clock):
        day += _DAY
    while at_ns < _begin_ns(day, clock):
        day -= _DAY
    return _of_day(kind, day, clock)


def window_named(kind: WindowKind, zone: str, label: str) -> Window | None:
    """Return the window with that label, None when there is none of that kind."""
    try:
        if kind == "total":
            found = ALL_TIME
        elif kind == "minute":
            found = _minute(int(datetime.fromisoformat(label + "+00:00").timestamp()) * _NS)
        else:
            day = date.fromisoformat(label + "-01" if kind == "month" else label + "-1" if kind == "week" else label)
            found = _of_day(kind, day, ZoneInfo(zone))
    except (ValueError, OverflowError):
        return None
    return found if found.label == label else None


def iso_time(at_ns: int, zone: str) -> str:
    """Return a moment as a clock of ``zone`` shows it, to the second: ``2026-12-01T00:00:00+07:00``."""
    return datetime.fromtimestamp(at_ns // _NS, ZoneInfo(zone)).isoformat()


def _minute(begins_ns: int) -> Window:
    label = datetime.fromtimestamp(begins_ns // _NS, UTC).strftime("%Y-%m-%dT%H:%M")
    return Window(label, begins_ns, begins_ns + _MINUTE_NS)


def _of_day(kind: WindowKind, day: date, clock: ZoneInfo) -> Window:
    if kind == "day":
        first, after, label = day, day + _DAY, day.isoformat()
    elif kind == "week":
        first = day - timedelta(days=day.weekday())
        year, week, _ = day.isocalendar()
        after, label = first + timedelta(days=7), f"{year:04d}-W{week:02d}"
    else:
        first = day.replace(day=1)
        after, label = (first + timedelta(days=31)).replace(day=1), f"{day.year:04d}-{day.month:02d}"
    return Window(label, _begin_ns(first, clock), _begin_ns(after, clock))


def _begin_ns(day: date, clock: ZoneInfo) -> int:
    # Of two midnights this is the first, and within a gap the moment of the jump: ``fold`` 0 takes the clock of before.
    return int(datetime(day.year, day.month, day.day, tzinfo=clock).timestamp()) * _NS
