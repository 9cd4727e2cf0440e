"""From the log to the verdict: in worlds whose truth is known, and row by row."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pyarrow.parquet as pq
import pytest

from support.feed_side import DAY_NS, HOUR_NS, NOW_NS, T
from support.feed_world import PAID_ARM, World
from upeti.core.amount import parse_pico
from upeti.core.errors import ConfigError
from upeti.feed.experiment import PAID, STUDENT, Experiment, State, arm_of, is_held_out
from upeti.feed.impressions import Impression, ImpressionLog
from upeti.feed.items import Feedback
from upeti.feed.lift import crossed
from upeti.feed.store import FeedStore
from upeti.feed.worth import Outcome
from upeti.feed.worth_data import observe, report

END_NS = NOW_NS + 30 * DAY_NS


def test_a_true_lift_that_is_planted_is_paid_for(tmp_path: Path) -> None:
    experiment, store = World().run(tmp_path)
    found = report(experiment, store, T, END_NS)
    assert found.worth.outcome is Outcome.PAY, found.worth
    assert found.worth.spent == {PAID: (300 * parse_pico("0.002"), 300, 0)}
    assert found.calls_pico == 300 * parse_pico("0.002")
    (points,) = found.course.values()
    assert len(points) == 7  # days of UTC that six days of 24 hours lie in
    assert points[-1].net_benefit == pytest.approx(found.worth.comparisons[0].net_benefit)


def test_noise_in_its_place_is_not(tmp_path: Path) -> None:
    experiment, store = World(paid_right=0.0, metadata_right=0.0, paid_cost="0.05").run(tmp_path)
    found = report(experiment, store, T, END_NS).worth
    assert found.outcome is Outcome.STOP, found


def test_noise_where_metadata_knew_better_harms(tmp_path: Path) -> None:
    experiment, store = World(paid_right=0.0, metadata_right=0.5).run(tmp_path)
    found = report(experiment, store, T, END_NS).worth
    assert found.outcome is Outcome.STOP, found
    assert found.comparisons[0].extra_events.high < 0


def test_a_student_that_keeps_most_of_it_replaces_the_paid_model(tmp_path: Path) -> None:
    experiment, store = World(paid_right=0.9, student_right=0.88, paid_cost="0.1", users=1500).run(tmp_path)
    found = report(experiment, store, T, END_NS).worth
    assert found.outcome is Outcome.REPLACE, found
    assert set(found.spent) == {PAID, STUDENT}


def test_held_out_items_cost_nothing_and_are_counted_apart(tmp_path: Path) -> None:
    experiment, store = World(item_holdout_share=0.2).run(tmp_path)
    held = sum(is_held_out(experiment, f"item {number}") for number in range(300))
    found = report(experiment, store, T, END_NS).worth
    assert found.spent[PAID].versions == 300 - held
    observed = observe(experiment, ImpressionLog(store.tenant_dir(T)), store.feedback(T), END_NS)
    free, paid = observed.arms(experiment)
    assert free.users.impressions_held_out is not None
    share = free.users.impressions_held_out.sum() / free.users.impressions.sum()
    assert abs(share - held / 300) < 0.05
    assert crossed(paid.users, free.users, 0.2).total.value > 0


# -- row by row -----------------------------------------------------------------------------------------------------

EXPERIMENT = Experiment(
    "worth", World().experiment().arms, state=State.RUNNING, started_ns=NOW_NS, engaged_within_s=3600, salt="s"
)


def shown(number: int, at_ns: int, user: str = "u", item: str = "a", **changes: object) -> Impression:
    row = Impression(f"i{number}", "r", at_ns, user, item, 0, (), "paid", "worth", 1.0, 0.0)
    return msgspec.structs.replace(row, **changes)


def engaged(
    rows: list[Impression], feedback: list[Feedback], tmp_path: Path, now_ns: int = END_NS
) -> tuple[float, ...]:
    log = ImpressionLog(tmp_path)
    log.append(rows)
    observed = observe(EXPERIMENT, log, feedback, now_ns)
    assert observed.in_two_arms in (0, 1)
    return tuple(float(observed.sums[name].sum()) for name in ("impressions", "events", "hides"))


def like(at_ns: int, kind: str = "like", user: str = "u", item: str = "a") -> Feedback:
    return Feedback(kind, user, item, 1.0, at_ns)


@pytest.mark.parametrize(
    ("feedback", "events", "hides"),
    [
        ([like(NOW_NS + HOUR_NS)], 1, 0),
        ([like(NOW_NS + HOUR_NS + 1)], 0, 0),  # too late
        ([like(NOW_NS - 1)], 0, 0),  # before it was shown
        ([like(NOW_NS + 1), like(NOW_NS + 2, "share")], 1, 0),  # one impression counts once
        ([like(NOW_NS + 1, "read")], 0, 0),  # noted only
        ([like(NOW_NS + 1, "hide")], 0, 1),
        ([like(NOW_NS + 1, user="v"), like(NOW_NS + 1, item="b")], 0, 0),  # somebody else, something else
        ([], 0, 0),
    ],
)
def test_what_counts_for_an_impression(feedback: list[Feedback], events: int, hides: int, tmp_path: Path) -> None:
    assert engaged([shown(1, NOW_NS)], feedback, tmp_path) == (1, events, hides)


def test_an_event_counts_for_the_last_impression_before_it(tmp_path: Path) -> None:
    rows = [shown(1, NOW_NS), shown(2, NOW_NS + 10), shown(3, NOW_NS + 30)]
    assert engaged(rows, [like(NOW_NS + 20)], tmp_path) == (3, 1, 0)


def test_only_the_experiment_and_its_time_count(tmp_path: Path) -> None:
    rows = [
        shown(1, NOW_NS - 1),
        shown(2, NOW_NS),
        shown(3, NOW_NS + 1, experiment="other"),
        shown(4, NOW_NS + DAY_NS),
    ]
    assert engaged(rows, [], tmp_path, NOW_NS + HOUR_NS) == (1, 0, 0)


def test_users_in_two_arms_or_in_none_that_is_known_count_nowhere(tmp_path: Path) -> None:
    rows = [shown(1, NOW_NS), shown(2, NOW_NS + 1, arm="free"), shown(3, NOW_NS, user="v", arm="gone")]
    assert engaged(rows, [], tmp_path) == (0, 0, 0)


def test_an_experiment_that_has_not_begun_has_no_verdict(tmp_path: Path) -> None:
    store = FeedStore(tmp_path)
    draft = msgspec.structs.replace(EXPERIMENT, started_ns=0, state=State.DRAFT)
    with pytest.raises(ConfigError, match="not begun"):
        report(draft, store, T, END_NS)
    found = report(EXPERIMENT, store, T, END_NS).worth
    assert found.outcome is Outcome.UNDECIDED
    assert "Nothing was shown" in found.advice


def test_two_currencies_are_never_compared(tmp_path: Path) -> None:
    experiment, store = World(users=150).run(tmp_path)
    with pytest.raises(ConfigError, match="two currencies"):
        report(msgspec.structs.replace(experiment, currency="IDR"), store, T, END_NS)


def test_the_arm_that_is_logged_is_the_one_that_is_drawn() -> None:
    experiment = World().experiment()
    arms = {arm_of([experiment], f"user {number}").name for number in range(50)}
    assert arms == {"free", PAID_ARM.name}


def test_feeds_of_an_arm_that_take_longer_are_told(tmp_path: Path) -> None:
    experiment = World().experiment()
    log = ImpressionLog(tmp_path / "feed" / "tenants" / T)
    store = FeedStore(tmp_path)
    for arm, spent_us in (("free", 5_000), ("paid", 9_000)):
        for number in range(100):
            row = Impression(
                f"{arm}{number}", f"{arm}{number}", NOW_NS + 1, f"{arm}{number}", "a", 0, (), arm, "worth", 1.0, 0.0
            )
            log.append([msgspec.structs.replace(row, spent_us=spent_us if number < 90 else 2 * spent_us)])
    log.close()
    assert log.project() == 1
    found = report(experiment, store, T, END_NS)
    assert found.p95_ms == {"free": 10.0, "paid": 18.0}
    assert "feeds of paid take longer than those of free: 18.0 ms against 10.0 ms (p95)" in found.worth.warnings


def test_a_log_of_before_times_were_measured_is_read(tmp_path: Path) -> None:
    directory = tmp_path / "feed" / "tenants" / T
    log = ImpressionLog(directory)
    log.append([Impression("i", "r", NOW_NS, "ana", "a", 0, (), "free", "worth", 1.0, 0.0)])
    log.close()
    log.project()
    (path,) = (directory / "impressions").glob("*.parquet")
    pq.write_table(pq.read_table(path).drop_columns(["spent_us"]), path)
    assert [row.spent_us for row in ImpressionLog(directory).read()] == [0]
    found = report(World().experiment(), FeedStore(tmp_path), T, END_NS)
    assert all(value != value for value in found.p95_ms.values())
