"""Names for every difference between what a provider bills and what we recorded.

Rules, in this order; each takes its part of the difference, and what is left goes on to the next (``statement.RULES`` says what
to do about each). A difference is theirs less ours, in pico units; the parts and the unexplained rest of a line sum to its
difference, by construction. The same two sides give the same result, whatever order they come in.

 #  class          of what                                   condition
 1  tax, capacity, a line that bills no call                 its nature says so
    adjustment,
    unmapped
 2  fx             same quantity, other unit price           the amount was converted at a rate of ours
    price          same quantity, other unit price           quantities are known on both sides
 3  rounding       as 2                                      within half a unit of the report's last decimal per line
 4  unpriced       quantity that we have without a price     both quantities are known
 5  day boundary   what is left on two neighbouring days     opposite signs; as much as cancels
 6  lost, aborted  estimated calls                           up to their bounds: same day, then a neighbouring day
 7  unpriced       the rest of a day                         attempts without a price, quantities not known
 8  bypass         the rest of a day                         nothing of ours on it: other account, model or key
 9  tokens         other quantity at our price               quantities are known on both sides
10  rounding       the rest of a line                        as 3, or within the tolerance that was asked for
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Final

import msgspec

from upeti.core.amount import PICO_DIGITS, decimal_text
from upeti.money.reconcile.lines import Nature
from upeti.money.reconcile.match import ESTIMATED, REPRICED, Cell, Day, GroupKey, Matched
from upeti.money.reconcile.statement import Billed, Kind, Line
from upeti.money.usage import PER_CALL, UNMETERED

_DAY: Final = datetime.timedelta(days=1)


_BY_NATURE: Final = {
    Nature.CAPACITY.value: Kind.CAPACITY,
    Nature.TAX.value: Kind.TAX,
    Nature.ADJUSTMENT.value: Kind.ADJUSTMENT,
    Nature.ROUNDING.value: Kind.ROUNDING,
    Nature.UNMAPPED.value: Kind.UNMAPPED,
}


class Result(msgspec.Struct):
    lines: list[Line]
    billed: list[Billed]


def classify(matched: Matched, *, decimals: int, tolerance_pico: int = 0) -> Result:
    """Name the differences. ``decimals`` is how fine the report's amounts are, for what it may have rounded."""
    result = Result([], [])
    for key in sorted(matched.groups):
        days = matched.groups[key]
        group = _Group(key, days, decimals, tolerance_pico)
        group.run()
        result.lines += group.lines()
        result.billed += group.billed()
    return result


class _Work:
    """A line while rules take their parts of it."""

    __slots__ = ("cell", "line", "quantified", "rest")

    def __init__(self, line: Line, cell: Cell | None) -> None:
        self.line = line
        self.cell = cell
        self.rest = line.difference_pico
        self.quantified = False  # whether the rest is a quantity at our price

    @property
    def equal(self) -> bool:
        """Both sides have the same quantity at the same cost, as almost all lines of a sound month."""
        return not self.rest and self.line.their_quantity == self.line.our_quantity

    def take(self, kind: Kind, pico: int, why: str = "") -> None:
        if pico:
            self.rest -= pico
            self.line.parts[kind] = self.line.parts.get(kind, 0) + pico
            if not self.line.parts[kind]:
                del self.line.parts[kind]
            if why and why not in self.line.why:
                self.line.why.append(why)


