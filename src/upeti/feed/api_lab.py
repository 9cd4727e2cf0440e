"""The feed service's routes for experiments and their worth. They work on the caller's own tenant alone.

Reading a long log and judging it takes a second or more: it is done beside the loop that serves feeds.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Header, Query, Request, Response

from upeti.core.errors import BadRequest, ConfigError, NotFound
from upeti.feed import wire
from upeti.feed.enrichment_worker import FEATURE
from upeti.feed.experiment import Experiment
from upeti.feed.experiments import Experiments
from upeti.feed.http import Caller, body_of, json_of
from upeti.feed.impressions import ImpressionLog
from upeti.feed.off_policy import Screened
from upeti.feed.preferences import Preferred, preferred, screened
from upeti.feed.service import FeedService
from upeti.feed.worth_data import Report, report
from upeti.feed.worth_pages import as_values, page, preference_values, screen_values

_ACTOR_CHARACTERS_MAX = 128

Actor = Annotated[str, Header(alias="x-upeti-actor", description="Who decides; it is kept in the journal of acts.")]
Reason = Annotated[str, Query(max_length=1000, description="Why; it is kept in the journal of acts.")]


def lab_routes(service: FeedService) -> APIRouter:
    """Return the routes below ``/v1``."""
    api = APIRouter(prefix="/v1", tags=["experiments"])

    @api.get("/experiments", summary="All experiments, the oldest first")
    async def get_experiments(caller: Caller) -> Response:
        return json_of([msgspec.to_builtins(one) for one in _experiments(service, caller).all()])

    @api.get("/experiments/{name}", summary="One experiment")
    async def get_experiment(caller: Caller, name: str) -> Response:
        return json_of(msgspec.to_builtins(_found(service, caller, name)))

    @api.post("/experiments", summary="Make a draft, or replace one", status_code=201)
    async def post_experiment(caller: Caller, request: Request, reason: Reason = "", actor: Actor = "") -> Response:
        try:
            given = msgspec.json.decode(await body_of(request), type=Experiment)
        except msgspec.DecodeError as error:
            raise BadRequest("bad_experiment", f"This is no experiment: {error}. `/docs` shows one.") from None
        return json_of(
            await _decided(lambda: _experiments(service, caller).put(given, _by(actor), service.clock_ns(), reason)),
            201,
        )

    @api.post("/experiments/{name}/{event}", summary="Start, stop or drop an experiment")
    async def post_event(caller: Caller, name: str, event: str, reason: Reason = "", actor: Actor = "") -> Response:
        _found(service, caller, name)
        kept = _experiments(service, caller)
        step = {"start": kept.start, "stop": kept.stop, "drop": kept.drop}.get(event)
        if step is None:
            raise NotFound("no_such_step", "An experiment can be started, stopped or dropped: /start, /stop, /drop.")
        return json_of(await _decided(lambda: step(name, _by(actor), service.clock_ns(), reason)))

    @api.get("/worth", summary="What an experiment's enrichment earned and cost, and the verdict")
    async def get_worth(caller: Caller, experiment: str) -> Response:
        one = _found(service, caller, experiment)
        return json_of(as_values(await judged(caller, one), one))

    @api.get("/worth/page", summary="The same as a page for people, with plots")
    async def get_page(caller: Caller, experiment: str) -> Response:
        one = _found(service, caller, experiment)
        made = await judged(caller, one)
        html = await asyncio.to_thread(_refusing, lambda: page(made, one, service.clock_ns()))
        return Response(html, media_type="text/html; charset=utf-8")

    async def judged(tenant: str, one: Experiment) -> Report:
        def work() -> Report:
            return report(one, service.store, tenant, service.clock_ns(), data_dir=service.data_dir, feature=FEATURE)

        made: Report = await asyncio.to_thread(_refusing, work)
        return made

    return api


def look_routes(service: FeedService) -> APIRouter:
    """Return the routes of what is cheaper than an A/B test and says less, below ``/v1``."""
    api = APIRouter(prefix="/v1", tags=["experiments"])

    @api.get("/experiments/{name}/preference", summary="Which of two interleaved arms people prefer")
    async def get_preference(caller: Caller, name: str) -> Response:
        one = _found(service, caller, name)

        def work() -> Preferred:
            log = ImpressionLog(service.store.tenant_dir(caller))
            return preferred(one, log, service.store.feedback(caller), service.clock_ns())

        return json_of(preference_values(await asyncio.to_thread(_refusing, work)))

    @api.post("/screen", summary="What another way to rank would have earned: a screen for ideas, no verdict")
    async def post_screen(caller: Caller, request: Request) -> Response:
        body: wire.ScreenBody = wire.read(wire.screen_body, await body_of(request))

        def work() -> list[Screened]:
            log = ImpressionLog(service.store.tenant_dir(caller))
            feedback = service.store.feedback(caller)
            return screened(
                body.probabilities,
                _experiments(service, caller).all(),
                log,
                feedback,
                kinds=body.kinds,
                within_s=body.within_s,
            )

        return json_of([screen_values(one) for one in await asyncio.to_thread(_refusing, work)])

    return api


def _experiments(service: FeedService, tenant: str) -> Experiments:
    return Experiments(service.store.tenant_dir(tenant), service.data_dir, tenant)


def _found(service: FeedService, tenant: str, name: str) -> Experiment:
    try:
        return _experiments(service, tenant).get(name)
    except ConfigError as error:
        raise NotFound("no_such_experiment", str(error)) from None


def _by(actor: str) -> str:
    return actor[:_ACTOR_CHARACTERS_MAX] or "api"


async def _decided(step: Any) -> dict[str, Any]:
    """Do what changes an experiment, off the loop: an act is on the disk before it takes effect."""
    done: dict[str, Any] = msgspec.to_builtins(await asyncio.to_thread(_refusing, step))
    return done


def _refusing(work: Any) -> Any:
    try:
        return work()
    except ConfigError as error:
        raise BadRequest("refused", str(error), status=409) from None
