"""Metrics of all workers as one: sums that never fall, and a text that Prometheus reads."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from upeti.control.metrics import Metrics


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
    metrics.report("w0", {"upeti_cost_usd_total": 0.25, "something_new_total": 1, "something_new": 2})
    types = {family.name: family.type for family in text_string_to_metric_families(metrics.text())}
    assert types == {"upeti_cost_usd": "counter", "something_new": "gauge"} | types
    assert "upeti_cost_usd_total 0.25\n" in metrics.text()
    assert "# TYPE something_new_total counter\n" in metrics.text()
