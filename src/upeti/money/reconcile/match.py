"""The provider's lines and our usage, side by side: cells of day, account, model, tier, context and meter.

Rules: an account of the report belongs to the channel that names it, or to the one channel of that provider when none
does; an account that belongs to no channel is kept apart. A dated model name and the same name without a date are one
model where the other side has no closer match. What one side does not split by (tier, context, a meter that is priced as
another) is summed up on the other. Nothing is dropped: both sides' cells sum to both sides' totals.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import Final

import msgspec

from upeti.core.amount import convert_pico
from upeti.core.errors import UpetiError
from upeti.core.events import CostCorrected
from upeti.money.price import PRICED_AS, Price
from upeti.money.reconcile.lines import Nature, Report, ReportLine
from upeti.money.reconcile.models import same_models
from upeti.money.usage import CORRECTED, PER_CALL, UNMETERED, UsageRow, meter_costs

WHOLE: Final = "*"  # instead of a model or a meter: the report does not split by it
ESTIMATED: Final = "estimated"  # instead of a meter: what was posted at bounds
HOURS: Final = "provisioned hours"  # instead of a meter: capacity that is paid by the hour
REPRICED: Final = "repriced"  # instead of a meter: what re-pricing corrected

_PLACES_MAX: Final = 5

PriceOf = Callable[[str], Price | None]
ConvertTo = Callable[[str, str, datetime.date], Decimal]  # (from, to, day) → how many of the second one of the first is


class MatchError(UpetiError):
    """The two sides cannot be put beside each other. The message names the cure."""


class Channels(msgspec.Struct, frozen=True):
    """Which channel an account of the report belongs to."""

    accounts: Mapping[str, str] = {}  # account, in small letters, perhaps "@" and a zone → channel
    default: str = ""  # the channel of every line, where no channel names an account

    def of(self, line: ReportLine) -> str:
        """Return the channel's name, "" when the account is not one of ours."""
        for account in line.accounts:
            for name in (f"{account}@{line.zone}", account):
                if name in self.accounts:
                    return self.accounts[name]
        if self.default or not self.accounts:
            return self.default
        names = set(self.accounts.values())
        if not line.accounts and len(names) == 1:
            return names.pop()
        return ""

    def names(self) -> set[str]:
        return {*self.accounts.values(), self.default} - {""}


class GroupKey(msgspec.Struct, frozen=True, order=True):
    """What is compared day by day. ``channel`` is "" for an account that is not ours, named in ``account``."""

    currency: str
    channel: str
    account: str
    model: str
    tier: str
    call: str
    nature: str


class Theirs(msgspec.Struct):
    """What the report says of one cell."""

    lines: int = 0
    costs: int = 0  # how many lines have a cost
    cost_pico: int = 0
    error_pico: int = 0
    quantity: dict[str, Decimal] = msgspec.field(default_factory=dict)  # meter → of lines with a cost
    counted: dict[str, Decimal] = msgspec.field(default_factory=dict)  # meter → of lines without one
    unknown: int = 0  # lines with a cost and no quantity
    places: list[str] = msgspec.field(default_factory=list)
    names: set[str] = msgspec.field(default_factory=set)
    converted_from: str = ""  # the currency that the amount was converted from, at a rate of ours

    def quantities(self) -> dict[str, int] | None:
        """Return meter → quantity, None when it is not known of all that was billed."""
        found = self.counted if self.unknown else self.quantity or self.counted
        if self.unknown and not self.counted:
            return None
        if any(quantity != int(quantity) for quantity in found.values()):
            return None
        return {meter: int(quantity) for meter, quantity in found.items()}


class Ours(msgspec.Struct):
    """What our usage says of one cell: exactly metered costs."""

    cost_pico: int = 0
    units: dict[str, dict[tuple[str, int], int]] = msgspec.field(
        default_factory=dict
    )  # meter → (price id, unit) → quantity

    def quantities(self) -> dict[str, int]:
        return {meter: sum(units.values()) for meter, units in self.units.items()}


class Cell(msgspec.Struct):
    theirs: Theirs = msgspec.field(default_factory=Theirs)
    ours: Ours = msgspec.field(default_factory=Ours)


class EstimatedRow(msgspec.Struct):
    """Usage that was posted at bounds, with what earlier reports corrected of it."""

    row: UsageRow
    call: str
    bound_pico: int = 0  # what it was posted at
    now_pico: int = 0  # what is owed for it after earlier corrections
    corrected: bool = False
    meters: dict[str, int] = msgspec.field(default_factory=dict)  # what earlier reports said was used


