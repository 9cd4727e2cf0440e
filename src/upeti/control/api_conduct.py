"""The control API's part for conduct: cases, their evidence, what persons decide, what tenants declare."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

import msgspec
from fastapi import FastAPI, HTTPException, Response
from pydantic import Field

from upeti.control import purposes
from upeti.control.api_parts import Authorize, Bearer, Keeper, Signed
from upeti.control.case_view import bundle_of, shown_case, shown_whole
from upeti.control.cases import all_cases, decide, report
from upeti.control.conduct import standing
from upeti.core.errors import ConfigError
from upeti.rights.conduct.case import CaseError, Event

T = TypeVar("T")
# What a person may do; the rest is for rules and clocks.
STEPS: Final = ("warn", "throttle", "suspend", "appeal", "uphold", "reduce", "hold_ended", "close")


class NewStep(Signed):
    """What a person does with a case."""

    event: str = Field(description=f"One of {', '.join(STEPS)}.")


class NewCase(Signed):
    """A report from outside: a provider's letter, a tip."""

    tenant: str
    what: str = Field(description="What was seen; it is the first evidence of the case.")


class NewPurpose(Signed):
    """What a tenant says it uses models for."""

    purpose: str


def add_conduct(app: FastAPI, keeper: Keeper, authorize: Authorize) -> None:
    """Add the routes below ``/v1/conduct``. Handlers wait for the disk, so they are plain functions."""

    @app.get("/v1/conduct/cases", summary="Cases of conduct, newest first; closed ones too with `all`")
    def list_cases(credentials: Bearer, all: bool = False) -> list[dict[str, Any]]:
        authorize(credentials)
        return [shown_case(case) for case in all_cases(keeper.store, live=not all)]

    @app.get("/v1/conduct/cases/{case_id}", summary="One case and all that happened in it")
    def show_case(case_id: str, credentials: Bearer) -> dict[str, Any]:
        authorize(credentials)
        return _found(lambda: shown_whole(keeper.store, case_id))

    @app.get(
        "/v1/conduct/cases/{case_id}/evidence",
        summary="The evidence, byte for byte as its SHA-256 was taken",
        response_class=Response,
    )
    def show_evidence(case_id: str, credentials: Bearer) -> Response:
        authorize(credentials)
        text, sha256 = _found(lambda: bundle_of(keeper.store, case_id))
        return Response(text, media_type="application/json", headers={"x-upeti-sha256": sha256})

    @app.post("/v1/conduct/cases", status_code=201, summary="Open a case by hand")
    def open_case(wanted: NewCase, credentials: Bearer) -> dict[str, Any]:
        authorize(credentials)
        store = keeper.store
        opened = _done(
            lambda: report(store, store.data_dir, wanted.tenant, wanted.what, person=wanted.by, why=wanted.why)
        )
        keeper.refresh()
        return shown_case(opened)

    @app.post("/v1/conduct/cases/{case_id}/steps", summary="Warn, throttle, suspend, decide an appeal, close")
    def take_step(case_id: str, wanted: NewStep, credentials: Bearer) -> dict[str, Any]:
        authorize(credentials)
        _found(lambda: shown_whole(keeper.store, case_id))
        if wanted.event not in STEPS:
            raise HTTPException(422, f"there is no event `{wanted.event}`; choose from {', '.join(STEPS)}")
        store, settings = keeper.store, keeper.config.conduct
        event = Event(wanted.event)
        moved = _done(
            lambda: decide(store, store.data_dir, case_id, event, person=wanted.by, why=wanted.why, settings=settings)
        )
        keeper.refresh()
        return shown_case(moved)

    @app.get("/v1/conduct/purposes", summary="What tenants have declared")
    def list_purposes(credentials: Bearer) -> list[dict[str, Any]]:
        authorize(credentials)
        return [msgspec.structs.asdict(one) for one in purposes.declared(keeper.store).values()]

    @app.put("/v1/conduct/purposes/{tenant:path}", summary="Declare a tenant's purpose")
    def declare_purpose(tenant: str, wanted: NewPurpose, credentials: Bearer) -> dict[str, Any]:
        authorize(credentials)
        store = keeper.store
        made = _done(
            lambda: purposes.declare(store, store.data_dir, tenant, wanted.purpose, person=wanted.by, why=wanted.why)
        )
        return msgspec.structs.asdict(made)

    @app.get("/v1/conduct/status", summary="How full the windows are, and what the last looks have found")
    def status(credentials: Bearer) -> dict[str, Any]:
        authorize(credentials)
        return {"enabled": keeper.config.conduct.enabled, "units": standing(keeper.store.data_dir)}


def _found(look: Callable[[], T]) -> T:
    try:
        return look()
    except CaseError as error:
        raise HTTPException(404, str(error)) from None


def _done(work: Callable[[], T]) -> T:
    try:
        return work()
    except (CaseError, ConfigError) as error:
        raise HTTPException(422, str(error)) from None
