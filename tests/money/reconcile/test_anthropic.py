"""Anthropic's cost report and usage report."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import pytest

from upeti.money.reconcile.detect import open_report
from upeti.money.reconcile.lines import Nature, Report, ReportError, ReportLine

FIXTURES = Path(__file__).parents[2] / "fixtures" / "reconcile"
COSTS = FIXTURES / "anthropic_cost_report.json"


def read(*paths: Path) -> tuple[Report, list[ReportLine]]:
    report = open_report(list(paths))
    return report, list(report.lines)


def test_amounts_are_hundredths() -> None:
    report, lines = read(COSTS)
    assert report.tells == {"tier", "context"}
    assert [(one.nature.value, one.meter, one.context, one.cost_pico) for one in lines] == [
        ("usage", "input", "short", 3 * 10**12),
        ("usage", "input_cached", "short", 123 * 10**8),
        ("usage", "output", "short", 1_237_891_200_000),
        ("usage", "input", "long", 6 * 10**11),
        ("usage", "input_cache_write_5m", "short", 75 * 10**10),
        ("unmapped", "", "", 10**11),
    ]
    assert lines[0].accounts == ("wrkspc_demo",)
    assert (report.first_day, report.last_day) == (datetime.date(2026, 11, 1), datetime.date(2026, 11, 2))


def test_usage_excludes_the_cache() -> None:
    report, lines = read(FIXTURES / "anthropic_usage_messages.json")
    assert {one.meter: one.quantity for one in lines} == {
        "input": 1_000_000,
        "input_cached": 41_000,
        "input_cache_write_5m": 200_000,
        "input_cache_write_1h": 1_000,
        "output": 82_526,
    }
    assert lines[0].accounts == ("wrkspc_demo", "apikey_demo")
    assert report.notes == {"web searches are not metered by Upeti; they were not compared": 1}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda page: page.update(has_more=True), "has_more is true on every page"),
        (lambda page: page["data"][0].update(ending_at="2026-11-02T01:00:00Z"), "not within one UTC day"),
        (lambda page: page["data"][0].update(ending_at="soon"), "RFC 3339"),
        (lambda page: page["data"][0]["results"][0].pop("amount"), "neither a cost"),
        (lambda page: page["data"][0]["results"][0].update(amount="three"), "'three' is not a number"),
    ],
)
def test_a_shape_that_changed_is_said(tmp_path: Path, change: Any, says: str) -> None:
    page = json.loads(COSTS.read_text())
    change(page)
    (tmp_path / "changed.json").write_text(json.dumps(page))
    with pytest.raises(ReportError, match=says):
        read(tmp_path / "changed.json")


def test_what_is_new_is_noted(tmp_path: Path) -> None:
    page = json.loads(COSTS.read_text())
    page["data"][0]["results"][0] |= {"mood": "good", "service_tier": "royal"}
    page["data"][0]["results"][1] |= {"token_type": "dream_tokens"}
    (tmp_path / "changed.json").write_text(json.dumps(page))
    report, lines = read(tmp_path / "changed.json")
    assert "field mood is not one that is documented; it is not read" in report.notes
    assert any("'royal'" in note for note in report.notes)
    assert lines[0].tier == "royal"
    assert lines[1].nature is Nature.UNMAPPED


def test_another_zone_is_the_same_moment(tmp_path: Path) -> None:
    page = json.loads(COSTS.read_text())
    page["data"][0] |= {"starting_at": "2026-11-01T07:00:00+07:00", "ending_at": "2026-11-02T07:00:00+07:00"}
    (tmp_path / "changed.json").write_text(json.dumps(page))
    _, lines = read(tmp_path / "changed.json")
    assert lines[0].day == datetime.date(2026, 11, 1)


def test_the_default_workspace_has_a_name_beside_others(tmp_path: Path) -> None:
    page = json.loads(COSTS.read_text())
    page["data"][0]["results"][1]["workspace_id"] = None
    (tmp_path / "changed.json").write_text(json.dumps(page))
    _, lines = read(tmp_path / "changed.json")
    assert [one.accounts for one in lines[:2]] == [("wrkspc_demo",), ("default",)]
    for bucket in page["data"]:
        for result in bucket["results"]:
            result["workspace_id"] = None
    (tmp_path / "changed.json").write_text(json.dumps(page))
    assert {one.accounts for one in read(tmp_path / "changed.json")[1]} == {()}, "not grouped, as far as can be seen"
