"""The page of a drill, in a real browser: what it says is what was signed, and nothing is fetched."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from outlook.test_drill import CHEAP, DEAR, candidate, seen, world
from outlook.test_live_drill import MS, attempt, drill, refusal
from upeti.control import drill_pages, drill_plots
from upeti.control.drill_reports import Checked, checked
from upeti.control.signing import sign
from upeti.outlook.drill import Shadow
from upeti.outlook.drill_report import PAYLOAD_TYPE, Rights, Subject, live_report, shadow_report
from upeti.outlook.live_drill import compared
from upeti.outlook.remaining import Gap, Lack, Remaining
from upeti.rights.terms import Terms

S = 10**9
AT_NS = 1_780_272_000 * S  # 2026-06-01
TRAP = "</td><script>document.title = 'taken'</script>"


def subject(mode: str, **changes: Any) -> Subject:
    fields = {
        "drill": "drl_1",
        "mode": mode,
        "channel": "a",
        "host": "api.example.com",
        "provider": "Contoh AI",
        "parent": "Contoh Group",
        "by": "head of legal",
        "why": "yearly",
        "from_ns": AT_NS,
        "until_ns": AT_NS + 60 * S,
        "made_ns": AT_NS + 70 * S,
        "node": "n1",
        "version": "0.1.0",
    }
    return Subject(**fields | changes)


def signed(data_dir: Path, report: dict[str, Any]) -> Checked:
    return checked(data_dir, sign(data_dir, PAYLOAD_TYPE, msgspec.json.encode(report)))


def shadow(features: int = 4) -> dict[str, Any]:
    routes = {"m": (candidate("a"), candidate("b", 1, prices=DEAR)), "alone": (candidate("a"),)}
    replay = Shadow(Remaining(msgspec.structs.replace(world(), routes=routes), "a"))
    for number in range(40 * features):
        name = TRAP if number % features == 1 else f"feature-{number % features}"
        replay.add(seen(number, feature=name, route="alone" if number % 10 == 0 else "m", stream=True, total_us=10**6))
    return shadow_report(subject("shadow"), replay, [900, 1_500, 40_000], Rights(Terms(channels=frozenset("ab"))))


def live() -> dict[str, Any]:
    records: list[Any] = []
    for number in range(120):
        at_ms = AT_NS // MS + 500 * number
        call = f"in-{number}"
        records.append(attempt(call, channel="a", at_ms=at_ms, feature=f"feature-{number % 3}"))
        if number % 20 == 0:
            records.append(refusal(call, at_ns=AT_NS, feature=f"feature-{number % 3}"))
        else:
            answer = {"meters": {"input": 100, "output": 10}, "cost_pico": 700, "first_byte_us": 900, "status": 200}
            later = at_ms + 2 + number % 9
            records.append(attempt(call, 1, "b", "answered", at_ms=later, feature=f"feature-{number % 3}", **answer))
    made = drill(*records)
    made.channel = "a"
    calls = made.judged()
    costs = compared(calls, lambda _: CHEAP["*"][0])
    lacks = {"alone": Lack(Gap.NO_CANDIDATE)}
    about = subject(
        "live", share_percent="5", kind="error", signal="openai-account-deactivated", abort_below_percent=90
    )
    return live_report(about, calls, 0, costs, lacks, Rights(Terms(channels=frozenset("ab"))))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as running:
        started = running.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        yield started
        started.close()


@pytest.mark.parametrize("mode", ["shadow", "live"])
def test_a_browser_shows_what_was_signed(browser: Any, tmp_path: Path, mode: str) -> None:
    found = signed(tmp_path, shadow() if mode == "shadow" else live())
    report = found.report
    file = tmp_path / f"{mode}.html"
    file.write_text(drill_pages.html(found), encoding="utf-8")
    page = browser.new_page(viewport={"width": 900, "height": 1400})
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(file.as_uri())
    assert asked == [file.as_uri()]  # nothing is fetched
    assert page.title() == "Drill of a, 2026-06-01"
    assert page.locator("#survival").inner_text() == f"{report['result']['survival_percent']:g} %"
    assert page.locator("#findings li").all_inner_texts() == report["findings"]
    assert page.locator("#sha256").inner_text() == found.sha256
    rows = page.locator("table.by").first.locator("tbody tr")
    assert rows.count() == len(report["by"]["feature"])
    survived = [int(text) for text in page.locator("table.by").first.locator("tbody td:nth-child(3)").all_inner_texts()]
    assert sum(survived) == report["result"]["survived"]
    drawn = page.locator("figure svg")
    assert drawn.count() == (2 if mode == "shadow" else 3)
    boxes = [drawn.nth(place).bounding_box() for place in range(drawn.count())]
    assert all(box["width"] > 600 and box["height"] > 100 for box in boxes)
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(one => one.id)")
    assert len(ids) == len(set(ids))  # two pictures do not take each other's parts
    assert "to be filled in" in page.locator("#dora").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    page.close()


def test_names_are_text_whatever_they_hold(tmp_path: Path) -> None:
    page = drill_pages.html(signed(tmp_path, shadow()))
    assert "<script>" not in page


def test_a_drill_that_met_nothing_still_has_a_page(tmp_path: Path) -> None:
    nothing = Shadow(Remaining(world(), "a"))
    page = drill_pages.html(signed(tmp_path, shadow_report(subject("shadow"), nothing, [], Rights(Terms()))))
    assert "answered no call in the window" in page
    assert "<svg" not in page


def test_the_same_report_is_the_same_picture(tmp_path: Path) -> None:
    found = signed(tmp_path, live())
    assert drill_plots.time_line(found.report) == drill_plots.time_line(found.report)


def test_a_report_of_another_kind_is_none(tmp_path: Path) -> None:
    from upeti.rights.envelope import SignatureError

    with pytest.raises(SignatureError, match="no report of a drill"):
        checked(tmp_path, sign(tmp_path, "text/plain", b"{}"))