class _Group:
    """All days of one channel, model and tier."""

    def __init__(self, key: GroupKey, days: Mapping[datetime.date, Day], decimals: int, tolerance_pico: int) -> None:
        self._key = key
        self._days = {day: days[day] for day in sorted(days)}
        self._step_pico = 10 ** max(0, PICO_DIGITS - decimals)
        self._tolerance_pico = tolerance_pico
        self._units = self._main_units()
        self._works: dict[datetime.date, dict[tuple[str, str], _Work]] = {}
        self._bills: dict[datetime.date, int] = {}  # what was found billed for the estimated calls of a day
        self._billed_by: dict[datetime.date, list[tuple[_Work, int]]] = {}
        self._bill_meters: dict[datetime.date, dict[str, int] | None] = {}
        for day, found in self._days.items():
            self._works[day] = {at: self._work(day, at, found.cells[at]) for at in sorted(found.cells)}
            if found.estimated:
                self._works[day]["", ESTIMATED] = self._estimated_work(day, found)

    def run(self) -> None:
        nature = _BY_NATURE.get(self._key.nature)
        for day, works in self._works.items():
            for work in works.values():
                if nature is not None:
                    unnamed = nature is Kind.UNMAPPED
                    work.take(nature, work.rest, "a meter without a name here" if unnamed else "no call is behind it")
                elif work.line.meter != ESTIMATED and not work.equal:
                    self._by_price(work)
                    self._by_unpriced_quantity(work, self._days[day])
        if nature is not None:
            return
        self._by_day_boundary()
        self._by_estimates()
        for day, works in self._works.items():
            found = self._days[day]
            for work in works.values():
                if work.line.meter != ESTIMATED:
                    self._by_rest(work, found)
            self._give_repricing(works)

    def lines(self) -> list[Line]:
        made = []
        for works in self._works.values():
            for work in works.values():
                work.line.unexplained_pico = work.rest
                made.append(work.line)
        return made

    def billed(self) -> list[Billed]:
        return [
            Billed(self._key.channel, day, tuple(rows), self._bills.get(day, 0), self._bill_meters.get(day))
            for day, found in self._days.items()
            if (rows := [found.estimated[name] for name in sorted(found.estimated)])
        ]

    # lines

    def _work(self, day: datetime.date, at: tuple[str, str], cell: Cell) -> _Work:
        theirs, ours = cell.theirs, cell.ours
        quantities = theirs.quantities() if theirs.lines else {}
        line = self._line(day, at, ours.cost_pico, quantities)
        line.our_quantity = ours.quantities()
        line.theirs_pico = theirs.cost_pico
        line.places, line.names = list(theirs.places), sorted(theirs.names)
        if theirs.lines and not theirs.costs:
            value = self._valued(quantities or {}, at)
            line.uncosted = value is None
            line.theirs_pico = value or 0
            line.why.append(
                "no price of ours for it" if value is None else "the report has no amount; valued at our price"
            )
        return _Work(line, cell)

    def _estimated_work(self, day: datetime.date, found: Day) -> _Work:
        now_pico = sum(row.now_pico for row in found.estimated.values())
        line = self._line(day, ("", ESTIMATED), now_pico, {})
        line.why.append("posted at bounds; what was billed for it is in the other meters")
        return _Work(line, None)

    def _line(self, day: datetime.date, at: tuple[str, str], ours_pico: int, quantities: dict[str, int] | None) -> Line:
        key = self._key
        return Line(
            currency=key.currency,
            day=day,
            channel=key.channel,
            account=key.account,
            model=key.model,
            tier=key.tier,
            context=at[0],
            meter=at[1],
            call=key.call,
            theirs_pico=0,
            ours_pico=ours_pico,
            their_quantity=quantities,
            our_quantity={},
        )

    # prices and quantities

    def _main_units(self) -> dict[tuple[str, str], tuple[str, int]]:
        """Return (context, meter) → (price id, unit) that most of our quantity has, over all days."""
        sums: dict[tuple[str, str], dict[tuple[str, int], int]] = {}
        for found in self._days.values():
            for (context, _), cell in found.cells.items():
                for meter, units in cell.ours.units.items():
                    into = sums.setdefault((context, meter), {})
                    for at, quantity in units.items():
                        into[at] = into.get(at, 0) + quantity
        return {at: _most(units) for at, units in sums.items()}

    def _unit(self, work: _Work, meter: str) -> tuple[str, int] | None:
        assert work.cell is not None
        units = work.cell.ours.units.get(meter)
        return _most(units) if units else self._units.get((work.line.context, meter))

    def _valued(self, quantities: Mapping[str, int], at: tuple[str, str]) -> int | None:
        """Return what quantities cost at our price, None when one of them has none."""
        value = 0
        for meter, quantity in quantities.items():
            unit = self._units.get((at[0], meter))
            if unit is None:
                return None
            value += quantity * unit[1]
        return value

    # rules

    def _by_price(self, work: _Work) -> None:
        """Rules 2 and 3: divide the difference into another quantity at our price, and another price."""
        line, cell = work.line, work.cell
        assert cell is not None
        if line.meter in (REPRICED, PER_CALL) and not cell.theirs.lines:
            what = "re-priced by us" if line.meter == REPRICED else "our price has a part per call that is not billed"
            work.take(Kind.PRICE, work.rest, what)
            return
        if not cell.theirs.lines:
            work.quantified = line.meter != UNMETERED  # nothing was billed: no quantity
            return
        if not cell.ours.units:
            work.quantified = not cell.ours.cost_pico
            return
        tokens_pico = self._tokens_pico(work)
        if tokens_pico is None:
            if self._is_rounding(work.rest, cell):
                work.take(Kind.ROUNDING, work.rest)
            return
        work.quantified = True
        other_pico = work.rest - tokens_pico
        if self._is_rounding(other_pico, cell):
            work.take(Kind.ROUNDING, other_pico)
        elif cell.theirs.converted_from:
            work.take(Kind.FX, other_pico, f"billed in {cell.theirs.converted_from}, converted at our rate")
        elif other_pico:
            work.take(Kind.PRICE, other_pico, self._prices_text(work))

    def _tokens_pico(self, work: _Work) -> int | None:
        """Return what the other quantity costs at our price, None when a quantity or a price is not known."""
        line = work.line
        if line.their_quantity is None:
            return None
        if not line.their_quantity and line.theirs_pico:
            return None
        value = 0
        for meter in sorted({*line.their_quantity, *line.our_quantity}):
            more = line.their_quantity.get(meter, 0) - line.our_quantity.get(meter, 0)
            if more:
                unit = self._unit(work, meter)
                if unit is None:
                    return None
                value += more * unit[1]
        return value

    def _prices_text(self, work: _Work) -> str:
        line = work.line
        texts = []
        for meter, quantity in (line.their_quantity or {}).items():
            unit = self._unit(work, meter)
            ours = f"ours {decimal_text(unit[1] * 1_000_000)} (price {unit[0]})" if unit else "ours none"
            if len(line.their_quantity or {}) == 1 and quantity:
                billed = decimal_text(line.theirs_pico * 1_000_000 // quantity)
                texts.append(f"{meter}: billed {billed} {line.currency} per million, {ours}")
            else:
                texts.append(f"{meter}: {ours} {line.currency} per million")
        return "; ".join(texts)

    def _is_rounding(self, pico: int, cell: Cell) -> bool:
        if not pico or not cell.theirs.costs:
            return False
        half_pico = (self._step_pico * cell.theirs.costs + 1) // 2
        return bool(abs(pico) <= half_pico + cell.theirs.error_pico)

    def _by_unpriced_quantity(self, work: _Work, found: Day) -> None:
        """Rule 4: usage that we counted and could not price."""
        line = work.line
        counted = found.unpriced_meters.get(line.meter, 0)
        if not counted or work.rest <= 0 or not line.their_quantity:
            return
        more = sum(line.their_quantity.values()) - sum(line.our_quantity.values())
        if more > 0:
            share_pico = work.rest * min(counted, more) // more
            work.take(Kind.UNPRICED, share_pico, f"{min(counted, more)} {line.meter} without a price of ours")

    def _by_day_boundary(self) -> None:
        """Rule 5: what two neighbouring days have too much and too little cancels, meter by meter."""
        for day, works in self._works.items():
            after = self._works.get(day + _DAY)
            if after is None:
                continue
            for at, work in works.items():
                other = after.get(at)
                if other is None or ESTIMATED in at or work.rest * other.rest >= 0:
                    continue
                pico = min(abs(work.rest), abs(other.rest))
                sign = 1 if work.rest > 0 else -1
                work.take(Kind.DAY_BOUNDARY, sign * pico, f"cancels with {day + _DAY}")
                other.take(Kind.DAY_BOUNDARY, -sign * pico, f"cancels with {day}")

    def _by_estimates(self) -> None:
        """Rule 6: what was billed for estimated calls, at most their bounds, first on their own day."""
        left = {
            day: sum(row.bound_pico for row in found.estimated.values())
            for day, found in self._days.items()
            if found.estimated
        }
        for shift in (0, -1, 1):
            for day in left:
                left[day] -= self._bill_estimates(day, day + shift * _DAY, left[day])
        for day in left:
            work = self._works[day]["", ESTIMATED]
            if self._bills[day] == work.line.ours_pico:
                self._give_to_meters(work, day)
            else:
                self._take_estimated(work, day, work.rest)

    def _bill_estimates(self, day: datetime.date, billed_on: datetime.date, left_pico: int) -> int:
        """Find on ``billed_on`` what was billed for the estimated calls of ``day``; return how much."""
        found_pico = 0
        for work in self._works.get(billed_on, {}).values():
            pico = min(work.rest, left_pico - found_pico)
            if work.line.meter == ESTIMATED or pico <= 0:
                continue
            self._count_meters(day, work, pico)
            self._take_estimated(work, day, pico)
            self._billed_by.setdefault(day, []).append((work, pico))
            found_pico += pico
        self._bills[day] = self._bills.get(day, 0) + found_pico
        return found_pico

    def _give_to_meters(self, estimated: _Work, day: datetime.date) -> None:
        """What was posted is what was billed, as after a correction: then it belongs to the meters it was billed by."""
        for work, pico in self._billed_by.get(day, ()):
            self._take_estimated(work, day, -pico)
            work.line.ours_pico += pico
            work.rest -= pico
        estimated.line.ours_pico = estimated.rest = 0

    def _count_meters(self, day: datetime.date, work: _Work, pico: int) -> None:
        """Note which quantities were billed for estimated calls; unknown once one of them is."""
        line = work.line
        counts = self._bill_meters.get(day, {})
        if counts is None or not line.their_quantity or pico != work.rest:
            self._bill_meters[day] = None
            return
        for meter, quantity in line.their_quantity.items():
            more = quantity - line.our_quantity.get(meter, 0)
            if more > 0:
                counts[meter] = counts.get(meter, 0) + more
        self._bill_meters[day] = counts

    def _take_estimated(self, work: _Work, day: datetime.date, pico: int) -> None:
        """Divide between calls that were aborted and calls that were lost, by their bounds."""
        found = self._days[day]
        bound_pico = sum(row.bound_pico for row in found.estimated.values())
        share_pico = abs(pico) * min(found.aborted_pico, bound_pico) // bound_pico if bound_pico else 0
        aborted_pico = share_pico if pico > 0 else -share_pico
        why = "" if work.line.day == day else f"billed for estimated calls of {day}"
        work.take(Kind.ABORTED, aborted_pico, why)
        work.take(Kind.LOST, pico - aborted_pico, why)

    def _by_rest(self, work: _Work, found: Day) -> None:
        """Rules 7 to 10."""
        line, cell = work.line, work.cell
        assert cell is not None
        if not work.rest:
            return
        if work.rest > 0 and found.unpriced and (line.their_quantity is None or not found.unpriced_meters):
            work.take(Kind.UNPRICED, work.rest, f"{found.unpriced} attempts without a price of ours")
        elif work.rest > 0 and not found.attempts and not line.ours_pico:
            work.take(Kind.BYPASS, work.rest, self._bypass_text(line))
        elif work.quantified:
            work.take(Kind.TOKENS, work.rest, _quantities_text(line))
        elif abs(work.rest) <= self._tolerance_pico or self._is_rounding(work.rest, cell):
            work.take(Kind.ROUNDING, work.rest)

    def _give_repricing(self, works: dict[tuple[str, str], _Work]) -> None:
        """What was re-priced to what is billed belongs to the meters whose prices it corrected."""
        repriced = works.get(("", REPRICED))
        if repriced is None or repriced.line.theirs_pico:
            return
        others = [
            (work, kind) for work in works.values() for kind in (Kind.PRICE, Kind.UNPRICED) if work is not repriced
        ]
        if sum(work.line.parts.get(kind, 0) for work, kind in others) != repriced.line.ours_pico:
            return
        for work, kind in others:
            work.line.ours_pico += work.line.parts.pop(kind, 0)
        repriced.line.ours_pico = 0
        repriced.line.parts.clear()

    def _bypass_text(self, line: Line) -> str:
        if not line.channel:
            return f"account {line.account or 'without a name'} belongs to no channel"
        if line.call:
            return "no attempt of ours has this id"
        name = f"{line.model} ({line.tier})" if line.tier else line.model
        if not any(found.attempts for found in self._days.values()):
            return f"no call of {name} went through {line.channel}"
        return f"no call of {name} went through {line.channel} on this day"


def _most(units: Mapping[tuple[str, int], int]) -> tuple[str, int]:
    """Return the price that most of a quantity has; of equals, the dearer one."""
    return max(units, key=lambda at: (units[at], at[1], at[0]))


def _quantities_text(line: Line) -> str:
    theirs = line.their_quantity or {}
    return "; ".join(
        f"{meter}: billed {theirs.get(meter, 0):,}, counted {line.our_quantity.get(meter, 0):,}"
        for meter in sorted({*theirs, *line.our_quantity})
        if theirs.get(meter, 0) != line.our_quantity.get(meter, 0)
    )
