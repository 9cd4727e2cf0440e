"""Counters of one worker, as Prometheus samples.

Rules: labels are names from the configuration; tenants and models, which can be without end (a key's tenant, a model
that a client names behind the route ``*``), are labels of money alone, and only for the first ``SERIES_MAX``
combinations: what comes later is counted as ``other``, and how often that was is counted too. Values are floats, for
graphs and alarms; bills are made from the journal. A worker adds; the keeper sums over workers and answers a scrape.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Final

from upeti.core.amount import PICO_PER_UNIT
from upeti.core.events import AttemptOpened, AttemptSettled, Outcome

# Seconds; covers a cached embedding to a long reasoning answer.
LATENCY_BUCKETS_S: Final = (
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    60.0,
    120.0,
    300.0,
)

SERIES_MAX: Final = 500  # of money: a worker's report stays under a few hundred KB, and a scrape too
OTHER: Final = "other"
_LABEL_MAX: Final = 200

_EDGES_US: Final = [int(edge * 1e6) for edge in LATENCY_BUCKETS_S]

HELP: Final = {
    "upeti_calls_total": ("counter", "Calls answered, by status class."),
    "upeti_attempts_total": ("counter", "Attempts settled, by channel and outcome."),
    "upeti_cost_total": (
        "counter",
        "Cost posted, estimates included, in the price's currency. A float: for graphs, not for bills.",
    ),
    "upeti_cost_estimated_total": (
        "counter",
        "The part of upeti_cost_total that was posted at a bound. A float: for graphs, not for bills.",
    ),
    "upeti_attempts_estimated_total": ("counter", "Attempts posted at their bound, until the provider reports."),
    "upeti_attempts_unpriced_total": ("counter", "Attempts that are owed, at a price that is not known."),
    "upeti_attempts_folded_total": ("counter", "Attempts whose tenant and model are counted as other."),
    "upeti_tokens_total": ("counter", "Tokens metered, by channel and meter."),
    "upeti_deferrals_total": ("counter", "Calls that own models left to the next candidate, by channel and reason."),
    "upeti_refusals_total": ("counter", "Calls refused by the gateway, by code."),
    "upeti_attempt_seconds": ("histogram", "Time from dispatch to the end of the answer."),
    "upeti_first_byte_seconds": ("histogram", "Time from dispatch to the first byte of the answer."),
    "upeti_exchanges_sent_total": ("counter", "Exchanges handed to the process that keeps or watches them."),
    "upeti_exchanges_dropped_total": ("counter", "Exchanges that were not handed on, by reason; no call waits for it."),
    "upeti_calls_in_flight": ("gauge", "Calls being served."),
    "upeti_client_connections": ("gauge", "Open client connections."),
    "upeti_upstream_connections": ("gauge", "Open connections to providers, by channel."),
    "upeti_channel_open": ("gauge", "1 while a channel's breaker is open."),
    "upeti_channel_latched": ("gauge", "Workers in which a channel, or its key, is latched."),
    "upeti_models_latched": ("gauge", "Models of channels that are latched, over workers."),
    "upeti_tenants_held": ("gauge", "Tenants held for an abuse block, over workers."),
    "upeti_probes_total": ("counter", "Known-good probes, by verdict."),
    "upeti_content_refusals_total": (
        "counter",
        "Calls that a provider's content filter refused or cut off, by channel.",
    ),
}


class Histogram:
    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(LATENCY_BUCKETS_S) + 1)
        self.total = 0.0

    def add(self, times_us: list[int]) -> None:
        """Count many at once: sorting them and finding the edges costs a tenth of finding each one's bucket."""
        times_us.sort()
        below = 0
        for bucket, edge_us in enumerate(_EDGES_US):
            up_to = bisect_right(times_us, edge_us)
            self.counts[bucket] += up_to - below
            below = up_to
        self.counts[-1] += len(times_us) - below
        self.total += sum(times_us) / 1e6
        times_us.clear()


class ChannelMetrics:
    """What one channel did in this worker."""

    __slots__ = ("first_byte", "first_bytes_us", "outcomes", "seconds", "tokens", "totals_us")

    def __init__(self) -> None:
        self.outcomes: dict[str, int] = {}
        self.tokens: dict[str, int] = {}
        self.seconds = Histogram()
        self.first_byte = Histogram()
        self.totals_us: list[int] = []  # not yet in the histograms
        self.first_bytes_us: list[int] = []


class MoneyMetrics:
    """What attempts of one tenant, channel, model and currency cost."""

    __slots__ = ("cost_pico", "estimated", "estimated_pico", "unpriced")

    def __init__(self) -> None:
        self.cost_pico = 0
        self.estimated = 0
        self.estimated_pico = 0
        self.unpriced = 0


