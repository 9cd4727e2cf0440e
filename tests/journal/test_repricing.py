"""Repricing sums in the database what one would sum attempt by attempt."""

from __future__ import annotations

import datetime
import random
from pathlib import Path

import pytest

from support.journal_files import DAY_NS, START_NS, JournalFiles, corrected, opened, settled
from upeti.core import meters as m
from upeti.core.events import AttemptOpened, AttemptSettled, Outcome
from upeti.journal.events_store import connect, project_closed_segments
from upeti.journal.repricing import earlier_corrections, groups
from upeti.money.price import Cliff, Price, cost_of
from upeti.money.reprice import Bearer, changes, cost_of_group

DAYS = (datetime.date(2026, 11, 1), datetime.date(2026, 11, 2))
CELLS = {m.INPUT: 7, m.INPUT_CACHED: 3, m.OUTPUT: 11, m.INPUT_AUDIO: 13}
OLD = Price("old", "USD", 0, CELLS, (Cliff(100, {name: 2 * pico for name, pico in CELLS.items()}),), 5)
# From the second day on another one, with other cliffs and no price for audio.
NEW = Price("new", "USD", 0, {m.INPUT: 8, m.OUTPUT: 10}, (Cliff(50, {m.INPUT: 9, m.OUTPUT: 12}),), 1)


def price_of(channel: str, model: str, tier: str, day: datetime.date) -> Price | None:
    if tier == "scale":
        return None
    return OLD if day < DAYS[1] else NEW


def attempts(seed: int, count: int) -> list[tuple[AttemptOpened, AttemptSettled]]:
    draw = random.Random(seed)
    made = []
    for call in range(count):
        at_ns = START_NS + draw.randrange(2 * DAY_NS - 10**9)
        names = draw.sample([m.INPUT, m.INPUT_CACHED, m.OUTPUT, m.OUTPUT_REASONING, m.INPUT_AUDIO], draw.randint(0, 5))
        meters = {name: draw.choice([0, 1, 40, 60, 200]) for name in names}
        tier = draw.choice(["", "", "priority", "scale"])
        outcome = draw.choice([Outcome.POSTED, Outcome.POSTED, Outcome.UNPRICED, Outcome.ESTIMATED])
        cost = 0 if outcome is Outcome.UNPRICED else draw.randrange(10**6)
        feature = draw.choice(["search", "feed"])
        made.append(
            (
                opened(call, at_ns=at_ns, feature=feature),
                settled(call, at_ns=at_ns + 1000, meters=meters or None, tier=tier, outcome=outcome, cost_pico=cost),
            )
        )
    return made


@pytest.mark.parametrize("projected", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_groups_cost_what_their_attempts_cost(tmp_path: Path, seed: int, projected: bool) -> None:
    made = attempts(seed, 400)
    files = JournalFiles(tmp_path)
    for begin, end in made:
        files.append(begin, end)
    if projected:
        files.rotate()
        project_closed_segments(tmp_path)
    with connect(tmp_path) as connection:
        found = groups(connection, *DAYS, price_of)
    expected: dict[Bearer, list[int | None]] = {}
    for begin, end in made:
        if end.meters is None:
            continue
        day = datetime.datetime.fromtimestamp(end.at_ns // 10**9, datetime.UTC).date()
        price = price_of(begin.channel, begin.model, end.tier, day)
        bearer = Bearer(
            day, "acme", "shop", "k1", begin.feature, "", "fast", "openai", begin.model, "chat_completions",
            end.outcome, "USD", end.tier,
        )  # fmt: skip
        expected.setdefault(bearer, []).append(None if price is None else cost_of(price, end.meters))
    sums: dict[Bearer, list[int | None]] = {}
    for group in found:
        sums.setdefault(group.bearer, []).append(cost_of_group(group))
    assert sums.keys() == expected.keys()
    for bearer, costs in expected.items():
        if None in costs:
            assert None in sums[bearer]
        else:
            assert sum(cost or 0 for cost in sums[bearer]) == sum(cost or 0 for cost in costs)
    assert sum(group.attempts for group in found) == sum(len(costs) for costs in expected.values())


def test_what_cannot_be_priced_and_what_a_report_corrected_stays(tmp_path: Path) -> None:
    files = JournalFiles(tmp_path)
    files.append(opened(1), settled(1), opened(2), settled(2), opened(3), settled(3, tier="scale", cost_pico=9))
    JournalFiles(tmp_path, "keeper-corrections-1").append(corrected(2))
    with connect(tmp_path) as connection:
        found = changes(groups(connection, *DAYS, price_of), *earlier_corrections(connection, *DAYS))
    assert [(change.bearer.tier, change.attempts, change.now_pico, change.why) for change in found] == [
        ("", 1, cost_of(OLD, {"input": 100, "output": 20}), ""),
        ("scale", 1, None, "the book has no price"),
    ]


def test_the_price_is_that_of_the_day_on_which_a_call_was_opened(tmp_path: Path) -> None:
    midnight = START_NS + DAY_NS
    JournalFiles(tmp_path).append(opened(1, at_ns=midnight - 10**9), settled(1, at_ns=midnight + 10**9))
    with connect(tmp_path) as connection:
        (group,) = groups(connection, *DAYS, price_of)
    assert (group.bearer.day, group.price) == (DAYS[1], OLD)