class Day(msgspec.Struct):
    """One day of a group."""

    cells: dict[tuple[str, str], Cell] = msgspec.field(default_factory=dict)  # (context, meter)
    estimated: dict[str, EstimatedRow] = msgspec.field(default_factory=dict)  # by its dimensions
    aborted_pico: int = 0  # of the bounds: the client left or cancelled
    unpriced: int = 0  # attempts without a price
    unpriced_meters: dict[str, int] = msgspec.field(default_factory=dict)
    attempts: int = 0  # of ours that were sent


class Matched(msgspec.Struct):
    """Both sides, by group and day."""

    groups: dict[GroupKey, dict[datetime.date, Day]] = msgspec.field(default_factory=dict)


class OurUsage(msgspec.Struct, frozen=True):
    """A row of usage; of one attempt, when ``call`` is its id."""

    row: UsageRow
    call: str = ""


class OurCapacity(msgspec.Struct, frozen=True):
    """What the ledger has for a day of provisioned throughput."""

    day: datetime.date
    channel: str
    currency: str
    cost_pico: int


class AbortedKey(msgspec.Struct, frozen=True):
    """Which estimated usage it was whose clients left or cancelled."""

    day: datetime.date
    channel: str
    model: str
    call: str = ""


class TakenBackKey(msgspec.Struct, frozen=True):
    """Which estimated usage a correction took back."""

    day: datetime.date
    name: str  # as ``estimated_name`` says


class LineKey(msgspec.Struct, frozen=True):
    """A line's place before models are made one."""

    currency: str
    channel: str
    account: str
    model: str
    tier: str
    call: str
    nature: Nature
    day: datetime.date
    context: str
    meter: str
    name: str  # of what is no usage


def collect(
    report: Report, channels: Channels, first_day: datetime.date | None, last_day: datetime.date | None
) -> dict[LineKey, Theirs]:
    """Read the whole report into sums; only the sums are kept, so that a file may be larger than memory.

    Raises ``ReportError``, ``MatchError`` for a line that may be of several channels.
    """
    sums: dict[LineKey, Theirs] = {}
    for line in report.lines:
        if (first_day is not None and line.day < first_day) or (last_day is not None and line.day > last_day):
            report.note("lines of other days than asked for")
            continue
        channel = channels.of(line)
        if not channel and not line.accounts and not line.call and line.nature is Nature.USAGE:
            raise MatchError(
                f"{line.place} does not say whose account it is: ask for the report by account (OpenAI: group_by=project_id, "
                "Anthropic: group_by[]=workspace_id), or say whose all of it is with --channel"
            )
        key = LineKey(
            line.currency,
            channel,
            "" if channel or not line.accounts else line.accounts[0],
            line.model,
            line.tier if "tier" in report.tells else "",
            line.call,
            line.nature,
            line.day,
            _context(line) if "context" in report.tells else "",
            line.meter,
            "" if line.nature is Nature.USAGE else line.name,
        )
        found = sums.get(key)
        if found is None:
            found = sums[key] = Theirs()
        found.lines += 1
        if len(found.places) < _PLACES_MAX:
            found.places.append(line.place)
            found.names.add(line.name)
        if line.cost_pico is not None:
            found.costs += 1
            found.cost_pico += line.cost_pico
            found.error_pico += line.cost_error_pico
            if line.quantity is None:
                found.unknown += 1
            else:
                found.quantity[line.meter] = found.quantity.get(line.meter, Decimal(0)) + line.quantity
        elif line.quantity is not None:
            found.counted[line.meter] = found.counted.get(line.meter, Decimal(0)) + line.quantity
    return sums


def _context(line: ReportLine) -> str:
    """A model without long contexts is billed by meters that do not name one."""
    return line.context or ("short" if line.nature is Nature.USAGE else "")


def match(
    report: Report,
    sums: Mapping[LineKey, Theirs],
    usage: Iterable[OurUsage],
    price_of: PriceOf,
    *,
    aborted: Mapping[AbortedKey, int] | None = None,
    taken_back: Mapping[TakenBackKey, int] | None = None,
    capacity: Iterable[OurCapacity] = (),
    call_names: Mapping[str, str] | None = None,
    models: Mapping[str, str] | None = None,
    convert: ConvertTo | None = None,
) -> Matched:
    """Put sums of a report beside usage of the same days and channels.

    ``aborted`` is how much of the estimated usage its clients left or cancelled, ``taken_back`` what corrections took back
    of it, ``call_names`` provider's request id → attempt id, ``models`` their name → our name where no rule finds it.
    Raises ``MatchError`` when the two sides have nothing in common to be compared by.
    """
    matched = Matched()
    rows = [one for one in usage if one.row.outcome != "voided"]
    rows.sort(key=lambda one: (one.row.day, estimated_name(one.row, one.call), one.row.price_id, one.row.outcome))
    sides = _Sides(report, sums, rows, models or {}, call_names or {})
    for key, found in sums.items():
        sides.place(matched, key, found, convert)
    for one in rows:
        _place_ours(matched, one, sides, price_of)
    _finish_estimates(matched, taken_back or {}, dict(aborted or {}))
    for hours in capacity:
        group = GroupKey(hours.currency, hours.channel, "", "", "", "", Nature.CAPACITY.value)
        day = matched.groups.setdefault(group, {}).setdefault(hours.day, Day())
        day.cells.setdefault(("", HOURS), Cell()).ours.cost_pico += hours.cost_pico
    return matched


