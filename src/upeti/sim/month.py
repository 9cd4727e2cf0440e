"""A month of billions of calls, sampled and weighted: usage as the journals of such a month would sum up to.

Rules: every call of the month is counted, a few are drawn. Calls are split over hours, features and candidates by whole
numbers, so that they add up to the month's total; in each cell a few calls are drawn from a seed, each is priced exactly
by the price book and stands for a whole number of calls. Nothing is scaled afterwards: what the month costs follows from
the mix, which is data with remarks. No clock, no files: the same mix, prices and seed give the same rows.
"""

from __future__ import annotations

import calendar
import datetime
import math
from collections.abc import Iterator, Mapping, Sequence
from random import Random
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from upeti.core import meters as m
from upeti.core.errors import ConfigError
from upeti.money.price import Price, bound_of, cliff_of, cost_of, price_at
from upeti.money.usage import UsageRow
from upeti.providers.dated_file import Text, rows_of

HOUR_S: Final = 3_600
_WEIGHT_SCALE: Final = 10**12  # rhythms are reals; from here on everything is whole numbers
_SAMPLES_MIN: Final = 4  # per cell
_BYTES_PER_TOKEN: Final = 4  # of a body, for the bound of an attempt whose end is unknown
_NS_PER_S: Final = 10**9

Permille = Annotated[int, Meta(ge=0, le=1000)]
PerMillion = Annotated[int, Meta(ge=0, le=1_000_000)]


