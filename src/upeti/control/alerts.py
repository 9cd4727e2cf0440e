"""Alerts: a share of a budget is spent, or a budget was frozen. Told once for each window and share.

Rules: an alert is a row of the state before anyone is told, so nobody is told twice after a restart; it is logged by the
keeper that made it, and posted to the webhook until that answers 2xx, the oldest first, with pauses that double. Whoever
receives them must bear to get one twice (an answer may be lost): ``id`` names it. Only budgets that were spent from
since the last look are looked at.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
import urllib.request
from collections.abc import Callable, Iterable
from http.client import HTTPException
from typing import Any, Final

import msgspec
from sqlalchemy import exc, insert, select, update

from upeti.control import tables
from upeti.control.ledger import BudgetRow, Ledger
from upeti.control.store import Store
from upeti.core import config
from upeti.core.amount import decimal_text
from upeti.core.errors import UpetiError
from upeti.gateway.log import Log
from upeti.gateway.secrets import resolve
from upeti.gateway.snapshot import SecretRef
from upeti.money.budget_terms import BudgetTerms, name_of, root_of
from upeti.money.window import iso_time

FROZEN: Final = 0  # in the place of a share
SIGNATURE_HEADER: Final = "x-upeti-signature"
_LOOK_S: Final = 1.0
_PURGE_S: Final = 60.0
_PAUSE_FIRST_S: Final = 1.0
_PAUSE_MAX_S: Final = 300.0
_ANSWER_S: Final = 10.0
_NOBODY: Final = -1  # in ``delivered_ns``: there was no webhook then


class Webhook(msgspec.Struct, frozen=True):
    """Where alerts are posted, and what they are signed with, if anything."""

    url: str
    secret: str = ""


class Alert(msgspec.Struct, frozen=True):
    """One alert as it is posted, and as the control API shows it. Amounts are decimal texts of ``unit``."""

    id: str
    kind: str  # "share" | "frozen"
    budget: str
    window: str  # its label, such as "2026-11"; empty when the budget has none
    share: int | None  # percent of the limit; None when it was frozen
    spent: str
    limit: str
    unit: str
    mode: str
    tenant: str
    project: str
    key: str
    feature: str
    at: str  # ISO 8601, in the budget's zone
    resets_at: str | None
    reason: str  # of a freeze


class Watch:
    """Looks at budgets by the clock; one per keeper."""

    def __init__(self, store: Store, ledger: Ledger, log: Log, settings: Callable[[], config.Alerts]) -> None:
        """``settings`` gives those in force."""
        self._store = store
        self._ledger = ledger
        self._log = log
        self._settings = settings
        self._all_seen = False
        self._pause_s = _PAUSE_FIRST_S
        self._not_before_s = 0.0

    async def run(self) -> None:
        """Watch until cancelled."""
        purge_due_s = 0.0
        while True:
            try:
                await asyncio.to_thread(self.look)
                await asyncio.to_thread(self.deliver)
                if time.monotonic() >= purge_due_s:
                    purge_due_s = time.monotonic() + _PURGE_S
                    await asyncio.to_thread(self._ledger.purge_rates)
            except Exception as error:  # a full disk, a locked state: leases must go on, and it may pass
                self._log.error("alerts_failed", f"{type(error).__name__}: {error}; it is tried again")
            await asyncio.sleep(_LOOK_S)

    def look(self, now_ns: int | None = None) -> list[Alert]:
        """Make the alerts that are due; return them."""
        at_ns = now_ns or time.time_ns()
        touched = {self._ledger.touched.popleft() for _ in range(len(self._ledger.touched))}
        if self._all_seen and not touched:
            return []
        try:
            rows = self._ledger.budgets(touched if self._all_seen else None)
            due = [*self._shares(rows), *self._freezes(rows)]
            made = self._keep(due, at_ns) if due else []
        except Exception:
            self._ledger.touched.extend(touched)
            raise
        self._all_seen = True
        for alert in made:
            self._tell(alert)
        return made

    def _shares(self, rows: Iterable[BudgetRow]) -> Iterable[dict[str, Any]]:
        for row in rows:
            terms = self._ledger.terms.get(root_of(row.id))
            for share in terms.shares if terms is not None and row.spent_pico > 0 else ():
                if row.spent_pico * 100 >= share * row.limit_pico:
                    yield _row(row.id, share, row.spent_pico, row.limit_pico)

    def _freezes(self, rows: Iterable[BudgetRow]) -> Iterable[dict[str, Any]]:
        known = {row.id: row for row in rows}
        for freeze in self._ledger.freezes():
            row = known.get(freeze.budget) or next(iter(self._ledger.budgets([freeze.budget])), None)
            spent_pico, limit_pico = (row.spent_pico, row.limit_pico) if row is not None else (0, 0)
            yield _row(freeze.budget, FROZEN, spent_pico, limit_pico, freeze.reason)

    def _keep(self, due: list[dict[str, Any]], at_ns: int) -> list[Alert]:
        table = tables.alerts
        there = select(table.c.budget, table.c.share).where(table.c.budget.in_({row["budget"] for row in due}))
        nobody = 0 if self._settings().webhook else _NOBODY
        try:
            with self._store.writing() as connection:
                known = {(row.budget, row.share) for row in connection.execute(there)}
                fresh = [
                    row | {"at_ns": at_ns, "delivered_ns": nobody}
                    for row in due
                    if (row["budget"], row["share"]) not in known
                ]
                if fresh:
                    connection.execute(insert(table), fresh)
        except exc.IntegrityError:
            return []  # another node's keeper was first
        return [self._alert(row) for row in fresh]

    def _tell(self, alert: Alert) -> None:
        spent = f"{alert.spent} of {alert.limit} {alert.unit}"
        fields = {"budget": alert.budget, "window": alert.window, "spent": alert.spent, "limit": alert.limit}
        if alert.kind == "frozen":
            cure = f"look at the price, then `upeti budget release {alert.budget}`"
            self._log.error("budget_frozen", f"the budget {alert.budget} is frozen: {alert.reason}; {cure}", **fields)
        else:
            what = f"{alert.share} % of the budget {alert.budget} is spent: {spent}"
            self._log.warning("budget_share", what, **fields, share=alert.share)

    # -- the webhook ----------------------------------------------------------------------------------------------

    def deliver(self) -> None:
        """Post what was not taken yet. One that fails makes all wait: they go to the same place."""
        if time.monotonic() < self._not_before_s:
            return
        url = self._settings().webhook
        for row in self._waiting() if url else ():
            try:
                post(Webhook(url, self._secret()), self._alert(row))
            except (OSError, HTTPException, UpetiError, UnicodeError) as error:
                self._not_before_s = time.monotonic() + self._pause_s
                what = f"the webhook did not take an alert: {error}; it is tried again in {self._pause_s:.0f} s"
                self._log.warning("webhook_failed", what)
                self._pause_s = min(2 * self._pause_s, _PAUSE_MAX_S)
                return
            self._pause_s = _PAUSE_FIRST_S
            table = tables.alerts
            where = (table.c.budget == row["budget"]) & (table.c.share == row["share"])
            with self._store.writing() as connection:
                connection.execute(update(table).where(where).values(delivered_ns=time.time_ns()))

    def _secret(self) -> str:
        """Return what alerts are signed with. Raises ``ConfigError``."""
        place = self._settings().secret
        if place is None:
            return ""
        kind, _, name = place.partition(":")
        sealed = self._store.sealed_secrets().get(name, b"") if kind == "stored" else b""
        return resolve(SecretRef(kind, name, sealed), self._store.data_dir)

    def _waiting(self) -> list[dict[str, Any]]:
        table = tables.alerts
        query = select(table).where(table.c.delivered_ns == 0).order_by(table.c.at_ns, table.c.budget, table.c.share)
        with self._store.engine.connect() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def _alert(self, row: dict[str, Any]) -> Alert:
        return alert_of(row, self._ledger.terms.get(root_of(row["budget"])))


def alert_of(row: dict[str, Any], terms: BudgetTerms | None) -> Alert:
    """Return the alert that a row of the table is. ``terms`` is None when the budget is gone."""
    known = terms or BudgetTerms(name=name_of(row["budget"]), limit=decimal_text(row["limit_pico"]))
    window = known.window_of(row["budget"])
    ends_ns = window.ends_ns if window is not None else 0
    frozen = row["share"] == FROZEN
    return Alert(
        id=f"{row['budget']}/{'frozen' if frozen else row['share']}",
        kind="frozen" if frozen else "share",
        budget=known.name,
        window=row["budget"].partition("@")[2],
        share=None if frozen else row["share"],
        spent=decimal_text(row["spent_pico"]),
        limit=decimal_text(row["limit_pico"]),
        unit=known.unit,
        mode="soft" if known.soft else "hard",
        tenant=known.tenant,
        project=known.project,
        key=known.key,
        feature=known.feature,
        at=iso_time(row["at_ns"], known.zone),
        resets_at=iso_time(ends_ns, known.zone) if ends_ns else None,
        reason=row["reason"],
    )


def all_alerts(store: Store) -> list[dict[str, Any]]:
    """Return the rows of all alerts, newest first."""
    table = tables.alerts
    query = select(table).order_by(table.c.at_ns.desc(), table.c.budget, table.c.share.desc())
    with store.engine.connect() as connection:
        return [dict(row) for row in connection.execute(query).mappings()]


def post(hook: Webhook, alert: Alert) -> None:
    """Post an alert. Raises ``OSError``, ``HTTPException``, or ``UnicodeError`` for a host's name that cannot be one."""
    body = msgspec.json.encode(alert)
    headers = {"content-type": "application/json", "user-agent": "upeti"}
    if hook.secret:
        headers[SIGNATURE_HEADER] = "sha256=" + hmac.new(hook.secret.encode(), body, hashlib.sha256).hexdigest()
    # The address was checked when the configuration was read: http or https.
    request = urllib.request.Request(hook.url, data=body, headers=headers, method="POST")  # noqa: S310
    with _opener.open(request, timeout=_ANSWER_S):
        pass  # the status says it all; a body may come for ever


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect is an answer that did not take the alert: followed, a POST would become a GET."""

    def redirect_request(self, *_: Any) -> None:
        return None


_opener = urllib.request.build_opener(_NoRedirect)


def _row(budget: str, share: int, spent_pico: int, limit_pico: int, reason: str = "") -> dict[str, Any]:
    sums = {"spent_pico": spent_pico, "limit_pico": limit_pico}
    return {"budget": budget, "share": share, **sums, "reason": reason}
