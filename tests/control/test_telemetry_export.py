"""What a span says of an attempt, in each version of the conventions, and that a real receiver reads it."""

from __future__ import annotations

import pytest

from support.journal_files import START_NS, opened, settled
from support.otlp_receiver import Receiver, attributes, running_receiver
from upeti.control.telemetry_export import (
    Endpoint,
    Exporter,
    sampled,
    span_attributes,
    span_id_of,
    trace_id_of,
)
from upeti.control.telemetry_journal import Attempt
from upeti.control.telemetry_names import SECOND_BUCKETS, TOKEN_BUCKETS, VERSIONS, provider_of
from upeti.core.events import Outcome

ENDPOINT = Endpoint("openai_compatible", "api.openai.com", 443)
METERS = {"input": 100, "input_cached": 40, "input_cache_write_5m": 7, "output": 20, "output_reasoning": 5}


def attempt(call: int = 1, number: int = 0, *, stream: bool = False, **changes: object) -> Attempt:
    return Attempt("w0-1", opened(call, number, stream=stream), settled(call, number, **{"meters": METERS} | changes))


def exporter(receiver: Receiver, version: str = "1.41", *, delta: bool = False) -> Exporter:
    made = Exporter(receiver.url, {"authorization": "Bearer t"}, VERSIONS[version], "gateway", "n1", delta=delta)
    made.endpoints = {"openai": ENDPOINT}
    return made


def test_the_newest_names() -> None:
    found = span_attributes(attempt(stream=True), ENDPOINT, VERSIONS["1.41"])
    assert found["gen_ai.operation.name"] == "chat"
    assert found["gen_ai.provider.name"] == "openai"
    assert found["gen_ai.request.model"] == "gpt-4.1-mini"
    assert found["gen_ai.usage.input_tokens"] == 147  # cached and written ones included
    assert found["gen_ai.usage.output_tokens"] == 25  # reasoning included
    assert found["gen_ai.usage.cache_read.input_tokens"] == 40
    assert found["gen_ai.usage.cache_creation.input_tokens"] == 7
    assert found["gen_ai.usage.reasoning.output_tokens"] == 5
    assert found["gen_ai.request.stream"] is True
    assert found["gen_ai.response.time_to_first_chunk"] == 0.04
    assert found["gen_ai.response.id"] == "chatcmpl-1"
    assert (found["server.address"], found["server.port"]) == ("api.openai.com", 443)
    assert (found["http.response.status_code"], "error.type" in found) == (200, False)
    assert found["upeti.cost"] == "0.000001234567"
    assert (found["upeti.currency"], found["upeti.outcome"], found["upeti.ended"]) == ("USD", "posted", "answered")
    assert (found["upeti.tenant"], found["upeti.feature"], found["upeti.route"]) == ("acme", "search", "fast")
    assert found["upeti.price_id"] == "0123456789abcdef"
    assert "upeti.task" not in found
    assert found["upeti.usage.input_cached"] == 40


@pytest.mark.parametrize(
    ("version", "provider", "others"),
    [("1.36", "gen_ai.system", 0), ("1.37", "gen_ai.provider.name", 0), ("1.41", "gen_ai.provider.name", 5)],
)
def test_names_by_version(version: str, provider: str, others: int) -> None:
    found = span_attributes(attempt(stream=True), ENDPOINT, VERSIONS[version])
    assert found[provider] == "openai"
    assert len({"gen_ai.system", "gen_ai.provider.name"} & set(found)) == 1
    assert len([name for name in found if "cache" in name and name.startswith("gen_ai")]) == (2 if others else 0)
    assert ("gen_ai.request.stream" in found) is bool(others)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"status": 429, "ended": "refused"}, "429"),
        ({"status": 200, "ended": "cut"}, "cut"),
        ({"status": 0, "ended": "lost"}, "lost"),
    ],
)
def test_what_is_no_answer_is_an_error(changes: dict[str, object], error: str) -> None:
    assert span_attributes(attempt(**changes), ENDPOINT, VERSIONS["1.41"])["error.type"] == error


def test_unknown_is_not_zero() -> None:
    found = span_attributes(
        attempt(meters=None, outcome=Outcome.UNPRICED, cost_pico=0), Endpoint("", "", 0), VERSIONS["1.41"]
    )
    assert not [name for name in found if "usage" in name or name in ("upeti.cost", "server.address")]


@pytest.mark.parametrize(
    ("kind", "host", "provider"),
    [
        ("azure", "acme.openai.azure.com", "azure.ai.openai"),
        ("anthropic", "api.anthropic.com", "anthropic"),
        ("openai_compatible", "API.Mistral.ai", "mistral_ai"),
        ("openai_compatible", "10.0.0.1", "openai"),
        ("embedded", "127.0.0.1", "upeti.embedded"),
        ("student", "127.0.0.1", "upeti.student"),
    ],
)
def test_providers(kind: str, host: str, provider: str) -> None:
    assert provider_of(kind, host) == provider