class Tokens(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A log-normal distribution of tokens: its median, and the deviation of its logarithm."""

    median: Annotated[int, Meta(ge=1)]
    sigma: Annotated[float, Meta(ge=0, le=2)]


class Feature(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a tenant calls models for."""

    name: Text
    permille: Permille  # of the tenant's calls
    route: Text
    input: Tokens
    output: Tokens
    cached_permille: Permille = 0  # of the input, on average
    reasoning_permille: Permille = 0  # of the output
    remark: str = ""


class TenantMix(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One tenant's month."""

    name: Text
    calls: Annotated[int, Meta(ge=1)]
    peak_per_second: Annotated[int, Meta(ge=1)]  # mean of the busiest hour
    peak_hour: Annotated[int, Meta(ge=0, le=23)]  # local time
    weekend_permille: Annotated[int, Meta(ge=1)] = 1000  # of a working day's rate
    hours_from_utc: Annotated[int, Meta(ge=-12, le=14)] = 7
    # Of a million calls: never sent, then answered by the next candidate; sent, with an end that nobody knows.
    not_sent_per_million: PerMillion = 0
    lost_per_million: PerMillion = 0
    feature: Annotated[tuple[Feature, ...], Meta(min_length=1)]
    remark: str = ""


class Mix(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Head of a mix file."""

    remark: str = ""


class Lane(msgspec.Struct, frozen=True):
    """A candidate of a route, as far as money goes."""

    channel: str
    model: str
    wire: str
    weight: int  # 0 only takes what another one lost
    prices: tuple[Price, ...]


class Rate(msgspec.Struct, frozen=True):
    """Calls per second of one tenant, as they were drawn."""

    peak: int  # mean of the busiest hour
    average: int


class _Cell(msgspec.Struct):
    """Sums of one future usage row."""

    calls: int = 0
    attempts: int = 0
    unmetered: int = 0
    meters: dict[str, int] = msgspec.field(default_factory=dict)
    cost_pico: int = 0


class Spread(msgspec.Struct, frozen=True):
    """Where a feature's calls go in a day: what all its rows have in common."""

    day: datetime.date
    tenant: TenantMix
    feature: Feature

    def row(self, lane: Lane, price: Price, outcome: str, cliff: int, cell: _Cell) -> UsageRow:
        return UsageRow(
            day=self.day,
            tenant=self.tenant.name,
            key=f"{self.tenant.name}-prod",
            feature=self.feature.name,
            route=self.feature.route,
            channel=lane.channel,
            model=lane.model,
            wire=lane.wire,
            price_id="" if outcome == "voided" else price.id,
            cliff=cliff,
            outcome=outcome,
            currency=price.currency,
            calls=cell.calls,
            attempts=cell.attempts,
            unmetered=cell.unmetered,
            meters=cell.meters,
            cost_pico=cell.cost_pico,
        )


def read_mix(file: str, data: bytes) -> list[TenantMix]:
    """Return the tenants of a mix file. Raises ``ConfigError``."""
    tenants = []
    for dated in rows_of(file, data, "tenant", Mix, TenantMix)[1]:
        shares = sum(feature.permille for feature in dated.values.feature)
        if shares != 1000:
            raise dated.error(f"the features of {dated.values.name} have {shares} ‰ of its calls; make it 1000")
        tenants.append(dated.values)
    return tenants


def split(total: int, weights: Sequence[int]) -> list[int]:
    """Split a whole number by ``weights`` into whole numbers that sum to it; largest remainders get the rest."""
    whole = sum(weights)
    parts = [total * weight // whole for weight in weights]
    by_remainder = sorted(range(len(weights)), key=lambda place: total * weights[place] % whole, reverse=True)
    for place in by_remainder[: total - sum(parts)]:
        parts[place] += 1
    return parts


def hours_of(tenant: TenantMix, month: str) -> list[int]:
    """Return the calls of each hour of a month, UTC. Raises ``ConfigError`` for a peak that no rhythm reaches.

    A day is a bell around its busiest hour, as narrow as the peak asks for; a weekend is a factor on it.
    """
    start = datetime.datetime.fromisoformat(f"{month}-01")
    hours = calendar.monthrange(start.year, start.month)[1] * 24
    local = [start + datetime.timedelta(hours=hour + tenant.hours_from_utc) for hour in range(hours)]
    weekend = tenant.weekend_permille / 1000
    angles = [2 * math.pi * (at.hour - tenant.peak_hour) / 24 for at in local]
    factors = [weekend if at.weekday() >= 5 else 1.0 for at in local]

    def weights(narrow: float) -> list[float]:
        pairs = zip(angles, factors, strict=True)
        return [factor * math.exp(narrow * (math.cos(angle) - 1)) for angle, factor in pairs]

    wanted = tenant.peak_per_second * HOUR_S / tenant.calls  # share of the busiest hour
    low, high = 0.0, 60.0
    if not _peak(weights(low)) <= wanted <= _peak(weights(high)):
        mean = tenant.calls // (hours * HOUR_S)
        raise ConfigError(
            f"{tenant.name}: a peak of {tenant.peak_per_second} calls/s does not go with {mean} on average; "
            "choose one above the average and below twelve times it"
        )
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _peak(weights(middle)) < wanted else (low, middle)
    return split(tenant.calls, [round(weight * _WEIGHT_SCALE) for weight in weights(low)])


def _peak(weights: list[float]) -> float:
    return max(weights) / sum(weights)


def rate_of(hours: Sequence[int]) -> Rate:
    return Rate(max(hours) // HOUR_S, sum(hours) // (len(hours) * HOUR_S))


def usage_of(
    tenant: TenantMix, month: str, lanes: Mapping[str, Sequence[Lane]], seed: int, samples: int
) -> Iterator[UsageRow]:
    """Yield the usage of one tenant's month from about ``samples`` drawn calls. Raises ``ConfigError``."""
    hours = hours_of(tenant, month)
    first = datetime.date.fromisoformat(f"{month}-01")
    for number in range(len(hours) // 24):
        day = first + datetime.timedelta(days=number)
        calls = sum(hours[24 * number : 24 * number + 24])
        by_feature = split(calls, [feature.permille for feature in tenant.feature])
        for feature, count in zip(tenant.feature, by_feature, strict=True):
            if feature.route not in lanes:
                raise ConfigError(f"the configuration has no route {feature.route}, which {tenant.name} calls; add it")
            if count:
                spread = Spread(day, tenant, feature)
                yield from _day_of(spread, count, lanes[feature.route], seed, samples * count / tenant.calls)


def _day_of(spread: Spread, calls: int, lanes: Sequence[Lane], seed: int, samples: float) -> Iterator[UsageRow]:
    """Yield one feature's rows of one day: what each candidate answered, and what it lost to the next one."""
    by_lane = split(calls, [lane.weight for lane in lanes])
    inherited = [0] * len(lanes)  # attempts that are not the first of their call
    for place, (lane, count) in enumerate(zip(lanes, by_lane, strict=True)):
        following = (place + 1) % len(lanes)
        if not count or following == place:
            continue
        not_sent = count * spread.tenant.not_sent_per_million // 1_000_000
        lost = count * spread.tenant.lost_per_million // 1_000_000
        by_lane[place] -= not_sent + lost
        inherited[following] += not_sent + lost
        price = _price(lane, spread.day)
        if not_sent:
            yield spread.row(lane, price, "voided", 0, _Cell(calls=not_sent, attempts=not_sent))
        if lost:
            yield spread.row(lane, price, "estimated", 0, _lost(spread.feature, price, lost))
    for lane, first, later in zip(lanes, by_lane, inherited, strict=True):
        if first + later:
            yield from _answered(spread, lane, first, later, seed, samples * (first + later) / calls)


def _lost(feature: Feature, price: Price, count: int) -> _Cell:
    """Attempts that were sent and whose end is unknown: posted at their bound."""
    bound_pico = bound_of(
        price,
        input_tokens_max=feature.input.median * _BYTES_PER_TOKEN,
        output_tokens_max=feature.output.median * 4,
    )
    return _Cell(calls=count, attempts=count, unmetered=count, cost_pico=count * bound_pico)


def _answered(spread: Spread, lane: Lane, first: int, later: int, seed: int, samples: float) -> Iterator[UsageRow]:
    """Draw calls, price each, let each stand for many. ``later`` are attempts that are not the first of their call."""
    feature, price = spread.feature, _price(lane, spread.day)
    random = Random(f"{seed}/{spread.tenant.name}/{spread.day}/{feature.name}/{lane.channel}/{lane.model}")  # noqa: S311
    attempts = first + later
    drawn = min(attempts, max(_SAMPLES_MIN, round(samples)))
    left, left_first = attempts, first
    cells: dict[int, _Cell] = {}
    for number in range(drawn):
        weight = left // (drawn - number)
        left -= weight
        counted = min(left_first, weight)
        left_first -= counted
        meters = _draw(feature, lane, price, random)
        cost_pico = cost_of(price, meters)
        if cost_pico is None:
            raise ConfigError(f"{lane.channel}/{lane.model} has no price for {', '.join(meters)}; choose another model")
        cell = cells.setdefault(cliff_of(price, meters), _Cell())
        cell.calls += counted
        cell.attempts += weight
        cell.cost_pico += weight * cost_pico
        for name, quantity in meters.items():
            cell.meters[name] = cell.meters.get(name, 0) + weight * quantity
    for cliff, cell in sorted(cells.items()):
        yield spread.row(lane, price, "posted", cliff, cell)


def _draw(feature: Feature, lane: Lane, price: Price, random: Random) -> m.Meters:
    """Draw the meters of one call; a cache hit is all or nothing of a prompt's common part, so it is drawn too."""
    read = max(1, round(random.lognormvariate(math.log(feature.input.median), feature.input.sigma)))
    written = max(1, round(random.lognormvariate(math.log(feature.output.median), feature.output.sigma)))
    cached = 0
    if feature.cached_permille and m.INPUT_CACHED in price.pico:
        common = min(1000, feature.cached_permille + 100)  # hits are a little rarer than the common part is long
        if random.random() * common < feature.cached_permille:
            cached = read * common // 1000
    thought = written * feature.reasoning_permille // 1000
    meters = {m.INPUT: read - cached, m.INPUT_CACHED: cached, m.OUTPUT: written - thought, m.OUTPUT_REASONING: thought}
    if m.OUTPUT not in price.pico:  # embeddings write nothing
        return {m.INPUT: read}
    return {name: quantity for name, quantity in meters.items() if quantity}


def _price(lane: Lane, day: datetime.date) -> Price:
    noon = datetime.datetime.combine(day, datetime.time(12), datetime.UTC)
    price = price_at(lane.prices, int(noon.timestamp()) * _NS_PER_S)
    if price is None:
        raise ConfigError(f"{lane.channel}/{lane.model} has no price on {day}; choose a later month or another model")
    return price
