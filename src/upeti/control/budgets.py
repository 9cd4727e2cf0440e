"""Named budgets that are kept in the state, and how every budget stands in its present window.

The same words as in the configuration file, checked by the same rules. A running Upeti takes a change within a second;
commands read the state also while nothing runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec
from sqlalchemy import delete, insert, select

from upeti.control import tables
from upeti.control.config_rules import budget_problems
from upeti.control.keys import KeyRow
from upeti.control.ledger import BudgetRow, Freeze, Ledger
from upeti.control.store import Store, StoreError, raise_counter
from upeti.core import config
from upeti.core.amount import decimal_text
from upeti.core.errors import ConfigError
from upeti.money.budget_terms import CASE_PREFIX, KEY_PREFIX, BudgetTerms, key_terms, name_of, root_of
from upeti.money.window import iso_time

SELECTORS: Final = ("tenant", "project", "key", "feature")


class Standing(msgspec.Struct, frozen=True):
    """A budget in one of its windows. Amounts are decimal texts of ``unit``."""

    id: str
    name: str
    source: str  # "file", "state", "key" (its own limit), or "" when no terms are left of it
    unit: str
    window: str
    zone: str
    mode: str
    alert_shares: tuple[int, ...]
    tenant: str
    project: str
    key: str
    feature: str
    limit: str
    spent: str
    leased: str  # what workers may spend without asking
    left: str  # neither spent nor leased
    share: str | None  # percent of the limit that is spent; None where the limit is zero
    resets_at: str | None  # ISO 8601, in the budget's zone
    frozen: str | None  # why it refuses until it is released


def stored_terms(store: Store) -> list[BudgetTerms]:
    """Return the terms that are kept in the state, by name."""
    query = select(tables.budget_terms.c.terms).order_by(tables.budget_terms.c.name)
    with store.engine.connect() as connection:
        return [msgspec.convert(terms, BudgetTerms) for terms in connection.execute(query).scalars()]


def keep_terms(store: Store, terms: BudgetTerms, at_ns: int) -> bool:
    """Put terms in place of what has their name; return whether there was such a budget."""
    table = tables.budget_terms
    with store.changing() as connection:
        known = connection.execute(delete(table).where(table.c.name == terms.name)).rowcount
        row = {"name": terms.name, "terms": msgspec.to_builtins(terms), "changed_ns": at_ns}
        connection.execute(insert(table).values(row))
    return bool(known)


def drop_terms(store: Store, name: str) -> None:
    """Remove a budget; what was spent of it stays on record. Raises ``StoreError`` when the state has no such budget."""
    table = tables.budget_terms
    with store.writing() as connection:
        if not connection.execute(delete(table).where(table.c.name == name)).rowcount:
            raise StoreError(f"the state has no budget `{name}`: `upeti budget list` shows where each one is from")
        raise_counter(connection, "changes")


def release(ledger: Ledger, name: str) -> None:
    """Let a frozen budget go on. Raises ``StoreError`` when it is not frozen."""
    roots = [freeze.root for freeze in ledger.freezes() if name_of(freeze.root) == name]
    released = [ledger.release(root) for root in roots]
    if not any(released):
        raise StoreError(f"the budget `{name}` is not frozen: `upeti budget list` shows which are")


def budget_from(fields: Mapping[str, Any]) -> config.Budget:
    """Return the budget that ``fields``, as in the file, describe. Raises ``ConfigError``."""
    try:
        budget = msgspec.convert({name: value for name, value in fields.items() if value is not None}, config.Budget)
    except msgspec.ValidationError as error:
        raise ConfigError(f"budget: {error}; docs/configuration.md describes each field") from None
    problems = list(budget_problems("", budget))
    if problems:
        raise ConfigError("\n".join(f"{problem.what}; {problem.cure}" for problem in problems))
    return budget


def fields_of(terms: BudgetTerms) -> dict[str, Any]:
    """Return terms as fields of the file."""
    return {
        "name": terms.name,
        "limit": terms.limit,
        "currency": terms.unit,
        "window": terms.window,
        "zone": terms.zone,
        "mode": "soft" if terms.soft else "hard",
        "alert_shares": list(terms.shares),
        **{name: getattr(terms, name) or None for name in SELECTORS},
    }


def terms_of_keys(keys: Iterable[KeyRow | config.Key]) -> list[BudgetTerms]:
    """Return the own limits of keys, of those that have one."""
    found = []
    for key in keys:
        if isinstance(key, config.Key):
            limit = key.limit
        else:
            limit = "" if key.limit_pico is None or key.revoked_ns else decimal_text(key.limit_pico)
        if limit:
            found.append(key_terms(key.id, limit))
    return found


def standings(terms: Mapping[str, BudgetTerms], stored: Iterable[str], ledger: Ledger, now_ns: int) -> list[Standing]:
    """Return how each of ``terms`` (by root) stands in its present window, and what has no terms any more.

    ``stored`` are the names of those in the state.
    """
    rows = {row.id: row for row in ledger.budgets()}
    freezes = {freeze.root: freeze for freeze in ledger.freezes()}
    in_state = frozenset(stored)
    found = []
    for root, each in terms.items():
        row = rows.pop(each.id_at(now_ns), None) or BudgetRow(each.id_at(now_ns), 0, 0, 0)
        # While nothing runs nobody has taken a new limit into the ledger yet.
        row = msgspec.structs.replace(row, limit_pico=each.limit_pico)
        source = "key" if root.startswith(KEY_PREFIX) else "state" if each.name in in_state else "file"
        if each.is_rate:
            source = "case" if root.startswith(CASE_PREFIX) else "file"
        found.append(_standing(row, each, source, freezes.get(root)))
    for row in rows.values():
        if root_of(row.id) not in terms and not row.ends_ns:
            gone = BudgetTerms(name=name_of(row.id), limit=decimal_text(row.limit_pico), unit=row.unit)
            found.append(_standing(row, gone, "", freezes.get(root_of(row.id))))
    return sorted(found, key=lambda standing: standing.id)


def history(name: str, terms: BudgetTerms, ledger: Ledger) -> list[Standing]:
    """Return how a budget stands, and stood, in each window that was ever asked for, newest first."""
    freezes = {freeze.root: freeze for freeze in ledger.freezes()}
    rows = [row for row in ledger.budgets() if name_of(row.id) == name and row.unit == terms.unit]
    rows.sort(key=lambda row: (row.ends_ns or 1 << 63, row.id), reverse=True)
    return [_standing(row, terms, "", freezes.get(root_of(row.id))) for row in rows]


def _standing(row: BudgetRow, terms: BudgetTerms, source: str, freeze: Freeze | None) -> Standing:
    limit_pico, spent_pico = row.limit_pico, row.spent_pico
    window = terms.window_of(row.id)
    ends_ns = window.ends_ns if window is not None else row.ends_ns
    return Standing(
        id=row.id,
        name=terms.name,
        source=source,
        unit=terms.unit,
        window=terms.window,
        zone=terms.zone,
        mode="soft" if terms.soft else "hard",
        alert_shares=terms.shares,
        tenant=terms.tenant,
        project=terms.project,
        key=terms.key,
        feature=terms.feature,
        limit=decimal_text(limit_pico),
        spent=decimal_text(spent_pico),
        leased=decimal_text(row.leased_pico),
        left=decimal_text(max(0, limit_pico - spent_pico - row.leased_pico)),
        share=share_text(spent_pico, limit_pico),
        resets_at=iso_time(ends_ns, terms.zone) if ends_ns else None,
        frozen=freeze.reason if freeze is not None else None,
    )


def share_text(spent_pico: int, limit_pico: int) -> str | None:
    """Return which percentage of the limit is spent, rounded down to one decimal; None without a limit."""
    if limit_pico <= 0:
        return None
    whole, tenths = divmod(spent_pico * 1000 // limit_pico, 10)
    return f"{whole}.{tenths}"
