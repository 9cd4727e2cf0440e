"""Counters of a worker: what was settled, told as Prometheus samples."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from support.journal_files import settled
from upeti.core.events import Outcome
from upeti.gateway.metrics import HELP, LATENCY_BUCKETS_S, Histogram, WorkerMetrics


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
        metrics.settled.append(("up", settled(number, **change)))
    for _ in range(2):  # asked twice, counted once
        samples = metrics.samples()
        assert samples['upeti_calls_total{status="2xx"}'] == 4
        assert samples['upeti_calls_total{status="4xx"}'] == 2
        assert samples['upeti_refusals_total{code="budget_exceeded"}'] == 2
        assert samples['upeti_attempts_total{channel="up",outcome="posted"}'] == 2
        assert samples['upeti_attempts_total{channel="up",outcome="voided"}'] == 1
        assert samples['upeti_tokens_total{channel="up",meter="input"}'] == 11
        assert samples['upeti_cost_usd_total{channel="up"}'] == 1.5
        assert samples['upeti_attempt_seconds_count{channel="up"}'] == 2
        assert abs(samples['upeti_attempt_seconds_sum{channel="up"}'] - 2.02) < 1e-9
        assert abs(samples['upeti_first_byte_seconds_sum{channel="up"}'] - 1.005) < 1e-9
        assert samples['upeti_attempt_seconds_bucket{channel="up",le="+Inf"}'] == 2


def test_every_sample_has_a_word_of_help() -> None:
    metrics = WorkerMetrics()
    metrics.answers[200] = 1
    metrics.refused("x")
    metrics.settled.append(("up", settled(1)))
    for name in metrics.samples():
        base = name.partition("{")[0]
        for ending in ("_bucket", "_sum", "_count"):
            if base.endswith(ending) and base.removesuffix(ending) in HELP:
                base = base.removesuffix(ending)
        assert base in HELP
