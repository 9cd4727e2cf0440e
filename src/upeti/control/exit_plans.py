"""The exit plan in the state: what people have said of alternatives, joined with drills, spend and configuration.

Rules: what somebody says is an act before it is in the state; saying it again takes the place of what was said before, which
stays in the journal of acts.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterable
from decimal import Decimal, InvalidOperation
from secrets import token_hex
from typing import Any, Final

import msgspec
from sqlalchemy import func, insert, select, update

from upeti.control.books import Books
from upeti.control.drills import all_drills
from upeti.control.store import Store
from upeti.control.tables_capture import pairs
from upeti.control.tables_drills import alternatives as table
from upeti.control.tables_lineage import datasets, models
from upeti.core.amount import AmountError, decimal_text, parse_pico
from upeti.core.config import Config
from upeti.core.errors import ConfigError
from upeti.journal.acts import act, record_acts
from upeti.outlook.exit_plan import Said, Setting, Spend, Trial, entry, overdue_before
from upeti.outlook.remaining import World
from upeti.rights.conduct.case import CaseError, named_person

DEPENDENCE_DAYS: Final = 30


def said_of(store: Store, route: str = "") -> list[Said]:
    """Return what people have said and nobody has taken back, by route."""
    query = select(table).where(table.c.removed_ns == 0).order_by(table.c.route, table.c.at_ns, table.c.id)
    if route:
        query = query.where(table.c.route == route)
    with store.engine.connect() as connection:
        return [Said(**row) for row in connection.execute(query).mappings()]


def set_alternative(store: Store, routes: Iterable[str], said: Said) -> Said:
    """Enter an alternative of a route; of the same name it takes the earlier one's place. Raises ``ConfigError``."""
    if said.route not in routes:
        raise ConfigError(f"there is no route `{said.route}`; `upeti exit-plan show` lists them")
    if not said.alternative.strip():
        raise ConfigError("an alternative has a name: --alternative NAME")
    if bool(said.cost) != bool(said.currency):
        raise ConfigError("a cost has a currency: --cost 20000 --currency EUR")
    made = msgspec.structs.replace(
        said,
        id=f"alt_{token_hex(8)}",
        alternative=said.alternative.strip(),
        months=_months(said.months),
        cost=_cost(said.cost),
        by=_person(said.by),
        at_ns=time.time_ns(),
    )
    fields = msgspec.structs.asdict(made)
    with store.writing() as connection:
        record_acts(store.data_dir, act(made.at_ns, made.by, "exit_plan.set", made.id, made.why, record=fields))
        same = (table.c.route == made.route) & (table.c.alternative == made.alternative) & (table.c.removed_ns == 0)
        connection.execute(update(table).where(same).values(removed_ns=made.at_ns))
        connection.execute(insert(table).values(fields))
    return made


def remove(store: Store, said_id: str, *, by: str, why: str) -> None:
    """Take back what was said. Raises ``ConfigError`` when it does not stand."""
    actor, now_ns = _person(by), time.time_ns()
    where = (table.c.id == said_id) & (table.c.removed_ns == 0)
    with store.writing() as connection:
        if connection.execute(select(table.c.id).where(where)).first() is None:
            raise ConfigError(f"no alternative `{said_id}` stands; `upeti exit-plan show --json` lists them")
        record_acts(store.data_dir, act(now_ns, actor, "exit_plan.removed", said_id, why))
        connection.execute(update(table).where(where).values(removed_ns=now_ns))


def exit_plan(store: Store, config: Config, world: World) -> dict[str, Any]:
    """Return the register: an entry for each route, and what of our own leaves with us."""
    now_ns = time.time_ns()
    trials = _trials(store)
    spend = _spend(store, now_ns)
    settings = {route.name: Setting(route.function, route.critical) for route in config.route}
    overdue_ns = overdue_before(now_ns, config.drill.overdue_days)
    said = said_of(store)
    entries = [
        entry(
            world,
            name,
            settings.get(name, Setting()),
            [one for one in said if one.route == name],
            trials.get(name, []),
            [one for one in spend if one.route == name],
            overdue_ns,
        )
        for name in sorted(world.routes)
    ]
    return {
        "schema": "upeti.exit-plan/1",
        "made_at": datetime.datetime.fromtimestamp(now_ns // 10**9, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "dependence_days": DEPENDENCE_DAYS,
        "overdue_days": config.drill.overdue_days,
        "routes": entries,
        "leaves_with_us": _leaves(store),
    }


def _trials(store: Store) -> dict[str, list[Trial]]:
    found: dict[str, list[Trial]] = {}
    for row in all_drills(store):
        for route, line in row.summary.get("routes", {}).items():
            if not line["calls"]:
                continue
            found.setdefault(route, []).append(
                Trial(
                    row.id,
                    row.mode,
                    row.channel,
                    row.over_ns,
                    line["calls"],
                    line["survived"],
                    row.summary["window_hours"],
                    line["before"] or {},
                    line["after"] or {},
                    line["compared"] or 0,
                )
            )
    return found


def _spend(store: Store, now_ns: int) -> list[Spend]:
    """Return what each channel cost on each route lately, from the books of all nodes."""
    last = datetime.datetime.fromtimestamp(now_ns / 1e9, datetime.UTC).date()
    first = last - datetime.timedelta(days=DEPENDENCE_DAYS)
    sums: dict[tuple[str, str, str], int] = {}
    for row in Books(store).usage(first, last, None):
        key = (row.route, row.channel, row.currency)
        sums[key] = sums.get(key, 0) + row.cost_pico
    return [Spend(*key, pico) for key, pico in sorted(sums.items()) if pico]


def _leaves(store: Store) -> dict[str, int]:
    """Return how many captured pairs, datasets and models are ours to take along."""
    queries = {
        "pairs": select(func.count()).select_from(pairs).where(pairs.c.erased_ns == 0),
        "datasets": select(func.count()).select_from(datasets),
        "models": select(func.count()).select_from(models),
    }
    with store.engine.connect() as connection:
        return {name: int(connection.execute(query).scalar_one()) for name, query in queries.items()}


def _months(text: str) -> str:
    if not text:
        return ""
    try:
        value = Decimal(text)
    except InvalidOperation:
        value = Decimal(-1)
    if not value.is_finite() or not 0 <= value <= 600:
        raise ConfigError(f"{text!r} is no number of months: write --months 3, or 0.5")
    return f"{value.normalize():f}"


def _cost(text: str) -> str:
    if not text:
        return ""
    try:
        pico = parse_pico(text)
    except AmountError as error:
        raise ConfigError(str(error)) from None
    if pico < 0:
        raise ConfigError("a cost is not below zero")
    return decimal_text(pico)


def _person(name: str) -> str:
    try:
        return named_person(name)
    except CaseError as error:
        raise ConfigError(str(error)) from None
