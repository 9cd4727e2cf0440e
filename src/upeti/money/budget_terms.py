"""The terms of a budget: what it limits, to how much, for whom. Rate limits are budgets of calls or tokens a minute.

Rules: a budget holds for every call that has all its selectors; one without any holds for all. Each of its windows is a
budget of its own in the ledger, so nothing is ever set back to zero and nothing races: ``NAME@2026-11``, and ``NAME``
alone for one that has no end. In another unit than US dollars the unit is part of the id (``NAME+IDR@2026-11``), so
that a budget whose currency changes begins anew and rupiah are never compared with dollars. Limits are decimal texts of
the unit; in pico units of it they are integers, calls and tokens too. Pure.
"""

from __future__ import annotations

from typing import Final

import msgspec

from upeti.core.amount import Pico, parse_pico
from upeti.money.window import Window, WindowKind, window_at, window_named

USD: Final = "USD"
CALLS: Final = "calls"
TOKENS: Final = "tokens"
RATE_UNITS: Final = frozenset({CALLS, TOKENS})
KEY_PREFIX: Final = "key:"  # of the budget that a key's own limit is
CASE_PREFIX: Final = "conduct:"  # of the rate limit that a case puts on a tenant

SHARES: Final = (50, 80, 100)


class BudgetTerms(msgspec.Struct, frozen=True, kw_only=True):
    """A named rule. Selectors that are empty match everything."""

    name: str
    limit: str  # decimal text, in ``unit``
    unit: str = USD  # a currency, "calls" or "tokens"
    window: WindowKind = "total"
    zone: str = "UTC"
    soft: bool = False  # counted and alerted, never refused
    shares: tuple[int, ...] = SHARES  # percent of the limit that are told of when they are spent
    tenant: str = ""
    project: str = ""
    key: str = ""
    feature: str = ""

    @property
    def root(self) -> str:
        """What the ids of its windows begin with."""
        return self.name if self.unit == USD else f"{self.name}+{self.unit}"

    @property
    def limit_pico(self) -> Pico:
        return parse_pico(self.limit)

    @property
    def is_rate(self) -> bool:
        return self.unit in RATE_UNITS

    @property
    def rank(self) -> tuple[bool, bool, bool, bool]:
        """Order from the widest to the narrowest: organisation, feature, tenant, project, key."""
        return bool(self.key), bool(self.project), bool(self.tenant), bool(self.feature)

    def id_of(self, window: Window) -> str:
        """Return the id of the budget that ``window`` is in the ledger."""
        return f"{self.root}@{window.label}" if window.label else self.root

    def id_at(self, at_ns: int) -> str:
        return self.id_of(self.window_at(at_ns))

    def window_at(self, at_ns: int) -> Window:
        return window_at(self.window, self.zone, at_ns)

    def window_of(self, budget: str) -> Window | None:
        """Return the window that a budget's id names; None when it is none of these terms."""
        root, at, label = budget.partition("@")
        if root != self.root or bool(at) != bool(label):
            return None
        return window_named(self.window, self.zone, label)


def root_of(budget: str) -> str:
    """Return what the ids of all windows of a budget begin with."""
    return budget.partition("@")[0]


def name_of(budget: str) -> str:
    """Return the name of the budget that an id is a window of."""
    return budget.partition("@")[0].partition("+")[0]


def key_terms(key: str, limit: str) -> BudgetTerms:
    """Return a key's own limit as what it is: the total of one key."""
    return BudgetTerms(name=f"{KEY_PREFIX}{key}", limit=limit, key=key)