def test_attempts_of_a_call_are_one_trace() -> None:
    first, second = attempt(1, 0), attempt(1, 1)
    assert trace_id_of(first.opened.call_id) == trace_id_of(second.opened.call_id) != trace_id_of("other")
    assert span_id_of(first) == span_id_of(attempt(1, 0)) != span_id_of(second)


def test_a_share_of_calls_is_sampled_the_same_each_time() -> None:
    chosen = [sampled(f"call-{number}", 0.25) for number in range(4_000)]
    assert 850 < sum(chosen) < 1_150
    assert chosen == [sampled(f"call-{number}", 0.25) for number in range(4_000)]
    assert sampled("call", 1.0)
    assert not sampled("call", 0.0)


def test_buckets_are_those_of_the_conventions() -> None:
    assert (TOKEN_BUCKETS[0], TOKEN_BUCKETS[-1], len(TOKEN_BUCKETS)) == (1, 67_108_864, 14)
    assert (SECOND_BUCKETS[0], SECOND_BUCKETS[7], SECOND_BUCKETS[-1]) == (0.01, 1.28, 81.92)


def test_a_receiver_reads_spans() -> None:
    with running_receiver() as receiver:
        assert exporter(receiver).send_spans([attempt(1, 0, ended="lost", status=0), attempt(1, 1)])
    failed, answered = receiver.spans
    assert failed.trace_id == answered.trace_id == trace_id_of("call-0001").to_bytes(16)
    assert answered.span_id == span_id_of(attempt(1, 1)).to_bytes(8)
    assert (answered.name, answered.kind) == ("chat gpt-4.1-mini", 3)  # CLIENT
    assert answered.start_time_unix_nano == START_NS + 10**9
    assert answered.end_time_unix_nano == answered.start_time_unix_nano + 90_000_000
    assert (failed.status.code, answered.status.code) == (2, 0)
    assert attributes(answered)["upeti.cost"] == "0.000001234567"
    assert receiver.resources[0]["service.name"] == "gateway"
    assert receiver.resources[0]["service.instance.id"] == "n1"
    assert receiver.headers[0]["authorization"] == "Bearer t"


def test_a_receiver_reads_metrics_with_the_conventions_buckets() -> None:
    with running_receiver() as receiver:
        sending = exporter(receiver)
        for call in range(3):
            sending.record(attempt(call))
        assert sending.send_metrics()
    tokens = {attributes(point)["gen_ai.token.type"]: point for point in receiver.points("gen_ai.client.token.usage")}
    assert (tokens["input"].count, tokens["input"].sum) == (3, 441)
    assert list(tokens["input"].explicit_bounds) == list(TOKEN_BUCKETS)
    (duration,) = receiver.points("gen_ai.client.operation.duration")
    assert duration.sum == pytest.approx(0.27)
    assert attributes(duration)["server.address"] == "api.openai.com"
    (cost,) = receiver.points("upeti.cost")
    assert cost.as_double == pytest.approx(3 * 0.000001234567)
    assert attributes(cost) == {
        "upeti.tenant": "acme",
        "upeti.channel": "openai",
        "gen_ai.request.model": "gpt-4.1-mini",
        "upeti.currency": "USD",
    }
    (count,) = receiver.points("upeti.attempts")
    assert count.as_int == 3


@pytest.mark.parametrize(("delta", "second"), [(False, 2), (True, 1)])
def test_metrics_that_were_not_taken_are_sent_again_and_counted_once(delta: bool, second: int) -> None:
    with running_receiver() as receiver:
        sending = exporter(receiver, delta=delta)
        sending.record(attempt(1))
        receiver.status = 400
        assert not sending.send_metrics()
        receiver.status = 200
        sending.record(attempt(2))
        assert sending.send_metrics()
        assert [point.as_int for point in receiver.points("upeti.attempts")] == [second]
        taken = [request for request in receiver.metrics if request.resource_metrics]
        assert len(taken) == 2


def test_series_are_limited(capsys: pytest.CaptureFixture[str]) -> None:
    with running_receiver() as receiver:
        sending = exporter(receiver)
        for number in range(5_000):
            one = Attempt("w0-1", opened(number, model=f"model-{number}"), settled(number))
            sending.record(one)
        assert sending.send_metrics()
    assert len(receiver.points("upeti.attempts")) <= 2_001
    assert sum(point.as_int for point in receiver.points("upeti.attempts")) == 5_000
