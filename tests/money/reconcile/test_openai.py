"""OpenAI's pages of costs and usage: joined, and read as documented."""

from __future__ import annotations

import datetime
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from upeti.money.reconcile.detect import open_report
from upeti.money.reconcile.lines import Nature, Report, ReportError, ReportLine

FIXTURES = Path(__file__).parents[2] / "fixtures" / "reconcile"
PAGES = [FIXTURES / "openai_costs_page_1.json", FIXTURES / "openai_costs_page_2.json"]


def read(*paths: Path) -> tuple[Report, list[ReportLine]]:
    report = open_report(list(paths))
    return report, list(report.lines)


def test_costs_of_two_pages() -> None:
    report, lines = read(*PAGES)
    assert report.format == "OpenAI organization costs (JSON)"
    assert [(one.day.day, one.nature.value, one.model, one.meter, one.quantity, one.cost_pico) for one in lines] == [
        (1, "usage", "gpt-4o-mini-2024-07-18", "input", Decimal(20_000), 3 * 10**9),
        (1, "usage", "gpt-4o-mini-2024-07-18", "input_cached", Decimal(2_000), 15 * 10**7),
        (1, "usage", "gpt-4o-mini-2024-07-18", "output", Decimal(8_000), 48 * 10**8),
        (3, "usage", "text-embedding-3-small", "input", None, 6 * 10**8),
        (3, "unmapped", "", "", None, 10**10),
        (3, "usage", "gpt-4o-mini-2024-07-18", "input", None, 12 * 10**7),
    ]
    assert lines[0].accounts == ("proj_demo",)
    assert lines[4].name == "web search tool calls | gpt-4o-mini-2024-07-18"
    assert (report.first_day, report.last_day) == (datetime.date(2026, 11, 1), datetime.date(2026, 11, 3))


def test_costs_that_are_not_grouped_say_nothing_of_models() -> None:
    _, (line,) = read(FIXTURES / "openai_costs_total.json")
    assert (line.nature, line.model, line.meter, line.cost_pico) == (Nature.USAGE, "", "", 795 * 10**7)


def test_usage_is_made_disjoint() -> None:
    report, lines = read(FIXTURES / "openai_usage_completions.json", FIXTURES / "openai_usage_embeddings.json")
    assert report.format == "OpenAI organization usage (JSON)"
    assert [(one.day.day, one.meter, one.quantity, one.cost_pico) for one in lines] == [
        (1, "input", 20_000, None),
        (1, "input_cached", 2_000, None),
        (1, "output", 8_000, None),
        (3, "input", 800, None),
        (3, "input", 30_000, None),
    ]


def changed(tmp_path: Path, change: Any, source: Path = PAGES[1]) -> Path:
    page = json.loads(source.read_text())
    change(page)
    path = tmp_path / "changed.json"
    path.write_text(json.dumps(page))
    return path


def test_a_page_that_is_missing_is_said() -> None:
    with pytest.raises(ReportError, match="has_more is true on every page"):
        read(PAGES[0])
    with pytest.raises(ReportError, match="give each page once"):
        read(*PAGES, PAGES[1])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda page: page["data"][0].update(end_time=page["data"][0]["end_time"] + 1), "not within one UTC day"),
        (lambda page: page["data"][0].pop("start_time"), "start_time and end_time"),
        (lambda page: page["data"][0]["results"][0].pop("amount"), "amount with value and currency"),
        (
            lambda page: page["data"][0]["results"][0].update(object="organization.moods.result"),
            "neither costs nor usage",
        ),
    ],
)
def test_a_shape_that_changed_is_said(tmp_path: Path, change: Any, says: str) -> None:
    with pytest.raises(ReportError, match=says):
        read(changed(tmp_path, change))


def test_what_is_new_is_noted(tmp_path: Path) -> None:
    def change(page: Any) -> None:
        page["data"][0]["results"][0] |= {"mood": "good", "quantity": 5, "quantity_unit": "furlongs"}
        page["data"][0]["results"][2] |= {"line_item": "gpt-4o-mini-2024-07-18, dreams"}

    report, lines = read(changed(tmp_path, change))
    assert "field mood is not one that is documented; it is not read" in report.notes
    assert any("'furlongs'" in note for note in report.notes)
    assert lines[0].quantity is None
    assert lines[2].nature is Nature.UNMAPPED


def test_parts_above_the_whole_are_an_error(tmp_path: Path) -> None:
    def change(page: Any) -> None:
        page["data"][0]["results"][0]["input_cached_tokens"] = 22_001

    with pytest.raises(ReportError, match="parts of the tokens sum to more than the whole"):
        read(changed(tmp_path, change, FIXTURES / "openai_usage_completions.json"))


def test_tiers_of_usage(tmp_path: Path) -> None:
    def change(page: Any) -> None:
        page["data"][0]["results"][0] |= {"service_tier": "priority"}
        page["data"][1]["results"][0] |= {"batch": True}

    report, lines = read(changed(tmp_path, change, FIXTURES / "openai_usage_completions.json"))
    assert report.tells == {"tier"}
    assert [one.tier for one in lines] == ["priority", "priority", "priority", "batch"]
