"""The verdict as JSON and as a page: exact money, words where nothing is known, nothing from elsewhere."""

from __future__ import annotations

import json
import math
from pathlib import Path

import msgspec
import pytest

from support.feed_side import DAY_NS, NOW_NS, T
from support.feed_world import World
from upeti.feed.experiment import Experiment
from upeti.feed.sequential import Interval
from upeti.feed.store import FeedStore
from upeti.feed.worth_data import Report, report
from upeti.feed.worth_pages import as_values, interval_text, page

END_NS = NOW_NS + 30 * DAY_NS


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, Experiment]:
    world = World(student_right=0.5, users=700)
    experiment, store = world.run(tmp_path_factory.mktemp("world"))
    return report(experiment, store, T, END_NS), experiment


def test_json_says_all_and_money_exactly(seen: tuple[Report, Experiment]) -> None:
    found = json.loads(json.dumps(as_values(*seen), allow_nan=False))
    assert found["verdict"] in ("pay", "undecided", "replace by student", "stop paying")
    assert found["spent"]["enrichment_paid"] == {"cost": "0.6", "versions": 300, "unknown": 0}
    assert found["books"]["versions_and_calls"] == "0.603"
    assert [arm["arm"] for arm in found["arms"]] == ["free", "student", "paid"]
    assert all(0 <= arm["creator_gini"] < 0.5 for arm in found["arms"])  # studios are alike here
    steps = {(one["arm"], one["over"]): one for one in found["comparisons"]}
    assert set(steps) == {("student", "free"), ("paid", "student"), ("paid", "free")}
    assert steps["paid", "free"]["net_benefit_per_1000"]["low"] < steps["paid", "free"]["net_benefit_per_1000"]["high"]


def test_a_page_needs_nothing_from_elsewhere(seen: tuple[Report, Experiment]) -> None:
    html = page(*seen, END_NS)
    assert html.count("<svg") == 2
    assert "paid over student" in html
    assert "creators' Gini" in html
    assert "<script" not in html
    for attribute in ("src=", 'href="http', "@import", "url(http"):
        assert attribute not in html
    assert html == page(*seen, END_NS)


def test_names_from_outside_are_only_text(tmp_path: Path) -> None:
    bad = "<script>alert(1)</script> $x$"
    experiment = World().experiment()
    arms = (msgspec.structs.replace(experiment.arms[0], name=bad), experiment.arms[1])
    named = msgspec.structs.replace(experiment, arms=arms)
    html = page(report(named, FeedStore(tmp_path), T, END_NS), named, END_NS)
    assert "<script" not in html
    assert "&lt;script&gt;" in html


def test_before_anything_was_shown_there_are_words_and_no_plots(tmp_path: Path) -> None:
    experiment = World().experiment()
    found = report(experiment, FeedStore(tmp_path), T, END_NS)
    html = page(found, experiment, END_NS)
    assert "<svg" not in html
    assert "nothing yet" in html
    assert "Nothing was shown yet." in html
    values = json.loads(json.dumps(as_values(found, experiment), allow_nan=False))
    assert values["comparisons"][0]["extra_events_per_1000"] == {"estimate": None, "low": None, "high": None}


@pytest.mark.parametrize(
    ("interval", "says"),
    [
        (None, "not told while ΔE may be zero"),
        (Interval(math.nan, -math.inf, math.inf), "nothing yet"),
        (Interval(0.5, -math.inf, math.inf), "0.5000 (too few users for an interval)"),
        (Interval(12.3456, 1.2, 23.4), "12.35 (1.200 to 23.40)"),
        (Interval(0, -0.00123456, 0.1), "0 (−0.001235 to 0.1000)"),
        (Interval(12345.6, 1, 2), "12,346 (1.000 to 2.000)"),
    ],
)
def test_intervals_in_words(interval: Interval | None, says: str) -> None:
    assert interval_text(interval) == says
