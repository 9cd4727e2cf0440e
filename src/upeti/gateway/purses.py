"""Which purses a call is held on: every budget and rate limit that all its selectors match, in their present window.

Found once for a caller, feature and currency, and remembered until the first of the windows ends or another snapshot is
taken. A hold belongs to the window in which it was placed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from upeti.core.amount import PICO_PER_UNIT
from upeti.core.errors import BadRequest, BudgetExceeded
from upeti.gateway.holds import Holds, Purse, Rates
from upeti.gateway.snapshot import Caller
from upeti.money.budget_terms import CALLS, BudgetTerms

# Clients choose features, so there is no end to them.
_REMEMBERED_MAX: Final = 16_384
_FOREVER_NS: Final = 1 << 63
_CALL_PICO: Final = PICO_PER_UNIT  # calls and tokens are counted in pico units too

_Selectors = tuple[str, str, str, str]


class PurseSet:
    """The purses of one caller, feature and currency."""

    __slots__ = ("budgets", "calls", "foreign", "frozen", "limited", "purses", "stopped", "tokens", "until_ns")

    def __init__(self) -> None:
        self.purses: tuple[Purse, ...] = ()  # of money, the widest first
        self.budgets: tuple[str, ...] = ()  # their ids
        self.calls: tuple[Purse, ...] = ()
        self.tokens: tuple[Purse, ...] = ()
        self.until_ns = _FOREVER_NS
        self.limited = False  # whether a cost that cannot be bounded is refused
        self.frozen: BudgetTerms | None = None
        self.foreign: BudgetTerms | None = None  # a hard budget in another currency
        self.stopped = False

    def check(self, bound_pico: int, currency: str) -> None:
        """Raises ``BudgetExceeded`` for a frozen budget, ``BadRequest`` for one in another currency."""
        if self.frozen is not None:
            name = self.frozen.name
            raise BudgetExceeded(
                "budget_frozen",
                f"The budget {name!r} is frozen, because a call cost more than the bound that was held for it. "
                f"`upeti budget show {name}` says which; when its price is right, `upeti budget release {name}` lets calls "
                "go on.",
            )
        if self.foreign is not None and bound_pico:
            raise BadRequest(
                "budget_currency",
                f"The budget {self.foreign.name!r} is in {self.foreign.unit} and the price of this call in {currency}, and "
                f"the two are never compared. Give the budget the currency {currency}, make it soft, or let the call "
                f"go to a model with a price in {self.foreign.unit}.",
            )

    def rates(self, *, first: bool, tokens: int) -> Rates:
        """Return what an attempt holds on the rate limits: the call once, at its first attempt; tokens at each."""
        called = tuple([(purse, _CALL_PICO) for purse in self.calls]) if first else ()
        return called + tuple([(purse, tokens * PICO_PER_UNIT) for purse in self.tokens])


class PurseFinder:
    """The budgets and rate limits of one snapshot."""

    def __init__(self, terms: Iterable[BudgetTerms], frozen: frozenset[str]) -> None:
        """``frozen`` are roots."""
        self._frozen = frozen
        self._sets: dict[tuple[str, str, str], PurseSet] = {}
        self._terms: dict[_Selectors, list[BudgetTerms]] = {}
        for each in terms:
            self._terms.setdefault((each.tenant, each.project, each.key, each.feature), []).append(each)
        # Which selectors occur together: a caller is looked up once for each such shape, however many budgets there are.
        self._shapes = {tuple(bool(part) for part in selectors) for selectors in self._terms}

    def find(self, caller: Caller, feature: str, currency: str, now_ns: int, holds: Holds) -> PurseSet:
        found = self._sets.get((caller.key, feature, currency))
        if found is None or found.until_ns <= now_ns:
            if len(self._sets) >= _REMEMBERED_MAX:
                self._sets.clear()
            found = self._sets[caller.key, feature, currency] = self._resolve(caller, feature, currency, now_ns, holds)
        return found

    def terms_of(self, caller: Caller, feature: str) -> list[BudgetTerms]:
        """Return the terms that match, the widest first."""
        parts = (caller.tenant, caller.project, caller.key, feature)
        matching = [BudgetTerms(name=budget, limit=caller.limit, key=caller.key) for budget in caller.budgets]
        for shape in self._shapes:
            if any(wanted and not part for part, wanted in zip(parts, shape, strict=True)):
                continue
            tenant, project, key, own = (part if wanted else "" for part, wanted in zip(parts, shape, strict=True))
            matching += self._terms.get((tenant, project, key, own), ())
        return sorted(matching, key=lambda terms: (terms.rank, terms.root))

    def _resolve(self, caller: Caller, feature: str, currency: str, now_ns: int, holds: Holds) -> PurseSet:
        made = PurseSet()
        money: list[Purse] = []
        for terms in self.terms_of(caller, feature):
            window = terms.window_at(now_ns)
            if window.ends_ns:
                made.until_ns = min(made.until_ns, window.ends_ns)
            if not terms.is_rate:
                if not terms.soft:
                    made.limited = True
                    made.frozen = terms if terms.root in self._frozen else made.frozen
                if terms.unit != currency:
                    made.foreign = made.foreign if terms.soft else terms
                    continue
            purse = holds.purse(terms.id_of(window))
            purse.unit, purse.zone, purse.soft = terms.unit, terms.zone, terms.soft
            purse.resets_ns = window.ends_ns
            if terms.limit:
                holds.limited(purse, terms.limit_pico)
            if not terms.is_rate:
                money.append(purse)
            elif terms.unit == CALLS:
                made.calls += (purse,)
            else:
                made.tokens += (purse,)
        made.purses = tuple(money)
        made.budgets = tuple([purse.budget for purse in money])
        made.stopped = made.frozen is not None or made.foreign is not None
        return made
