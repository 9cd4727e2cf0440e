"""The control port: health, metrics, and an API for keys, budgets and alerts.

Everything under ``/v1`` asks for the admin token, in the handler itself, so that no mount or proxy in front
can leave it out. Keys are shown once, when they are made; amounts are decimal strings.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable
from typing import Any, Protocol

import msgspec
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.exc import OperationalError

from upeti import __version__
from upeti.control.alerts import alert_of, all_alerts
from upeti.control.api_capture import add_capture
from upeti.control.api_channels import add_channels
from upeti.control.api_conduct import add_conduct
from upeti.control.api_drills import add_drills
from upeti.control.api_lineage import add_lineage
from upeti.control.api_parts import Bearer
from upeti.control.api_rights import add_rights
from upeti.control.api_students import add_students
from upeti.control.budgets import budget_from, drop_terms, keep_terms, release, standings, stored_terms
from upeti.control.compile import terms_of
from upeti.control.drill_watch import DrillWatch
from upeti.control.keys import KeyRequest, KeyRow, make_key
from upeti.control.latch_watch import LatchWatch
from upeti.control.ledger import Ledger
from upeti.control.metrics import CONTENT_TYPE, Metrics
from upeti.control.places import Node, Places
from upeti.control.store import Store, StoreError
from upeti.core.amount import decimal_text
from upeti.core.config import Config
from upeti.core.errors import ConfigError
from upeti.money.budget_terms import SHARES, root_of
from upeti.outlook.remaining import World


class Keeper(Protocol):
    """What the API needs of the keeper."""

    store: Store
    ledger: Ledger
    places: Places
    metrics: Metrics
    latches: LatchWatch
    node: Node
    drills: DrillWatch
    admin_token: str

    @property
    def config(self) -> Config: ...

    def ready(self) -> dict[str, Any]: ...

    def status(self) -> dict[str, Any]: ...

    def metrics_text(self) -> str: ...

    def world(self) -> World: ...

    def refresh(self) -> None: ...


class NewKey(BaseModel):
    """A key to be made."""

    model_config = ConfigDict(extra="forbid")

    tenant: str = Field(description="Who pays.")
    project: str = Field("", description="A part of the tenant.")
    feature: str = Field("", description="Feature of calls that carry no tag.")
    limit: str = Field("", description="What the key may spend in all, in USD, as a decimal string. Empty: no limit.")
    routes: list[str] = Field([], description="Routes the key may use. Empty: all.")
    expires: str = Field("", description="A date, a time, or a span such as `30d`. Empty: never.")


class ShownKey(BaseModel):
    """A key without its secret."""

    id: str
    tenant: str
    project: str
    feature: str
    limit: str | None
    routes: list[str]
    created_ns: int
    expires_ns: int
    revoked_ns: int


class MadeKey(ShownKey):
    """A key that was just made; `key` is not shown again."""

    key: str


class NewBudget(BaseModel):
    """What a budget is to be: the fields of `[[budget]]` in the configuration, without the name."""

    model_config = ConfigDict(extra="forbid")

    limit: str = Field(description="What may be spent in each window, as a decimal string.")
    currency: str = Field("USD", description="Currency of the limit.")
    window: str = Field("total", description="`total`, `month`, `week` or `day`.")
    zone: str = Field("UTC", description="Time zone in which windows begin.")
    mode: str = Field("hard", description="`hard` refuses what would overspend; `soft` only counts and alerts.")
    alert_shares: list[int] = Field(list(SHARES), description="Percent of the limit; spending it gives an alert.")
    tenant: str | None = Field(None, description="Only calls of this tenant.")
    project: str | None = Field(None, description="Only calls of keys with this project.")
    key: str | None = Field(None, description="Only calls with the key of this id.")
    feature: str | None = Field(None, description="Only calls for this feature.")


class ShownBudget(BaseModel):
    """A budget in its present window. Amounts are decimal strings of `unit`."""

    id: str
    name: str
    source: str = Field(
        description="`file`, `state`, `key` (a key's own limit), `case` (of conduct); empty: it was removed."
    )
    unit: str = Field(description="A currency; `calls` or `tokens` for a rate limit.")
    window: str
    zone: str
    mode: str
    alert_shares: list[int]
    tenant: str
    project: str
    key: str
    feature: str
    limit: str
    spent: str
    leased: str = Field(description="What workers may spend without asking.")
    left: str = Field(description="Neither spent nor leased to a worker.")
    share: str | None = Field(description="Percent of the limit that is spent.")
    resets_at: str | None
    frozen: str | None = Field(description="Why it refuses until it is released.")


class ShownAlert(BaseModel):
    """An alert that was given. `delivered_at_ns` is null while the webhook has not taken it, or when there is none."""

    id: str
    kind: str
    budget: str
    window: str
    share: int | None
    spent: str
    limit: str
    unit: str
    mode: str
    tenant: str
    project: str
    key: str
    feature: str
    at: str
    resets_at: str | None
    reason: str
    delivered_at_ns: int | None


def create_app(keeper: Keeper) -> FastAPI:
    """Return the application of the control port."""
    app = FastAPI(title="Upeti control", version=__version__, description="Keys, budgets and the state of one Upeti.")

    def authorize(credentials: HTTPAuthorizationCredentials | None) -> None:
        given = credentials.credentials if credentials is not None else ""
        if not hmac.compare_digest(given.encode(), keeper.admin_token.encode()):
            cure = "Send `Authorization: Bearer …` with the token in {data_dir}/run/admin-token."
            raise HTTPException(401, cure, headers={"WWW-Authenticate": "Bearer"})

    @app.exception_handler(OperationalError)
    async def unavailable(_request: Request, error: OperationalError) -> Response:
        """The database is away, or its lock is held: it may pass."""
        reason = str(error.orig).strip().partition("\n")[0]
        return JSONResponse({"detail": f"The state cannot be reached ({reason}); try again."}, 503)

    @app.get("/healthz", summary="The keeper runs")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz", summary="There is a snapshot and a worker that serves from it")
    async def readyz(response: Response) -> dict[str, Any]:
        state = keeper.ready()
        response.status_code = 200 if state["ready"] else 503
        return state

    @app.get("/metrics", summary="Metrics of all workers, for Prometheus", response_class=Response)
    async def metrics() -> Response:
        return Response(keeper.metrics_text(), media_type=CONTENT_TYPE)

    @app.get("/v1/status", summary="Workers, snapshot, configuration")
    async def status(credentials: Bearer) -> dict[str, Any]:
        authorize(credentials)
        return keeper.status()

    # Handlers that wait for the disk are plain functions: they run in threads, and leases do not wait for
    # them.
    @app.get("/v1/keys", summary="All keys made here, never their secrets")
    def list_keys(credentials: Bearer) -> list[ShownKey]:
        authorize(credentials)
        return [ShownKey(**shown_key(row)) for row in keeper.store.all_keys()]

    @app.post("/v1/keys", status_code=201, summary="Make a key; its secret is in this answer only")
    def create_key(wanted: NewKey, credentials: Bearer) -> MadeKey:
        authorize(credentials)
        fields = wanted.model_dump()
        try:
            key, row = make_key(KeyRequest(**(fields | {"routes": tuple(wanted.routes)})))
        except ConfigError as error:
            raise HTTPException(422, str(error)) from None
        try:
            keeper.store.add_key(row)
        except StoreError as error:
            raise HTTPException(409, str(error)) from None
        keeper.refresh()
        return MadeKey(key=key, **shown_key(row))

    @app.delete("/v1/keys/{key_id:path}", status_code=204, summary="Revoke a key", response_class=Response)
    def revoke_key(key_id: str, credentials: Bearer) -> Response:
        authorize(credentials)
        try:
            keeper.store.revoke_key(key_id)
        except StoreError as error:
            raise HTTPException(404, str(error)) from None
        keeper.refresh()
        return Response(status_code=204)

    _add_budgets(app, keeper, authorize)
    add_rights(app, keeper, authorize)
    add_drills(app, keeper, authorize)
    add_capture(app, keeper, authorize)
    add_lineage(app, keeper, authorize)
    add_students(app, keeper, authorize)
    add_channels(app, keeper, authorize)
    add_conduct(app, keeper, authorize)
    return app


def _add_budgets(
    app: FastAPI, keeper: Keeper, authorize: Callable[[HTTPAuthorizationCredentials | None], None]
) -> None:
    def standing() -> list[ShownBudget]:
        stored = [terms.name for terms in stored_terms(keeper.store)]
        found = standings(keeper.ledger.terms, stored, keeper.ledger, time.time_ns())
        return [ShownBudget(**msgspec.to_builtins(each)) for each in found]

    @app.get("/v1/budgets", summary="All budgets and rate limits as they stand")
    def list_budgets(credentials: Bearer) -> list[ShownBudget]:
        authorize(credentials)
        return standing()

    @app.get("/v1/budgets/{name:path}", summary="One budget as it stands")
    def show_budget(name: str, credentials: Bearer) -> ShownBudget:
        authorize(credentials)
        for shown in standing():
            if shown.name == name:
                return shown
        raise HTTPException(404, f"there is no budget `{name}`; GET /v1/budgets lists them")

    @app.put("/v1/budgets/{name:path}", status_code=204, summary="Make or replace a budget", response_class=Response)
    def set_budget(name: str, wanted: NewBudget, credentials: Bearer) -> Response:
        authorize(credentials)
        if any(shown.name == name and shown.source == "file" for shown in standing()):
            raise HTTPException(409, f"the budget `{name}` is in the configuration file: change it there")
        try:
            terms = terms_of(budget_from({"name": name, **wanted.model_dump()}))
        except ConfigError as error:
            raise HTTPException(422, str(error)) from None
        keep_terms(keeper.store, terms, time.time_ns())
        keeper.refresh()
        return Response(status_code=204)

    @app.delete("/v1/budgets/{name:path}", status_code=204, summary="Remove a budget", response_class=Response)
    def delete_budget(name: str, credentials: Bearer) -> Response:
        authorize(credentials)
        try:
            drop_terms(keeper.store, name)
        except StoreError as error:
            raise HTTPException(404, str(error)) from None
        keeper.refresh()
        return Response(status_code=204)

    @app.post("/v1/budgets/{name:path}/release", status_code=204, summary="Let a frozen budget go on")
    def release_budget(name: str, credentials: Bearer) -> Response:
        authorize(credentials)
        try:
            release(keeper.ledger, name)
        except StoreError as error:
            raise HTTPException(404, str(error)) from None
        keeper.refresh()
        return Response(status_code=204)

    @app.get("/v1/alerts", summary="Alerts that were given, newest first")
    def list_alerts(credentials: Bearer) -> list[ShownAlert]:
        authorize(credentials)
        shown = []
        for row in all_alerts(keeper.store):
            alert = msgspec.to_builtins(alert_of(row, keeper.ledger.terms.get(root_of(row["budget"]))))
            delivered_ns = row["delivered_ns"]
            shown.append(ShownAlert(**alert, delivered_at_ns=delivered_ns if delivered_ns > 0 else None))
        return shown


def shown_key(row: KeyRow) -> dict[str, Any]:
    """Return what may be shown of a key."""
    return {
        "id": row.id,
        "tenant": row.tenant,
        "project": row.project,
        "feature": row.feature,
        "limit": None if row.limit_pico is None else decimal_text(row.limit_pico),
        "routes": list(row.routes),
        "created_ns": row.created_ns,
        "expires_ns": row.expires_ns,
        "revoked_ns": row.revoked_ns,
    }