class WorkerMetrics:
    def __init__(self) -> None:
        self.answers: dict[int, int] = {}  # status → calls
        self.refusals: dict[str, int] = {}
        self.channels: dict[str, ChannelMetrics] = {}
        self.money: dict[tuple[str, str, str, str], MoneyMetrics] = {}  # by tenant, channel, model, currency
        self.deferrals: dict[tuple[str, str], int] = {}  # by channel and reason
        self.folded = 0
        self.settled: list[tuple[AttemptOpened, AttemptSettled]] = []  # counted by ``fold`` later

    def refused(self, code: str) -> None:
        self.refusals[code] = self.refusals.get(code, 0) + 1

    def deferred(self, channel: str, reason: str) -> None:
        self.deferrals[channel, reason] = self.deferrals.get((channel, reason), 0) + 1

    def fold(self) -> None:
        """Count what was settled since the last time; called by the tick, so that no call pays for it."""
        settled, self.settled = self.settled, []
        for opened, record in settled:
            name = opened.channel
            metrics = self.channels.get(name)
            if metrics is None:
                metrics = self.channels[name] = ChannelMetrics()
            outcome = record.outcome
            metrics.outcomes[outcome] = metrics.outcomes.get(outcome, 0) + 1
            money = self.money.get((opened.tenant, name, opened.model, opened.currency)) or self._money(opened)
            if record.cost_pico:
                money.cost_pico += record.cost_pico
            if outcome is not Outcome.POSTED:
                if outcome == Outcome.ESTIMATED:
                    money.estimated += 1
                    money.estimated_pico += record.cost_pico
                elif outcome == Outcome.UNPRICED:
                    money.unpriced += 1
            if record.meters:
                tokens = metrics.tokens
                for meter, quantity in record.meters.items():
                    tokens[meter] = tokens.get(meter, 0) + quantity
            if record.total_us >= 0:
                metrics.totals_us.append(record.total_us)
                metrics.first_bytes_us.append(record.first_byte_us)

    def _money(self, opened: AttemptOpened) -> MoneyMetrics:
        """Return where an attempt's money is counted when that is not known yet: of its own, or of all others."""
        names = (opened.tenant, opened.channel, opened.model, opened.currency)
        if len(self.money) >= SERIES_MAX:
            self.folded += 1
            names = (OTHER, opened.channel, OTHER, opened.currency)
        return self.money.setdefault(names, MoneyMetrics())

    def samples(self) -> dict[str, float]:
        """Return sample name (labels included) → value."""
        self.fold()
        values: dict[str, float] = {}
        for status, count in self.answers.items():
            name = f'upeti_calls_total{{status="{status // 100}xx"}}'
            values[name] = values.get(name, 0) + count
        for code, count in self.refusals.items():
            values[f'upeti_refusals_total{{code="{code}"}}'] = count
        for (channel, reason), count in self.deferrals.items():
            values[f'upeti_deferrals_total{{channel="{channel}",reason="{reason}"}}'] = count
        for channel, metrics in self.channels.items():
            for outcome, count in metrics.outcomes.items():
                values[f'upeti_attempts_total{{channel="{channel}",outcome="{outcome}"}}'] = count
            for meter, count in metrics.tokens.items():
                values[f'upeti_tokens_total{{channel="{channel}",meter="{meter}"}}'] = count
            metrics.seconds.add(metrics.totals_us)
            metrics.first_byte.add(metrics.first_bytes_us)
            _histogram(values, "upeti_attempt_seconds", channel, metrics.seconds)
            _histogram(values, "upeti_first_byte_seconds", channel, metrics.first_byte)

        def add(family: str, labels: str, amount: float) -> None:  # two long names may have become one
            values[f"{family}{{{labels}}}"] = values.get(f"{family}{{{labels}}}", 0) + amount

        for (tenant, channel, model, currency), money in self.money.items():
            who = f'tenant="{label(tenant)}",channel="{channel}",model="{label(model)}"'
            add("upeti_cost_total", f'{who},currency="{currency}"', money.cost_pico / PICO_PER_UNIT)
            if money.estimated:
                add("upeti_cost_estimated_total", f'{who},currency="{currency}"', money.estimated_pico / PICO_PER_UNIT)
                add("upeti_attempts_estimated_total", who, money.estimated)
            if money.unpriced:
                add("upeti_attempts_unpriced_total", who, money.unpriced)
        values["upeti_attempts_folded_total"] = self.folded
        return values


def label(text: str) -> str:
    """Return a text as it stands between the quotes of a label."""
    if len(text) > _LABEL_MAX:
        text = f"{text[:_LABEL_MAX]}…"
    if not text.isalnum():
        text = text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
    return text


def _histogram(values: dict[str, float], name: str, channel: str, histogram: Histogram) -> None:
    running = 0
    for edge, count in zip((*LATENCY_BUCKETS_S, "+Inf"), histogram.counts, strict=True):
        running += count
        values[f'{name}_bucket{{channel="{channel}",le="{edge}"}}'] = running
    values[f'{name}_sum{{channel="{channel}"}}'] = histogram.total
    values[f'{name}_count{{channel="{channel}"}}'] = running
