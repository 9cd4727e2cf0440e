"""Whose account, which model: what is put beside what."""

from __future__ import annotations

import datetime
from decimal import Decimal

import pytest

from money.reconcile.planted import DAY, UNITS, billed, line, other, parts, statement, usage
from upeti.money.reconcile.lines import Nature
from upeti.money.reconcile.match import Channels, MatchError, OurCapacity


def test_accounts() -> None:
    channels = Channels(accounts={"sub-1": "azure", "res@data_zone": "azure-eu", "res": "azure-global"})
    assert channels.of(line("input", 1, accounts=("sub-1", "x"))) == "azure"
    assert channels.of(line("input", 1, accounts=("res",), zone="data_zone")) == "azure-eu"
    assert channels.of(line("input", 1, accounts=("res",), zone="global")) == "azure-global"
    assert channels.of(line("input", 1, accounts=("other",))) == ""
    assert Channels(default="one").of(line("input", 1, accounts=("anything",))) == "one"
    assert Channels(accounts={"a": "one"}).of(line("input", 1)) == "one", "the report is not split by account"
    assert Channels(accounts={"a": "one", "b": "two"}).of(line("input", 1)) == ""


def test_a_model_can_be_named_by_hand() -> None:
    row = usage(model="our-deployment")
    assert parts(statement(billed(row, model="gpt-4o"), [row])) != {}
    made = statement(billed(row, model="gpt-4o"), [row], models={"gpt-4o": "our-deployment"})
    assert parts(made) == {}


def test_reasoning_is_output_where_the_report_does_not_tell() -> None:
    row = usage(
        meters={"input": 1_000, "output": 100, "output_reasoning": 50},
        cost_pico=1_000 * UNITS["input"] + 150 * UNITS["output"],
    )
    made = statement([line("input", 1_000), line("output", 150)], [row])
    assert parts(made) == {}
    assert made.explained


def test_tiers_and_contexts_are_kept_apart_where_the_report_tells() -> None:
    rows = [usage(), usage(tier="priority")]
    lines = [*billed(usage()), *billed(usage(), tier="priority")]
    assert {one.tier for one in statement(lines, rows).lines} == {""}
    told = statement(lines, rows, tells=frozenset({"tier", "context"}))
    assert {(one.tier, one.context) for one in told.lines} == {("", "short"), ("priority", "short")}


def test_a_meter_that_names_no_context_is_of_short_ones() -> None:
    lines = [*billed(usage(model="o3")), line("input", 1_000, context="short"), line("output", 100)]
    made = statement(lines, [usage(), usage(model="o3")], tells=frozenset({"context"}))
    assert parts(made) == {}


def test_costs_and_quantities_of_two_reports_are_joined() -> None:
    row = usage(meters={"input": 1_000})
    cost = line("input", 0, quantity=None, cost_pico=2_600_000_000)
    assert parts(statement([cost], [row])) == {}, "a cost alone cannot say why it differs"
    assert parts(statement([cost, line("input", 1_000, cost_pico=None)], [row])) == {"price": 100_000_000}
    assert parts(statement([cost, line("input", 1_040, cost_pico=None)], [row])) == {"tokens": 100_000_000}


def test_a_quantity_that_is_not_whole_is_not_known() -> None:
    made = statement([line("input", 0, quantity=Decimal("999.5"), cost_pico=1)], [usage(meters={"input": 1_000})])
    assert not made.explained


def test_capacity_is_compared_with_the_ledger() -> None:
    hours = line(
        "input", 0, meter="", model="", nature=Nature.CAPACITY, name="Provisioned Managed Global Unit", cost_pico=24
    )
    made = statement([hours], [], capacity=[OurCapacity(DAY, "openai", "USD", 20)])
    assert parts(made) == {"capacity": 4}
    assert [(one.meter, one.theirs_pico, one.ours_pico) for one in made.lines] == [("provisioned hours", 24, 20)]


def test_a_foreign_currency_without_rates_is_an_error() -> None:
    with pytest.raises(MatchError, match="dated rates with --rates"):
        statement([line("input", 1_000, currency="IDR")], [usage()])


def test_counts_without_a_model_are_an_error() -> None:
    with pytest.raises(MatchError, match="group_by=model"):
        statement([line("input", 1_000, model="", meter="", cost_pico=None)], [usage()])


def test_a_line_of_nobodys_account_is_an_error_where_several_may_own_it() -> None:
    channels = Channels(accounts={"a": "one", "b": "two"})
    with pytest.raises(MatchError, match="does not say whose account"):
        statement([line("input", 1)], [], channels=channels)
    made = statement([other(Nature.TAX, "VAT", 7)], [], channels=channels)
    assert parts(made) == {"tax": 7}, "a tax is the whole company's"


def test_days_outside_are_noted_and_left_out() -> None:
    from upeti.money.reconcile.lines import Report
    from upeti.money.reconcile.match import collect

    later = DAY + datetime.timedelta(days=1)
    lines = iter([line("input", 1), line("input", 2, later)])
    report = Report(provider="openai", format="planted", lines=lines, tells=frozenset())
    sums = collect(report, Channels(default="openai"), DAY, DAY)
    assert {key.day for key in sums} == {DAY}
    assert report.notes == {"lines of other days than asked for": 1}
