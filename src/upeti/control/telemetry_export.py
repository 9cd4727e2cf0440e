"""Attempts as OpenTelemetry spans and metrics, sent over OTLP and HTTP.

Rules: one CLIENT span for each attempt, with the journal's times. Trace and span ids follow from the call and the
attempt, so that attempts of a call are one trace and what is sent twice is known as the same. The journal does not keep
the client's ``traceparent``, so a call's trace is its own. What the conventions have no name for begins with ``upeti.``;
money is decimal text in spans and a float, for watching, in metrics. Series of metrics are limited by the SDK: beyond
its limit they are one, ``otel.metric.overflow``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from upeti import __version__
from upeti.control.telemetry_journal import Attempt
from upeti.control.telemetry_names import (
    CACHE_WRITES,
    OPERATIONS,
    SECOND_BUCKETS,
    TOKEN_BUCKETS,
    Names,
    provider_of,
)
from upeti.core import meters as m
from upeti.core.amount import PICO_PER_UNIT, decimal_text
from upeti.core.errors import ConfigError

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource

Attributes = dict[str, str | bool | int | float]

_ANSWERED: Final = "answered"
_TIMEOUT_S: Final = 10.0
_SHARES: Final = 1 << 32


class Endpoint(msgspec.Struct, frozen=True):
    """Where a channel sends to: what spans say of the other side."""

    kind: str
    host: str
    port: int


_NOWHERE: Final = Endpoint("", "", 0)


def require_sdk() -> None:
    """Raises ``ConfigError`` when the packages are not installed."""
    try:
        import opentelemetry.exporter.otlp.proto.http.trace_exporter
        import opentelemetry.sdk.trace  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"[telemetry] otlp_endpoint is set, but a package is missing ({error.name}); install it with "
            '`pip install "upeti[telemetry]"`, or remove the setting'
        ) from error


def trace_id_of(call_id: str) -> int:
    """Return the trace of a call: 128 bits that follow from its id."""
    return int.from_bytes(hashlib.sha256(f"trace {call_id}".encode()).digest()[:16]) or 1


def span_id_of(attempt: Attempt) -> int:
    name = f"span {attempt.instance} {attempt.opened.call} {attempt.opened.attempt}"
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) or 1


def sampled(call_id: str, share: float) -> bool:
    """Tell whether a call's attempts are sent as spans: all of a call or none."""
    digest = hashlib.sha256(f"sample {call_id}".encode()).digest()
    return int.from_bytes(digest[:4]) < share * _SHARES


def error_of(attempt: Attempt) -> str:
    """Return error.type: the provider's status, else how it ended; "" for an answer."""
    settled = attempt.settled
    if settled.status >= 400:
        return str(settled.status)
    return "" if settled.ended == _ANSWERED else settled.ended


def tokens_of(attempt: Attempt) -> tuple[int | None, int | None]:
    """Return input tokens, cached ones included, and output tokens; None where nothing was reported."""
    meters = attempt.settled.meters
    if meters is None:
        return None, None
    found = []
    for names in (m.INPUT_METERS, m.OUTPUT_METERS):
        known = [meters[name] for name in names if name in meters]
        found.append(sum(known) if known else None)
    return found[0], found[1]


def span_attributes(attempt: Attempt, endpoint: Endpoint, names: Names) -> Attributes:
    """Return what a span says of an attempt."""
    opened, settled = attempt.opened, attempt.settled
    found = common_attributes(attempt, endpoint, names)
    meters = settled.meters or {}
    for name, tokens in zip(("input", "output"), tokens_of(attempt), strict=True):
        if tokens is not None:
            found[f"gen_ai.usage.{name}_tokens"] = tokens
    if settled.provider_request_id:
        found["gen_ai.response.id"] = settled.provider_request_id
    if settled.status:
        found["http.response.status_code"] = settled.status
    if error := error_of(attempt):
        found["error.type"] = error
    by_version: tuple[tuple[str, int | float | None], ...] = (
        (names.cache_read, meters.get(m.INPUT_CACHED)),
        (names.cache_creation, sum(meters.get(name, 0) for name in CACHE_WRITES) or None),
        (names.reasoning, meters.get(m.OUTPUT_REASONING)),
        (names.stream, opened.stream or None),
        (names.first_chunk, settled.first_byte_us / 1e6 if opened.stream and settled.first_byte_us >= 0 else None),
    )
    found |= {name: value for name, value in by_version if name and value is not None}
    own: dict[str, str | int] = {
        "call_id": opened.call_id,
        "attempt": opened.attempt,
        "instance": attempt.instance,
        "tenant": opened.tenant,
        "project": opened.project,
        "key": opened.key,
        "feature": opened.feature,
        "task": opened.task,
        "route": opened.route,
        "channel": opened.channel,
        "outcome": settled.outcome.value,
        "ended": settled.ended,
        "currency": opened.currency,
        "price_id": settled.price_id,
        "service_tier": settled.tier,
    }
    if settled.outcome != "unpriced":
        own["cost"] = decimal_text(settled.cost_pico)
    found |= {f"upeti.{name}": value for name, value in own.items() if value != ""}
    return found | {f"upeti.usage.{name}": quantity for name, quantity in meters.items()}


def common_attributes(attempt: Attempt, endpoint: Endpoint, names: Names) -> Attributes:
    """Return what spans and metrics have in common."""
    opened = attempt.opened
    found: Attributes = {
        "gen_ai.operation.name": OPERATIONS.get(opened.wire, opened.wire),
        names.provider: provider_of(endpoint.kind, endpoint.host),
        "gen_ai.request.model": opened.model,
    }
    if endpoint.host:
        found |= {"server.address": endpoint.host, "server.port": endpoint.port}
    return found


