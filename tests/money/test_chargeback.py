from __future__ import annotations

import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.journal_files import DAY_NS, START_NS, JournalFiles, corrected, opened, settled
from upeti.core.amount import convert_pico, decimal_text, to_decimal
from upeti.core.errors import ConfigError
from upeti.core.events import Outcome
from upeti.core.meters import INPUT_METERS, OUTPUT_METERS
from upeti.journal.event_columns import SegmentRows
from upeti.journal.events_store import connect
from upeti.journal.reader import GENESIS
from upeti.journal.usage_fold import UsageFold
from upeti.money.chargeback import convert, make_chargeback
from upeti.money.price import Cliff, Price, cost_of
from upeti.money.rates import Rates
from upeti.money.usage import UsageRow

DAY = datetime.date(2026, 11, 1)
STEEP = Price("steep", "USD", 0, {"input": 3, "output": 5}, (Cliff(150, {"input": 7, "output": 11}),), per_call_pico=2)


def row(**changes: Any) -> UsageRow:
    values = {"day": DAY, "tenant": "acme", "channel": "openai", "model": "m", "outcome": "posted", "currency": "USD"}
    return UsageRow(**values | changes)


def price_of(price_id: str) -> Price | None:
    return STEEP if price_id == "steep" else None


def test_what_is_not_certain_is_beside_the_sum() -> None:
    rows = [
        row(attempts=2, calls=1, cost_pico=7, meters={"input": 1, "input_cached": 2, "output": 4, "pages": 9}),
        row(attempts=1, calls=1, cost_pico=5, outcome="estimated", unmetered=1),
        row(attempts=3, calls=3, outcome="unpriced", meters={"output_reasoning": 1}),
        row(cost_pico=-2, outcome="corrected"),
    ]
    made = make_chargeback(rows, ["tenant"], price_of)
    (line,) = made.lines
    assert (line.group, line.calls, line.attempts, line.unmetered, line.unpriced) == (("acme",), 5, 6, 1, 3)
    assert (line.cost_pico, line.estimated_pico, line.input_tokens, line.output_tokens) == (10, 5, 3, 5)
    assert [(one.cost_pico, one.attempts) for one in made.totals] == [(10, 6)]


def test_by_meter_every_part_is_quantity_times_price() -> None:
    rows = [
        row(price_id="steep", attempts=2, meters={"input": 100, "output": 3}, cost_pico=300 + 15 + 4),
        row(price_id="steep", cliff=1, attempts=1, meters={"input": 200}, cost_pico=1400 + 2),
        row(attempts=1, unmetered=1, outcome="estimated", cost_pico=50),
        row(attempts=1, outcome="unpriced", meters={"seconds": 4}),
    ]
    made = make_chargeback(rows, ["meter"], price_of)
    found = {line.group[0]: (line.quantity, line.cost_pico) for line in made.lines}
    assert found == {
        "input": (300, 1700),
        "output": (3, 15),
        "per_call": (0, 6),
        "unmetered": (0, 50),
        "seconds": (4, 0),
    }


def test_days_come_in_order_and_others_by_cost() -> None:
    rows = [row(day=DAY + datetime.timedelta(day), model=str(day), cost_pico=day) for day in (1, 0, 2)]
    assert [line.group for line in make_chargeback(rows, ["model"], price_of).lines] == [("2",), ("1",), ("0",)]
    days = [line.group[0] for line in make_chargeback(rows, ["day", "model"], price_of).lines]
    assert days == ["2026-11-01", "2026-11-02", "2026-11-03"]
    assert [line.group for line in make_chargeback(rows, ["month"], price_of).lines] == [("2026-11",)]


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"split by colour; choose from tenant"):
        make_chargeback([], ["colour"], price_of)


def test_a_converted_total_is_the_sum_of_its_lines(tmp_path: Path) -> None:
    path = tmp_path / "rates.toml"
    path.write_text(
        'base = "USD"\n[[rate]]\ncurrency = "IDR"\nrate = "16000.3"\ndate = 2026-01-01\nsource = "test"\n'
        '[[rate]]\ncurrency = "EUR"\nrate = "0.7"\ndate = 2026-01-01\nsource = "test"\n'
    )
    rows = [
        row(model=str(number), cost_pico=10**12 + number, currency=("USD", "EUR")[number % 2]) for number in range(9)
    ]
    made = make_chargeback(rows, ["model"], price_of)
    convert(made, "IDR", Rates.load(path), DAY)
    assert made.lines[0].converted_pico is not None
    assert made.converted_total_pico == sum(line.converted_pico or 0 for line in made.lines)
    assert made.converted_total_pico == sum(line.converted_pico or 0 for line in made.totals)
    assert {rate.currency for rate in made.rates} == {"IDR", "EUR"}
    usd = next(line for line in made.lines if line.currency == "USD")
    assert usd.converted_pico == convert_pico(usd.cost_pico, Decimal("16000.3"))


