"""The feed service's HTTP side: Gorse's paths and ours in one application, its description at `/docs`.

Ours say more than Gorse's: `/v1/feed` why each item is there and under which impression it is logged, `/v1/impressions`
takes what came of it, `/v1/explain` answers for one item.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Query, Request, Response

from upeti import __version__
from upeti.core.errors import BadRequest, NotFound
from upeti.feed import wire
from upeti.feed.api_lab import lab_routes, look_routes
from upeti.feed.gorse_api import (
    Number,
    Offset,
    feedback_routes,
    health_routes,
    item_routes,
    recommend_routes,
    user_routes,
)
from upeti.feed.http import Caller, TenantOf, add_errors, body_of, json_of
from upeti.feed.items import Feedback, check_id, checked_feedback
from upeti.feed.serve import NUMBER_MAX, FeedAnswer, FeedRequest
from upeti.feed.service import FeedService

_DESCRIPTION = (
    "A personal feed: Gorse's paths, and ours with reasons, arms and impressions. Keys are those of the gateway."
)


def create_app(service: FeedService, tenant_of: TenantOf) -> FastAPI:
    """Return the application; ``service`` starts and stops with it."""

    @asynccontextmanager
    async def running(_app: FastAPI) -> AsyncIterator[None]:
        await service.start()
        try:
            yield
        finally:
            await service.stop()

    app = FastAPI(title="Upeti feed", version=__version__, description=_DESCRIPTION, lifespan=running)
    app.state.tenant_of = tenant_of
    app.state.service = service
    add_errors(app)
    # In the order in which they are looked through: feeds are asked for most.
    for routes in (
        _routes, recommend_routes, feedback_routes, item_routes, user_routes, health_routes, lab_routes, look_routes,
    ):  # fmt: skip
        app.include_router(routes(service))
    return app


def _routes(service: FeedService) -> APIRouter:
    api = APIRouter(prefix="/v1", tags=["feed"])

    def answered(tenant: str, request: FeedRequest) -> Response:
        check_id("user", request.user)
        return json_of(shown(service.feed(tenant, request)))

    @api.get("/feed", summary="A user's feed, with reasons")
    async def get_feed(
        caller: Caller,
        user: str,
        n: Number = 20,
        offset: Offset = 0,
        category: str = "",
        profiling: Annotated[str, Query(description="`off`: nothing about the user is used.")] = "",
    ) -> Response:
        return answered(caller, FeedRequest(user, n, offset, category, (), _profiling(profiling)))

    @api.post("/feed", summary="A user's feed, with what is not to be in it and the context it is logged with")
    async def post_feed(caller: Caller, request: Request) -> Response:
        body: wire.FeedBody = wire.read(wire.feed_body, await body_of(request))
        if not 1 <= body.n <= NUMBER_MAX or not 0 <= body.offset <= 10_000:
            raise BadRequest("bad_number", f"n is 1 to {NUMBER_MAX}, offset 0 to 10000.", param="n")
        wanted = FeedRequest(
            body.user, body.n, body.offset, body.category, body.exclude, _profiling(body.profiling), body.context
        )
        return answered(caller, wanted)

    @api.post("/impressions", summary="What came of items that were shown")
    async def post_impressions(caller: Caller, request: Request) -> Response:
        now_ns = service.clock_ns()
        rows: list[wire.Engaged] = wire.read(wire.engaged_list, await body_of(request))
        events = [
            checked_feedback(Feedback(one.kind, one.user, one.item, one.value, wire.to_ns(one.timestamp)), now_ns)
            for one in rows
        ]
        return json_of({"new": await service.add_feedback(caller, events)})

    @api.get("/impressions", summary="What was shown, to one user or to all, oldest first")
    async def get_impressions(
        caller: Caller,
        user: str = "",
        since_ns: Annotated[int, Query(ge=0, description="Nanoseconds since 1970.")] = 0,
        n: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> Response:
        log = service.tenant(caller).impressions
        rows = await service.store_call(lambda: [one for one in log.read(since_ns) if user in ("", one.user)])
        names = rows[0].__struct_fields__ if rows else ()
        return json_of([{name: getattr(row, name) for name in names} for row in (rows[-n:] if user else rows[:n])])

    @api.get("/explain", summary="Why an item is, or is not, in a user's feed")
    async def explain(caller: Caller, user: str, item: str) -> Response:
        found = service.tenant(caller).feed.explain(user, item, service.clock_ns())
        if found is None:
            raise NotFound("no_such_item", f"There is no item {item!r}.")
        return json_of(found)

    @api.get("/status", summary="What serves: sizes, versions")
    async def status(caller: Caller) -> Response:
        tenant = service.tenant(caller)
        state = tenant.feed.state
        return json_of(
            {
                "tenant": caller,
                "items": len(state.catalogue),
                "users": len(state.profiles),
                "sequence": state.sequence,
                "model_version": tenant.version,
                "experiments": [one.name for one in tenant.feed.experiments],
            }
        )

    return api


def shown(answer: FeedAnswer) -> dict[str, Any]:
    """Return a feed as `/v1/feed` says it."""
    return {
        "request_id": answer.request_id,
        "arm": answer.arm.name,
        "experiment": answer.arm.experiment,
        "profiling": answer.profiled,
        "model_version": answer.model_version,
        "items": [
            {
                "item": one.item,
                "impression_id": one.impression_id,
                "rank": one.rank,
                "score": one.score,
                "sources": one.sources,
                "reason": {"code": one.reason.code, "text": one.reason.text, "about": one.reason.about},
                "propensity": one.propensity,
            }
            for one in answer.entries
        ],
    }


def _profiling(text: str) -> bool | None:
    if text not in ("", "on", "off"):
        raise BadRequest("bad_profiling", "profiling is `off`, or left out: then the user's own setting holds.")
    return None if text == "" else text == "on"
