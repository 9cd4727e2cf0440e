"""The control API's part for drills and the exit plan: begin, watch, end, read the signed report, check it."""

from __future__ import annotations

import time
from typing import Any, Protocol

from fastapi import FastAPI, HTTPException, Response
from pydantic import BaseModel, ConfigDict, Field

from upeti.control import drills
from upeti.control.api_parts import Authorize, Bearer
from upeti.control.drill_watch import DrillWatch, shown
from upeti.control.drill_world import routes_through, without_alternative
from upeti.control.drills import Wanted
from upeti.control.exit_plans import exit_plan
from upeti.control.places import Node
from upeti.control.store import Store
from upeti.core.config import Config
from upeti.core.errors import ConfigError
from upeti.gateway.faults import Kind
from upeti.outlook.drill_life import Event
from upeti.outlook.remaining import World

_PERCENT: int = 10_000  # millionths


class Keeper(Protocol):
    """What this part needs of the keeper."""

    store: Store
    node: Node
    drills: DrillWatch

    @property
    def config(self) -> Config: ...

    def world(self) -> World: ...

    def refresh(self) -> None: ...


class NewDrill(BaseModel):
    """A live drill."""

    model_config = ConfigDict(extra="forbid")

    channel: str = Field(description="The channel that is cut off.")
    share_percent: float = Field(gt=0, le=100, description="Share of the calls that meet it.")
    minutes: float = Field(10, gt=0, le=drills.MINUTES_MAX, description="How long; it ends then by itself.")
    by: str = Field(description="Who begins it: a person's name.")
    why: str = Field("", description="Why; it is journaled and in the report.")
    kind: Kind = Field(Kind.ERROR, description="What these calls meet.")
    signal: str = Field("", description="Of an error: which row of the table of signals. Empty: the account is gone.")
    delay_ms: int = Field(2_000, ge=1, le=600_000, description="Of a slow provider: how late.")
    abort_below_percent: int | None = Field(
        None, ge=0, le=100, description="End it when fewer survive. Empty: as `[drill]` says."
    )
    force: bool = Field(False, description="Also when no route has an alternative: its calls will be lost.")


class Ending(BaseModel):
    """Who ends a drill, and why."""

    model_config = ConfigDict(extra="forbid")

    by: str = Field(description="Who ends it: a person's name.")
    why: str = Field("", description="Why; it is journaled and in the report.")


def add_drills(app: FastAPI, keeper: Keeper, authorize: Authorize) -> None:
    """Add the routes to the control port's application."""

    @app.get("/v1/drills", summary="Drills, newest first")
    def list_drills(credentials: Bearer) -> list[dict[str, Any]]:
        authorize(credentials)
        return [shown(row, keeper.drills.progress(row.id)) for row in drills.all_drills(keeper.store)]

    @app.post("/v1/drills", status_code=201, summary="Cut a channel off for a share of the calls, for a while")
    def begin(wanted: NewDrill, credentials: Bearer) -> dict[str, Any]:
        authorize(credentials)
        lacking = _check(keeper.world(), wanted)
        kinds = {channel.name: channel.kind for channel in keeper.config.channel}
        settings = keeper.config.drill
        given = wanted.abort_below_percent
        asked = Wanted(
            wanted.channel,
            round(wanted.share_percent * _PERCENT),
            wanted.minutes,
            wanted.by,
            wanted.why,
            wanted.kind,
            wanted.signal,
            wanted.delay_ms,
            settings.abort_below_percent if given is None else given,
        )
        try:
            row = drills.begin(keeper.store, asked, kinds[wanted.channel], keeper.node.name, time.time_ns())
        except ConfigError as error:
            raise HTTPException(422, str(error)) from None
        keeper.refresh()
        keeper.drills.look()
        return {**shown(row), "without_alternative": lacking}

    @app.get("/v1/drills/{drill}", summary="One drill; while it runs, how it stands")
    def show(drill: str, credentials: Bearer) -> dict[str, Any]:
        authorize(credentials)
        return shown(_found(keeper, drill), keeper.drills.progress(drill))

    @app.get("/v1/drills/{drill}/report", summary="The signed report: a DSSE envelope", response_class=Response)
    def report(drill: str, credentials: Bearer) -> Response:
        authorize(credentials)
        row = _found(keeper, drill)
        if not row.envelope:
            raise HTTPException(409, f"the drill {row.id} has no report yet")
        return Response(row.envelope, media_type="application/vnd.dsse.envelope.v1+json")

    @app.get("/v1/exit-plan", summary="Route by route: alternatives, last drill, months and cost to leave")
    def show_exit_plan(credentials: Bearer) -> dict[str, Any]:
        authorize(credentials)
        return exit_plan(keeper.store, keeper.config, keeper.world())

    @app.post("/v1/drills/{drill}/end", summary="End a drill at once")
    def end(drill: str, wanted: Ending, credentials: Bearer) -> dict[str, Any]:
        authorize(credentials)
        _found(keeper, drill)
        try:
            row = drills.end(keeper.store, drill, Event.PERSON_ENDED, by=wanted.by, why=wanted.why)
        except ConfigError as error:
            raise HTTPException(422, str(error)) from None
        keeper.refresh()
        keeper.drills.look()
        return shown(row)


def _found(keeper: Keeper, drill: str) -> drills.DrillRow:
    try:
        return drills.drill_of(keeper.store, drill)
    except ConfigError as error:
        raise HTTPException(404, str(error)) from None


def _check(world: World, wanted: NewDrill) -> dict[str, str]:
    """Return the routes whose calls in the share will be lost, and why; refuse when there is nothing else."""
    if wanted.channel not in world.channels:
        raise HTTPException(404, f"there is no channel `{wanted.channel}`; GET /v1/channels lists them")
    through = routes_through(world, wanted.channel)
    lacking = {name: lack.cure(name) for name, lack in without_alternative(world, wanted.channel).items()}
    if not through:
        raise HTTPException(422, f"no route has a candidate on `{wanted.channel}`: there is nothing to cut off")
    if len(lacking) == len(through) and not wanted.force:
        cures = "; ".join(f"{name}: {cure}" for name, cure in sorted(lacking.items()))
        raise HTTPException(
            422,
            f"every call of the share would be lost, for no route has an alternative ({cures}); force the drill to see it",
        )
    return lacking