CALL = st.tuples(
    st.integers(0, 2**62),
    st.sampled_from(Outcome),
    *(
        st.sampled_from(values)
        for values in (("acme", "globex"), ("search", ""), ("a", "b"), ("USD", "IDR"), ("", "flex"))
    ),
    st.integers(0, 40),
    st.one_of(st.none(), st.dictionaries(st.sampled_from(["input", "input_cached", "output"]), st.integers(0, 300))),
)
SPLITS = (
    [],
    ["tenant"],
    ["feature", "model"],
    ["day"],
    ["month", "tier"],
    ["tenant", "channel", "route", "key", "project", "task"],
)


@given(st.lists(CALL, max_size=40), st.lists(st.tuples(st.integers(0, 39), st.integers(0, 2**70)), max_size=5))
@settings(max_examples=15, deadline=None)
def test_every_split_equals_a_full_scan_of_the_events(
    tmp_path_factory: pytest.TempPathFactory, calls: list[Any], corrections: list[tuple[int, int]]
) -> None:
    data_dir = tmp_path_factory.mktemp("chargeback")
    files = JournalFiles(data_dir, "keeper-all")
    owed = {}
    for call, (cost, outcome, tenant, feature, model, currency, tier, day, meters) in enumerate(calls):
        names = {"tenant": tenant, "feature": feature, "model": model, "currency": currency}
        if outcome is Outcome.POSTED and meters is not None:
            cost = cost_of(STEEP, {name: count for name, count in meters.items() if name != "seconds"}) or 0
        cost = 0 if outcome in (Outcome.VOIDED, Outcome.UNPRICED) else cost
        at = {"at_ns": START_NS + day * DAY_NS}
        files.append(opened(call, call % 2, bound_pico=cost, **names))
        made = settled(
            call, call % 2, outcome=outcome, cost_pico=cost, meters=meters, tier=tier, price_id="steep", **at
        )
        files.append(made)
        owed[call] = (outcome, cost, names, made)
    for number, (call, now) in enumerate(corrections):
        if call in owed:
            outcome, was, names, made = owed[call]
            texts = {"was": decimal_text(was), "now": decimal_text(now), "settled_ns": made.at_ns}
            files.append(corrected(call, correction_id=str(number), outcome=outcome, **texts, **names))
            owed[call] = (Outcome.POSTED, now, names, made)
    fold = UsageFold(price_of, "here")
    for batch in SegmentRows(files.path, GENESIS).batches(7):
        fold.add(batch)
    usage = fold.usage()
    tokens = [" + ".join(f"coalesce({name}, 0)" for name in names) for names in (INPUT_METERS, OUTPUT_METERS)]
    groups = {"day": "strftime(settled_at, '%Y-%m-%d')", "month": "strftime(settled_at, '%Y-%m')"}
    with connect(data_dir) as connection:
        for by in SPLITS:
            names = "".join(f"{groups.get(name, name)}, " for name in by)
            query = f"""
                SELECT {names} currency, coalesce(sum(cost), 0), sum({tokens[0]}), sum({tokens[1]}),
                       count(*) FILTER (outcome <> 'corrected'),
                       count(*) FILTER (outcome <> 'corrected' AND attempt = 0),
                       count(*) FILTER (outcome = 'unpriced'),
                       coalesce(sum(CASE WHEN outcome = 'estimated' THEN cost
                                         WHEN corrects = 'estimated' THEN -was END), 0)
                FROM events GROUP BY ALL
            """
            scanned = sorted(connection.execute(query).fetchall())
            made = make_chargeback(usage, by, price_of)
            summed = sorted(
                (
                    *line.group,
                    line.currency,
                    to_decimal(line.cost_pico),
                    line.input_tokens,
                    line.output_tokens,
                    line.attempts,
                    line.calls,
                    line.unpriced,
                    to_decimal(line.estimated_pico),
                )
                for line in made.lines or made.totals
            )
            assert summed == scanned
    by_meter = make_chargeback(usage, ["meter"], price_of)
    for total in by_meter.totals:
        parts = [line for line in by_meter.lines if line.currency == total.currency]
        assert sum(line.cost_pico for line in parts) == total.cost_pico
        assert sum(line.quantity for line in parts) == total.input_tokens + total.output_tokens
