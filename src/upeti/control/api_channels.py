"""The control API's part for cut-offs: channels with their latches, probes at once, latching and opening, incidents."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

import msgspec
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, ConfigDict, Field

from upeti.control import latches
from upeti.control.api_parts import Authorize, Bearer
from upeti.control.latch_view import channels_shown, shown_incident
from upeti.control.latch_watch import LatchWatch, shown_verdict
from upeti.control.metrics import Metrics
from upeti.control.places import Places
from upeti.control.store import Store
from upeti.core.config import Config
from upeti.core.errors import ConfigError


class Keeper(Protocol):
    """What this part needs of the keeper."""

    store: Store
    places: Places
    metrics: Metrics
    latches: LatchWatch

    @property
    def config(self) -> Config: ...


class Decision(BaseModel):
    """Who latches or opens a channel, and why."""

    model_config = ConfigDict(extra="forbid")

    by: str = Field(description="Who decides: a person's name.")
    why: str = Field(description="Why; it is journaled and shown.")
    model: str = Field("", description="Only this model of the channel. Empty: the channel.")


class ProbeWanted(BaseModel):
    """What to probe."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field("", description="Only this model of the channel. Empty: all that is latched, or the channel.")


def add_channels(app: FastAPI, keeper: Keeper, authorize: Authorize) -> None:
    """Add the routes to the control port's application."""

    def known(name: str) -> str:
        if name not in [channel.name for channel in keeper.config.channel]:
            raise HTTPException(404, f"there is no channel `{name}`; GET /v1/channels lists them")
        return name

    @app.get("/v1/channels", summary="All channels: usable or latched, since when, why, next probe, breaker")
    def list_channels(credentials: Bearer) -> list[dict[str, Any]]:
        authorize(credentials)
        names = {channel.name: channel.kind for channel in keeper.config.channel}
        breakers = keeper.metrics.gauges("upeti_channel_open")
        return msgspec.to_builtins(channels_shown(names, latches.all_latches(keeper.store), breakers))  # type: ignore[no-any-return]

    @app.post("/v1/channels/{name:path}/probe", summary="Send a request that is known to be good, now")
    async def probe(name: str, wanted: ProbeWanted, credentials: Bearer) -> list[dict[str, Any]]:
        authorize(credentials)
        found = await keeper.latches.probe(known(name), wanted.model)
        return [{"subject": subject.words, **shown_verdict(word)} for subject, word in found]

    @app.post("/v1/channels/{name:path}/latch", status_code=204, summary="Take a channel out until a person opens it")
    def latch(name: str, decision: Decision, credentials: Bearer) -> None:
        authorize(credentials)
        made = _decided(lambda: latches.person_latched(**_arguments(keeper, known(name), decision)))
        keeper.latches.person_shut(made)

    @app.post("/v1/channels/{name:path}/open", status_code=204, summary="Open what is latched of a channel")
    def open_channel(name: str, decision: Decision, credentials: Bearer) -> None:
        authorize(credentials)
        for subject in _decided(lambda: latches.person_opened(**_arguments(keeper, name, decision))):
            keeper.latches.person_opened(subject)

    @app.get("/v1/incidents", summary="Incidents, newest first")
    def list_incidents(credentials: Bearer) -> list[dict[str, Any]]:
        authorize(credentials)
        return [shown_incident(one) for one in latches.all_incidents(keeper.store)]

    @app.get("/v1/incidents/{incident}", summary="One incident")
    def show_incident(incident: str, credentials: Bearer) -> dict[str, Any]:
        authorize(credentials)
        try:
            return shown_incident(latches.incident_of(keeper.store, incident))
        except ConfigError as error:
            raise HTTPException(404, str(error)) from None


def _arguments(keeper: Keeper, name: str, decision: Decision) -> dict[str, Any]:
    return {
        "store": keeper.store,
        "data_dir": keeper.places.data_dir,
        "channel": name,
        "model": decision.model,
        "by": decision.by,
        "why": decision.why,
        "now_ns": time.time_ns(),
    }


def _decided(decide: Callable[[], Any]) -> Any:
    try:
        return decide()
    except ConfigError as error:
        raise HTTPException(422, str(error)) from None