def duration_s(attempt: Attempt) -> float:
    total_us = attempt.settled.total_us
    return total_us / 1e6 if total_us >= 0 else max(0, attempt.settled.at_ns - attempt.opened.at_ns) / 1e9


class Exporter:
    """Sends spans and metrics; ``send_*`` say whether the collector took them."""

    def __init__(
        self,
        endpoint: str,
        headers: Mapping[str, str],
        names: Names,
        service_name: str,
        node: str,
        *,
        delta: bool,
    ) -> None:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.metrics import Counter, Histogram, MeterProvider
        from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader
        from opentelemetry.sdk.resources import Resource

        base = endpoint.rstrip("/")
        self.endpoints: dict[str, Endpoint] = {}  # by channel
        self._names = names
        self._resource: Resource = Resource.create(
            {"service.name": service_name, "service.version": __version__, "service.instance.id": node or "upeti"}
        )
        self._spans = OTLPSpanExporter(f"{base}/v1/traces", headers=headers, timeout=_TIMEOUT_S)
        self._metrics = OTLPMetricExporter(f"{base}/v1/metrics", headers=headers, timeout=_TIMEOUT_S)
        kind = AggregationTemporality.DELTA if delta else AggregationTemporality.CUMULATIVE
        self._reader = InMemoryMetricReader(preferred_temporality={Counter: kind, Histogram: kind})
        self._provider = MeterProvider([self._reader], self._resource, shutdown_on_exit=False)
        meter = self._provider.get_meter("upeti", __version__)
        self._tokens = meter.create_histogram(
            "gen_ai.client.token.usage",
            unit="{token}",
            description="Number of input and output tokens used.",
            explicit_bucket_boundaries_advisory=TOKEN_BUCKETS,
        )
        self._durations = meter.create_histogram(
            "gen_ai.client.operation.duration",
            unit="s",
            description="GenAI operation duration.",
            explicit_bucket_boundaries_advisory=SECOND_BUCKETS,
        )
        self._costs = meter.create_counter(
            "upeti.cost", unit="{currency}", description="Cost settled, estimates included; a float, for watching."
        )
        self._attempts = meter.create_counter("upeti.attempts", unit="{attempt}", description="Attempts settled.")
        self._unsent: object | None = None  # metrics that were collected and not taken yet

    def record(self, attempt: Attempt) -> None:
        """Count an attempt in the metrics."""
        opened, settled = attempt.opened, attempt.settled
        common = common_attributes(attempt, self._endpoint(attempt), self._names)
        for kind, tokens in zip(("input", "output"), tokens_of(attempt), strict=True):
            if tokens is not None:
                self._tokens.record(tokens, common | {"gen_ai.token.type": kind})
        error = error_of(attempt)
        self._durations.record(duration_s(attempt), common | ({"error.type": error} if error else {}))
        who = {"upeti.tenant": opened.tenant, "upeti.channel": opened.channel, "gen_ai.request.model": opened.model}
        self._attempts.add(1, who | {"upeti.outcome": settled.outcome.value})
        if settled.cost_pico:
            self._costs.add(settled.cost_pico / PICO_PER_UNIT, who | {"upeti.currency": opened.currency})

    def send_spans(self, attempts: Sequence[Attempt]) -> bool:
        from opentelemetry.sdk.trace import ReadableSpan
        from opentelemetry.sdk.trace.export import SpanExportResult
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope
        from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

        scope = InstrumentationScope("upeti", __version__)
        spans = []
        for attempt in attempts:
            attributes = span_attributes(attempt, self._endpoint(attempt), self._names)
            start_ns = attempt.opened.at_ns
            error = error_of(attempt)
            spans.append(
                ReadableSpan(
                    f"{attributes['gen_ai.operation.name']} {attempt.opened.model}",
                    SpanContext(
                        trace_id_of(attempt.opened.call_id),
                        span_id_of(attempt),
                        is_remote=False,
                        trace_flags=TraceFlags(TraceFlags.SAMPLED),
                    ),
                    resource=self._resource,
                    attributes=attributes,
                    kind=SpanKind.CLIENT,
                    status=Status(StatusCode.ERROR, error) if error else Status(StatusCode.UNSET),
                    start_time=start_ns,
                    end_time=start_ns + int(duration_s(attempt) * 1e9),
                    instrumentation_scope=scope,
                )
            )
        return not spans or self._spans.export(spans) is SpanExportResult.SUCCESS

    def send_metrics(self) -> bool:
        """Send what was counted; what was not taken the last time is sent first, as it was."""
        from opentelemetry.sdk.metrics.export import MetricExportResult

        for _ in range(2):
            fresh = self._unsent is None
            data = self._reader.get_metrics_data() if fresh else self._unsent
            if data is None:
                return True
            self._unsent = data
            if self._metrics.export(data) is not MetricExportResult.SUCCESS:  # type: ignore[arg-type]
                return False
            self._unsent = None
            if fresh:
                break
        return True

    def close(self, *, metrics: bool) -> None:
        """Interrupt spans, and with ``metrics`` these too, that wait to be tried again; nothing more is sent of them."""
        self._spans.shutdown()  # type: ignore[no-untyped-call]
        if metrics:
            self._metrics.shutdown()

    def _endpoint(self, attempt: Attempt) -> Endpoint:
        return self.endpoints.get(attempt.opened.channel, _NOWHERE)