class _Sides:
    """What is known of both sides before any cell is made: names of models, how coarse the report is, currencies."""

    def __init__(
        self,
        report: Report,
        sums: Mapping[LineKey, Theirs],
        rows: list[OurUsage],
        models: Mapping[str, str],
        call_names: Mapping[str, str],
    ) -> None:
        self.report = report
        self.call_names = call_names
        self.calls = {one.call: one.row for one in rows if one.call}
        self.estimated = {
            (one.row.day, estimated_name(one.row, one.call)) for one in rows if one.row.outcome == "estimated"
        }
        usage_keys = [(key, found) for key, found in sums.items() if key.nature is Nature.USAGE]
        if any(not key.model and not key.call and not found.costs for key, found in usage_keys):
            raise MatchError("the report counts tokens without naming the model: ask for it with group_by=model")
        # A report that says nothing of models is compared channel by channel.
        self.whole = {key.channel for key, found in usage_keys if found.costs and not key.model and not key.call}
        self.their_meters: dict[tuple[str, str], set[str]] = {}
        self.currencies: dict[str, set[str]] = {}
        their_models: dict[str, set[str]] = {}
        our_models: dict[str, set[str]] = {}
        for key, _ in usage_keys:
            if key.model and not key.call:
                their_models.setdefault(key.channel, set()).add(models.get(key.model, key.model))
        for one in rows:
            our_models.setdefault(one.row.channel, set()).add(one.row.model)
            self.currencies.setdefault(one.row.channel, set()).add(one.row.currency)
        self._given = models
        self._same = {
            channel: same_models(names, our_models.get(channel, set())) for channel, names in their_models.items()
        }
        for key, _ in usage_keys:
            self.their_meters.setdefault((key.channel, self.model(key.channel, key.model)), set()).add(key.meter)

    def model(self, channel: str, name: str) -> str:
        """Return the one name of a model of either side."""
        if channel in self.whole:
            return WHOLE
        name = self._given.get(name, name)
        return self._same.get(channel, {}).get(name, name)

    def meter(self, channel: str, model: str, meter: str, call: str) -> str:
        """Return under which meter a meter of ours is compared."""
        if channel in self.whole or call:
            return WHOLE
        told = self.their_meters.get((channel, model), set())
        return PRICED_AS[meter] if meter in PRICED_AS and meter not in told else meter

    def place(self, matched: Matched, key: LineKey, found: Theirs, convert: ConvertTo | None) -> None:
        found = msgspec.structs.replace(found)  # what was read stays as it was read
        call = self.call_names.get(key.call, key.call)
        ours = self.calls.get(call)
        channel = key.channel if ours is None else ours.channel
        model, tier = self.model(channel, key.model), key.tier
        if ours is not None:
            model, tier = ours.model, ours.tier
        nature = key.nature.value
        context, meter = key.context, key.meter
        if key.nature is not Nature.USAGE:
            hours = key.nature is Nature.CAPACITY
            model, tier, context, meter = "", "", "", HOURS if hours else key.name or key.meter
        elif channel in self.whole and not found.costs:
            return  # counts of a report whose costs are not split: there is nothing to put them beside
        elif channel in self.whole or call:
            context, meter, tier = "", WHOLE, tier if call else ""
        currency = self._currency(key, found, channel, convert)
        group = GroupKey(currency, channel, key.account, model, tier, call, nature)
        cell = (
            matched.groups.setdefault(group, {}).setdefault(key.day, Day()).cells.setdefault((context, meter), Cell())
        )
        _add(cell.theirs, found)

    def _currency(self, key: LineKey, found: Theirs, channel: str, convert: ConvertTo | None) -> str:
        """Return the currency of a group; convert what is billed in another one than our usage is in."""
        ours = self.currencies.get(channel, set())
        if not found.costs:
            return ours.copy().pop() if len(ours) == 1 else key.currency
        if key.currency in ours or len(ours) != 1:
            return key.currency
        (currency,) = ours
        if convert is None:
            raise MatchError(
                f"the report is in {key.currency} and the usage of {channel} in {currency}: name a file of dated rates "
                "with --rates"
            )
        rate = convert(key.currency, currency, key.day)
        found.cost_pico = convert_pico(found.cost_pico, rate)
        found.error_pico = convert_pico(found.error_pico, rate)
        found.converted_from = key.currency
        return currency

    def tier(self, row: UsageRow, call: str) -> str:
        return row.tier if ("tier" in self.report.tells or call) and row.channel not in self.whole else ""

    def context(self, row: UsageRow, call: str) -> str:
        if "context" not in self.report.tells or call or row.channel in self.whole:
            return ""
        return "long" if row.cliff else "short"


