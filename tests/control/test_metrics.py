"""Metrics of all workers as one: sums that never fall, and a text that Prometheus reads."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from upeti.control.ledger import BudgetRow
from upeti.control.metrics import BUDGETS_MAX, SERIES_MAX, Metrics, budget_samples


def samples(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(metrics.text())
        for sample in family.samples
    }


def test_counters_and_gauges_are_summed() -> None:
    metrics = Metrics()
    metrics.own = lambda: {"upeti_keeper_workers": 2}
    metrics.report("w0", {'upeti_calls_total{status="2xx"}': 5, "upeti_calls_in_flight": 2})
    metrics.report("w1", {'upeti_calls_total{status="2xx"}': 7, 'upeti_calls_total{status="4xx"}': 1})
    metrics.report("w0", {'upeti_calls_total{status="2xx"}': 6, "upeti_calls_in_flight": 3})
    assert samples(metrics) == {
        ("upeti_calls_total", frozenset({("status", "2xx")})): 13,
        ("upeti_calls_total", frozenset({("status", "4xx")})): 1,
        ("upeti_calls_in_flight", frozenset()): 3,
        ("upeti_keeper_workers", frozenset()): 2,
    }


def test_what_a_worker_counted_stays_when_it_has_ended() -> None:
    metrics = Metrics()
    for name in ("w0", "w1"):
        metrics.report(name, {"upeti_calls_total": 5, "upeti_calls_in_flight": 2})
        metrics.end(name)
    metrics.end("w9")
    assert samples(metrics) == {("upeti_calls_total", frozenset()): 10}


def test_histograms_are_whole_families() -> None:
    values = {
        f"upeti_attempt_seconds_{name}": value
        for name, value in {
            'bucket{channel="up",le="0.025"}': 0.0,
            'bucket{channel="up",le="0.05"}': 1.0,
            'bucket{channel="up",le="+Inf"}': 2.0,
            'sum{channel="up"}': 400.03,
            'count{channel="up"}': 2.0,
        }.items()
    }
    metrics = Metrics()
    metrics.report("w0", values)
    metrics.report("w1", values)
    metrics.end("w1")
    families = {family.name: family for family in text_string_to_metric_families(metrics.text())}
    family = families["upeti_attempt_seconds"]
    assert family.type == "histogram"
    assert family.documentation == "Time from dispatch to the end of the answer."
    found = {sample.labels.get("le", sample.name): sample.value for sample in family.samples}
    assert (found["0.025"], found["0.05"], found["+Inf"]) == (0, 2, 4)
    assert (found["upeti_attempt_seconds_count"], found["upeti_attempt_seconds_sum"]) == (4, 800.06)


def test_every_family_of_a_worker_has_its_type() -> None:
    metrics = Metrics()
    metrics.report("w0", {"upeti_cost_total": 0.25, "something_new_total": 1, "something_new": 2})
    types = {family.name: family.type for family in text_string_to_metric_families(metrics.text())}
    assert types == {"upeti_cost": "counter", "something_new": "gauge"} | types
    assert "upeti_cost_total 0.25\n" in metrics.text()
    assert "# TYPE something_new_total counter\n" in metrics.text()


def test_as_workers_come_and_go_names_without_end_are_folded() -> None:
    metrics = Metrics()
    before = 0.0
    for generation in range(30):
        worker = f"w{generation}"
        values = {
            f'upeti_cost_total{{tenant="t",channel="up",model="m{generation}-{number} \\"}}",currency="USD"}}': 1.0
            for number in range(500)
        }
        metrics.report(worker, values)
        found = {key: value for key, value in samples(metrics).items() if key[0] == "upeti_cost_total"}
        assert len(found) <= SERIES_MAX + 1
        assert sum(found.values()) == before + 500
        metrics.end(worker)
        before += 500
        assert sum(value for key, value in samples(metrics).items() if key[0] == "upeti_cost_total") == before
    other = frozenset({("tenant", "other"), ("channel", "up"), ("model", "other"), ("currency", "USD")})
    assert samples(metrics)["upeti_cost_total", other] == 15_000 - SERIES_MAX


def test_how_many_series_are_folded_is_told_while_they_are() -> None:
    metrics = Metrics()
    values = {f'upeti_cost_total{{tenant="t{number}",model="m"}}': 1.0 for number in range(SERIES_MAX + 7)}
    metrics.report("w0", values)
    metrics.report("w0", values)
    assert samples(metrics)["upeti_keeper_series_folded", frozenset()] == 7
    metrics.end("w0")
    assert ("upeti_keeper_series_folded", frozenset()) not in samples(metrics)


def test_labels_of_other_families_are_left_alone() -> None:
    metrics = Metrics()
    metrics.report("w0", {f'upeti_tokens_total{{channel="c{number}",meter="input"}}': 1.0 for number in range(3_000)})
    assert len(samples(metrics)) == 3_000


def test_budgets_are_told_in_their_present_window_the_fullest_first() -> None:
    rows = [
        BudgetRow(f"team-{number}@2026-11", 1_000 * 10**12, number * 10**12, 10**12, ends_ns=50)
        for number in range(999)
    ]
    rows += [
        BudgetRow("team-7@2026-10", 10**12, 10**12, 0, ends_ns=5),  # over
        BudgetRow("rate@1", 10**12, 10**12, 0, unit="calls", ends_ns=50),
        BudgetRow('od"d+IDR', 9 * 10**24, 9 * 10**24, 0, unit="IDR"),
        BudgetRow("key:k1", 0, 0, 0),
    ]
    metrics = Metrics()
    metrics.own = lambda: budget_samples(rows, 10)
    found = samples(metrics)
    assert len([name for name, _ in found if name == "upeti_budget_limit"]) == BUDGETS_MAX
    full = frozenset({("budget", "team-998"), ("unit", "USD")})
    assert (found["upeti_budget_limit", full], found["upeti_budget_spent", full]) == (1_000, 998)
    assert (found["upeti_budget_leased", full], found["upeti_budget_spent_share", full]) == (1, 0.998)
    rupiah = frozenset({("budget", 'od"d'), ("unit", "IDR")})
    assert found["upeti_budget_spent_share", rupiah] == 1
    zero = frozenset({("budget", "key:k1"), ("unit", "USD")})
    assert found["upeti_budget_limit", zero] == 0
    assert ("upeti_budget_spent_share", zero) not in found
    assert found["upeti_budgets_left_out", frozenset()] == 1_001 - BUDGETS_MAX
    assert budget_samples([], 0) == {}
