"""Counters of a worker: what was settled, told as Prometheus samples."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from support.journal_files import opened, settled
from upeti.core.events import Outcome
from upeti.gateway.metrics import HELP, LATENCY_BUCKETS_S, SERIES_MAX, Histogram, WorkerMetrics, label

WHO = 'tenant="acme",channel="up",model="gpt-4.1-mini"'
USD = 'currency="USD"'


@given(st.lists(st.lists(st.integers(0, 400_000_000), max_size=20), max_size=4))
def test_a_time_counts_in_every_bucket_that_it_fits_below(batches: list[list[int]]) -> None:
    histogram = Histogram()
    for batch in batches:
        histogram.add(list(batch))
    times_us = [time for batch in batches for time in batch]
    running = 0
    for edge, count in zip((*LATENCY_BUCKETS_S, float("inf")), histogram.counts, strict=True):
        running += count
        assert running == sum(time <= edge * 1e6 for time in times_us)
    assert abs(histogram.total - sum(times_us) / 1e6) < 1e-6


def test_what_was_settled_becomes_samples() -> None:
    metrics = WorkerMetrics()
    metrics.answers.update({200: 3, 201: 1, 429: 2})
    metrics.refused("budget_exceeded")
    metrics.refused("budget_exceeded")
    changes: list[dict[str, Any]] = [
        {"meters": {"input": 10, "output": 5}, "cost_pico": 10**12, "total_us": 20_000, "first_byte_us": 5_000},
        {"meters": {"input": 1}, "cost_pico": 5 * 10**11, "total_us": 2_000_000, "first_byte_us": 1_000_000},
        {"meters": None, "cost_pico": 0, "outcome": Outcome.VOIDED, "total_us": -1, "first_byte_us": -1},
    ]
    for number, change in enumerate(changes):
        metrics.settled.append((opened(number, channel="up"), settled(number, **change)))
    for _ in range(2):  # asked twice, counted once
        samples = metrics.samples()
        assert samples['upeti_calls_total{status="2xx"}'] == 4
        assert samples['upeti_calls_total{status="4xx"}'] == 2
        assert samples['upeti_refusals_total{code="budget_exceeded"}'] == 2
        assert samples['upeti_attempts_total{channel="up",outcome="posted"}'] == 2
        assert samples['upeti_attempts_total{channel="up",outcome="voided"}'] == 1
        assert samples['upeti_tokens_total{channel="up",meter="input"}'] == 11
        assert samples[f"upeti_cost_total{{{WHO},{USD}}}"] == 1.5
        assert samples['upeti_attempt_seconds_count{channel="up"}'] == 2
        assert abs(samples['upeti_attempt_seconds_sum{channel="up"}'] - 2.02) < 1e-9
        assert abs(samples['upeti_first_byte_seconds_sum{channel="up"}'] - 1.005) < 1e-9
        assert samples['upeti_attempt_seconds_bucket{channel="up",le="+Inf"}'] == 2


def test_every_sample_has_a_word_of_help() -> None:
    metrics = WorkerMetrics()
    metrics.answers[200] = 1
    metrics.refused("x")
    metrics.settled.append((opened(1, channel="up"), settled(1, outcome=Outcome.ESTIMATED)))
    metrics.settled.append((opened(2, channel="up"), settled(2, outcome=Outcome.UNPRICED)))
    for name in metrics.samples():
        base = name.partition("{")[0]
        for ending in ("_bucket", "_sum", "_count"):
            if base.endswith(ending) and base.removesuffix(ending) in HELP:
                base = base.removesuffix(ending)
        assert base in HELP


def test_money_by_tenant_channel_and_model_in_the_currency_of_the_price() -> None:
    metrics = WorkerMetrics()
    one = opened(1, channel="up")
    metrics.settled += [
        (one, settled(1, cost_pico=3 * 10**12)),
        (one, settled(2, cost_pico=2 * 10**12, outcome=Outcome.ESTIMATED, meters=None)),
        (one, settled(3, cost_pico=0, outcome=Outcome.UNPRICED)),
        (opened(4, channel="up", currency="IDR"), settled(4, cost_pico=16_000 * 10**12)),
    ]
    samples = metrics.samples()
    assert samples[f"upeti_cost_total{{{WHO},{USD}}}"] == 5
    assert samples[f'upeti_cost_total{{{WHO},currency="IDR"}}'] == 16_000
    assert samples[f"upeti_cost_estimated_total{{{WHO},{USD}}}"] == 2
    assert samples[f"upeti_attempts_estimated_total{{{WHO}}}"] == 1
    assert samples[f"upeti_attempts_unpriced_total{{{WHO}}}"] == 1
    assert samples["upeti_attempts_folded_total"] == 0
    assert "float" in HELP["upeti_cost_total"][1]


def test_names_without_end_are_folded_and_nothing_is_lost() -> None:
    metrics = WorkerMetrics()
    for number in range(5_000):
        one = opened(number, tenant=f"t{number % 70}", channel="up", model=f"model-{number}")
        metrics.settled.append((one, settled(number, cost_pico=10**12)))
    first = opened(0, tenant="t0", channel="up", model="model-0")
    metrics.settled.append((first, settled(0, cost_pico=10**12)))
    samples = metrics.samples()
    costs = {name: value for name, value in samples.items() if name.startswith("upeti_cost_total")}
    assert len(costs) == SERIES_MAX + 1
    assert sum(costs.values()) == 5_001
    assert samples["upeti_attempts_folded_total"] == 5_000 - SERIES_MAX
    other = 'upeti_cost_total{tenant="other",channel="up",model="other",currency="USD"}'
    assert costs[other] == 5_000 - SERIES_MAX
    assert costs['upeti_cost_total{tenant="t0",channel="up",model="model-0",currency="USD"}'] == 2  # known ones stay


@given(st.text(max_size=300))
def test_any_name_is_a_label_that_prometheus_reads_back(name: str) -> None:
    text = f'x{{model="{label(name)}"}} 1\n'
    (family,) = text_string_to_metric_families(text)
    read = family.samples[0].labels["model"]
    assert read == name or (len(name) > 200 and read == name[:200] + "…")