def _add(to: Theirs, found: Theirs) -> None:
    to.lines += found.lines
    to.costs += found.costs
    to.cost_pico += found.cost_pico
    to.error_pico += found.error_pico
    to.unknown += found.unknown
    for into, counts in ((to.quantity, found.quantity), (to.counted, found.counted)):
        for meter, quantity in counts.items():
            into[meter] = into.get(meter, Decimal(0)) + quantity
    to.places = (to.places + found.places)[:_PLACES_MAX]
    to.names |= found.names
    to.converted_from = to.converted_from or found.converted_from


def _place_ours(matched: Matched, one: OurUsage, sides: _Sides, price_of: PriceOf) -> None:
    row, call = one.row, one.call
    model = row.model if call else sides.model(row.channel, row.model)
    group = GroupKey(row.currency, row.channel, "", model, sides.tier(row, call), call, Nature.USAGE.value)
    day = matched.groups.setdefault(group, {}).setdefault(row.day, Day())
    day.attempts += row.attempts
    # A correction of an estimate names no price; nor does re-pricing from several at once, but that has no estimate.
    reconciled = (
        row.outcome == CORRECTED and not row.price_id and (row.day, estimated_name(row, call)) in sides.estimated
    )
    if row.outcome == "estimated" or reconciled:
        _place_estimated(day, one)
        return
    if row.outcome == "unpriced":
        day.unpriced += row.attempts
        for meter, quantity in row.meters.items():
            name = sides.meter(row.channel, model, meter, call)
            day.unpriced_meters[name] = day.unpriced_meters.get(name, 0) + quantity
        return
    context = sides.context(row, call)
    for part in meter_costs(row, price_of(row.price_id) if row.price_id else None):
        meter = sides.meter(row.channel, model, part.meter, call)
        if part.meter == UNMETERED and meter != WHOLE:
            meter = REPRICED if row.outcome == CORRECTED else UNMETERED
        cell = day.cells.setdefault((context if meter not in (REPRICED, UNMETERED) else "", meter), Cell())
        cell.ours.cost_pico += part.cost_pico
        if part.unit_pico is not None and part.meter != PER_CALL:
            counted = PRICED_AS[part.meter] if meter == PRICED_AS.get(part.meter) else part.meter
            units = cell.ours.units.setdefault(counted, {})
            at = (row.price_id, part.unit_pico)
            units[at] = units.get(at, 0) + part.quantity


def _place_estimated(day: Day, one: OurUsage) -> None:
    """An earlier report's correction belongs to the estimated usage with the same dimensions."""
    name = estimated_name(one.row, one.call)
    found = day.estimated.get(name)
    if found is None:
        found = day.estimated[name] = EstimatedRow(one.row, one.call)
    found.now_pico += one.row.cost_pico
    if one.row.outcome == CORRECTED:
        found.corrected = True
        for meter, quantity in one.row.meters.items():
            found.meters[meter] = found.meters.get(meter, 0) + quantity
        return
    found.bound_pico += one.row.cost_pico
    found.row = one.row


def _finish_estimates(matched: Matched, taken_back: Mapping[TakenBackKey, int], aborted: dict[AbortedKey, int]) -> None:
    """Usage says what is still estimated: what a correction took back is what it was posted at before."""
    for group in sorted(matched.groups):
        for date, day in matched.groups[group].items():
            for name in sorted(day.estimated):
                found = day.estimated[name]
                if found.corrected:
                    found.bound_pico += taken_back.get(TakenBackKey(date, name), 0)
                    found.bound_pico = max(found.bound_pico, found.now_pico, 0)
                key = AbortedKey(date, found.row.channel, found.row.model, found.call)
                pico = min(found.bound_pico, aborted.get(key, 0))
                if pico > 0:
                    aborted[key] -= pico
                    day.aborted_pico += pico


def estimated_name(row: UsageRow | CostCorrected, call: str) -> str:
    """Return what tells estimated usage of one day apart: who called what, for which purpose."""
    caller = (row.tenant, row.project, row.key, row.feature, row.task, row.route)
    return "\x1f".join((*caller, row.channel, row.model, row.wire, row.tier, call))
