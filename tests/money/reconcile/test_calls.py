"""The report by call: what is written is what is read."""

from __future__ import annotations

import datetime
import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upeti.core.meters import ALL_METERS
from upeti.money.reconcile import calls
from upeti.money.reconcile.calls import BilledCall
from upeti.money.reconcile.detect import open_report
from upeti.money.reconcile.lines import ReportError

DAY = datetime.date(2026, 11, 10)
CALLS = st.builds(
    BilledCall,
    day=st.dates(datetime.date(2020, 1, 1), datetime.date(2030, 1, 1)),
    attempt_id=st.text("abc-0123456789", min_size=1, max_size=12),
    model=st.text("gpt-4o. ,\"'", max_size=12),
    meters=st.dictionaries(st.sampled_from(ALL_METERS), st.integers(0, 10**12)),
    cost_pico=st.integers(-(10**24), 10**24),
    currency=st.sampled_from(["USD", "IDR"]),
)


@given(st.lists(CALLS))
def test_csv_there_and_back(written: list[BilledCall]) -> None:
    text = io.StringIO(newline="")
    calls.write_csv(written, text)
    text.seek(0)
    lines = list(calls.read_csv(text).lines)
    costs = [(one.day, one.call, one.cost_pico, one.currency) for one in lines if one.cost_pico is not None]
    assert costs == [(one.day, one.attempt_id, one.cost_pico, one.currency) for one in written]
    counts = [(one.call, one.meter, one.quantity) for one in lines if one.cost_pico is None]
    assert counts == [(one.attempt_id, m, one.meters[m]) for one in written for m in ALL_METERS if m in one.meters]


def test_json_lines(tmp_path: Path) -> None:
    record = {"day": "2026-11-10", "provider_request_id": "req_1", "model": "m", "cost": 0.1, "meters": {"input": 3}}
    (tmp_path / "calls.jsonl").write_text(json.dumps(record) + "\n\n" + json.dumps(record | {"cost": "0.2"}) + "\n")
    lines = list(open_report([tmp_path / "calls.jsonl"]).lines)
    assert [one.cost_pico for one in lines] == [10**11, None, 2 * 10**11, None]
    assert lines[1].quantity == 3
    assert lines[0].place == "line 1"
    assert lines[2].place == "line 3"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("day,attempt_id,cost\n2026-11-10,,1\n", "neither attempt_id nor provider_request_id"),
        ("day,attempt_id,cost\n10.11.2026,a-0,1\n", "a day is 2026-11-23"),
        ("day,attempt_id,cost,input\n2026-11-10,a-0,1,x\n", "a meter's count a whole number"),
        ("day,attempt_id,cost\n2026-11-10,a-0\n", "not as many fields as columns"),
        ("day,attempt_id,cost\n2026-11-10,a-0,1e999999\n", "nothing that is billed"),
        ('{"day": "2026-11-10", "cost": 1, "attempt_id": "a"}\nnot json\n', "line 2: not JSON"),
        ('{"day": "2026-11-10", "cost": 1, "attempt_id": "a", "meters": {"dreams": 1}}\n', "dreams is no meter"),
    ],
)
def test_errors_name_the_place_and_the_cure(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "calls").write_text(text)
    with pytest.raises(ReportError, match=says):
        list(open_report([tmp_path / "calls"]).lines)


def test_a_column_that_is_nothing_is_noted() -> None:
    report = calls.read_csv(io.StringIO("day,attempt_id,cost,mood\n2026-11-10,a-0,1,good\n"))
    assert list(report.notes) == ["column mood is neither a field nor a meter; it is not read"]
