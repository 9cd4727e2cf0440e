"""Gorse's paths, so that its clients work here without a change (github.com/gorse-io/gorse, v0.5).

What differs: a user's neighbours are not computed, and lists of items, users and feedback are paged by cursors of ours.
``Profiling`` of a user is an addition.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any, Final, NamedTuple

import msgspec
from fastapi import APIRouter, Header, Query, Request, Response

from upeti.core.errors import BadRequest, NotFound
from upeti.feed import wire
from upeti.feed.http import Caller, body_of, json_of
from upeti.feed.items import (
    Feedback,
    Item,
    User,
    check_id,
    checked_feedback,
    checked_item,
    checked_user,
)
from upeti.feed.serve import NUMBER_MAX, FeedRequest
from upeti.feed.service import FeedService

PAGE_MAX: Final = 10_000
Number = Annotated[int, Query(ge=1, le=NUMBER_MAX, description="How many items.")]
Page = Annotated[int, Query(ge=1, le=PAGE_MAX, description="How many rows.")]
Offset = Annotated[int, Query(ge=0, le=10_000, description="How many items to pass over.")]
DELAY_S_MAX: Final = 86_400
_DURATION: Final = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")  # as Go writes it, in whole seconds
Cursor = Annotated[str, Query(description="`Cursor` of the page before; empty for the first.")]


def _rows(number: int) -> Response:
    return json_of({"RowAffected": number})


def feedback_routes(service: FeedService) -> APIRouter:
    """Return the routes of feedback."""
    api = APIRouter(tags=["feedback"])

    async def taken(request: Request) -> list[Feedback]:
        now_ns = service.clock_ns()
        rows = wire.read(wire.feedback_list, await body_of(request))
        return [checked_feedback(wire.to_feedback(one), now_ns) for one in rows]

    async def page(tenant: str, n: int, cursor: str, kind: str = "") -> Response:
        after = _number(cursor)
        rows = await service.store_call(lambda: service.store.feedback(tenant, after=after, limit=n, kind=kind))
        following = str(rows[-1].sequence) if len(rows) == n else ""
        return json_of({"Cursor": following, "Feedback": [wire.from_feedback(one) for one in rows]})

    async def of(tenant: str, kind: str = "", *, user: str = "", item: str = "") -> list[dict[str, Any]]:
        rows = await service.store_call(lambda: service.store.feedback(tenant, user=user, item=item, kind=kind))
        return [wire.from_feedback(one) for one in rows]

    @api.post("/api/feedback", summary="Add feedback; what is there already stays as it is")
    async def insert(caller: Caller, request: Request) -> Response:
        return _rows(await service.add_feedback(caller, await taken(request)))

    @api.put("/api/feedback", summary="Add feedback in place of what is there")
    async def overwrite(caller: Caller, request: Request) -> Response:
        return _rows(await service.replace_feedback(caller, await taken(request)))

    @api.get("/api/feedback", summary="List feedback, oldest first")
    @api.get("/api/feedback/{feedback_type}", summary="List feedback of one type, oldest first")
    async def listed(caller: Caller, feedback_type: str = "", n: Page = 10, cursor: Cursor = "") -> Response:
        return await page(caller, n, cursor, feedback_type)

    @api.get("/api/feedback/{user_id}/{item_id}", summary="Feedback of a user on an item")
    async def of_pair(caller: Caller, user_id: str, item_id: str) -> Response:
        return json_of(await of(caller, user=user_id, item=item_id))

    @api.get("/api/feedback/{feedback_type}/{user_id}/{item_id}", summary="Feedback of one type of a user on an item")
    async def of_key(caller: Caller, feedback_type: str, user_id: str, item_id: str) -> Response:
        rows = await of(caller, feedback_type, user=user_id, item=item_id)
        if not rows:
            raise NotFound("no_such_feedback", "There is no such feedback.")
        return json_of(rows[0])

    @api.delete("/api/feedback/{user_id}/{item_id}", summary="Take back a user's feedback on an item")
    @api.delete("/api/feedback/{feedback_type}/{user_id}/{item_id}", summary="Take back feedback of one type")
    async def delete(caller: Caller, user_id: str, item_id: str, feedback_type: str = "") -> Response:
        return _rows(await service.delete_feedback(caller, user_id, item_id, feedback_type))

    @api.get("/api/user/{user_id}/feedback", summary="Feedback of a user")
    @api.get("/api/user/{user_id}/feedback/{feedback_type}", summary="Feedback of a user, of one type")
    async def of_user(caller: Caller, user_id: str, feedback_type: str = "") -> Response:
        return json_of(await of(caller, feedback_type, user=user_id))

    @api.get("/api/item/{item_id}/feedback", summary="Feedback on an item")
    @api.get("/api/item/{item_id}/feedback/{feedback_type}", summary="Feedback on an item, of one type")
    async def of_item(caller: Caller, item_id: str, feedback_type: str = "") -> Response:
        return json_of(await of(caller, feedback_type, item=item_id))

    return api


class _Kind(NamedTuple):
    """One kind of thing that has an id: how it is read, checked, kept and said."""

    name: str
    plural: str  # the field of a page
    one: msgspec.json.Decoder[Any]
    many: msgspec.json.Decoder[Any]
    change: msgspec.json.Decoder[Any]
    made: Callable[[Any], Any]
    changed: Callable[[Any, Any], Any]
    checked: Callable[[Any, int], Any]
    said: Callable[[Any], dict[str, Any]]
    find: Callable[[str, str], Any]  # tenant, id
    page: Callable[..., Sequence[Any]]
    put: Callable[[str, Sequence[Any]], Awaitable[None]]
    delete: Callable[[str, str], Awaitable[bool]]
    deletes: str


class _Things:
    """What the routes of one kind do."""

    def __init__(self, service: FeedService, kind: _Kind) -> None:
        self._service = service
        self._kind = kind

    async def put(self, tenant: str, things: Sequence[Any]) -> Response:
        now_ns = self._service.clock_ns()
        await self._kind.put(tenant, [self._kind.checked(one, now_ns) for one in things])
        return _rows(len(things))

    async def kept(self, tenant: str, name: str) -> Any:
        found = await self._service.store_call(lambda: self._kind.find(tenant, name))
        if found is None:
            raise NotFound(f"no_such_{self._kind.name}", f"There is no {self._kind.name} {name!r}.")
        return found

    async def change(self, tenant: str, name: str, changes: Any) -> Response:
        return await self.put(tenant, [self._kind.changed(await self.kept(tenant, name), changes)])

    def routes(self) -> APIRouter:
        """Return the routes that every kind has."""
        kind, things = self._kind, self
        api = APIRouter(tags=[f"{kind.name}s"])
        path = f"/api/{kind.name}/{{name}}"

        @api.post(f"/api/{kind.name}", summary=f"Add one {kind.name}, in place of what has its id")
        async def insert(caller: Caller, request: Request) -> Response:
            return await things.put(caller, [kind.made(wire.read(kind.one, await body_of(request)))])

        @api.post(f"/api/{kind.name}s", summary=f"Add {kind.name}s, in place of what has their ids")
        async def insert_many(caller: Caller, request: Request) -> Response:
            return await things.put(caller, [kind.made(one) for one in wire.read(kind.many, await body_of(request))])

        @api.get(f"/api/{kind.name}s", summary=f"List {kind.name}s by id, or look for words in them")
        async def listed(caller: Caller, n: Page = 10, cursor: Cursor = "", q: str = "") -> Response:
            if q:
                words = q.lower().split()
                found = await things._service.store_call(lambda: kind.page(caller))
                rows = [one for one in found if all(word in _text_of(one) for word in words)][:n]
            else:
                rows = list(await things._service.store_call(lambda: kind.page(caller, after=cursor, limit=n)))
            following = rows[-1].id if len(rows) == n and not q else ""
            return json_of({"Cursor": following, kind.plural: [kind.said(one) for one in rows]})

        @api.get(path, summary=f"One {kind.name}")
        async def get(caller: Caller, name: str) -> Response:
            return json_of(kind.said(await things.kept(caller, name)))

        @api.patch(path, summary=f"Change one {kind.name}")
        async def patch(caller: Caller, name: str, request: Request) -> Response:
            return await things.change(caller, name, wire.read(kind.change, await body_of(request)))

        @api.delete(path, summary=kind.deletes)
        async def delete(caller: Caller, name: str) -> Response:
            return _rows(int(await kind.delete(caller, name)))

        return api


def item_routes(service: FeedService) -> APIRouter:
    """Return the routes of items."""
    store = service.store
    items = _Things(service, _Kind(
        "item", "Items", wire.item_one, wire.item_list, wire.item_patch, wire.to_item, wire.patched_item, checked_item,
        wire.from_item, store.item, store.items, service.put_items, service.delete_item,
        "Delete an item and the feedback on it",
    ))  # fmt: skip
    api = items.routes()

    async def put_into(tenant: str, item_id: str, category: str, *, inside: bool) -> Response:
        item: Item = await items.kept(tenant, item_id)
        others = tuple(one for one in item.categories if one != category)
        categories = (*others, category) if inside else others
        return await items.change(tenant, item_id, wire.GorseItemPatch(categories=categories))

    @api.put("/api/item/{item_id}/category/{category}", summary="Put an item into a category")
    async def add_category(caller: Caller, item_id: str, category: str) -> Response:
        return await put_into(caller, item_id, category, inside=True)

    @api.delete("/api/item/{item_id}/category/{category}", summary="Take an item out of a category")
    async def drop_category(caller: Caller, item_id: str, category: str) -> Response:
        return await put_into(caller, item_id, category, inside=False)

    @api.get("/api/item/{item_id}/neighbors", summary="Items that are near to one")
    async def neighbours(caller: Caller, item_id: str, n: Number = 10, offset: Offset = 0) -> Response:
        await items.kept(caller, item_id)
        found = service.tenant(caller).feed.neighbours(item_id, service.clock_ns(), n + offset)
        return json_of([{"Id": item, "Score": value} for item, value in found[offset:]])

    return api


def user_routes(service: FeedService) -> APIRouter:
    """Return the routes of users."""
    store = service.store
    return _Things(service, _Kind(
        "user", "Users", wire.user_one, wire.user_list, wire.user_patch, wire.to_user, wire.patched_user, checked_user,
        wire.from_user, store.user, store.users, service.put_users, service.delete_user,
        "Delete a user everywhere: what they did, their profile, their impressions",
    )).routes()  # fmt: skip


def _text_of(one: Item | User) -> str:
    return f"{one.id} {one.text if isinstance(one, Item) else one.comment}".lower()


def recommend_routes(service: FeedService) -> APIRouter:
    """Return the routes that recommend."""
    api = APIRouter(tags=["recommend"])

    async def recommend(
        tenant: str, request: FeedRequest, version: str, write_back_type: str, write_back_delay: str
    ) -> Response:
        delay_s = _delay_s(write_back_delay)
        check_id("UserId", request.user)
        answer = service.feed(tenant, request)
        if write_back_type:
            now_ns = service.clock_ns()
            seen = [
                checked_feedback(Feedback(write_back_type, request.user, one.item), now_ns) for one in answer.entries
            ]
            await service.add_feedback_later(tenant, seen, delay_s)
        if version == "2":
            return json_of([{"Id": one.item, "Score": one.score} for one in answer.entries])
        return json_of([one.item for one in answer.entries])

    @api.get("/api/recommend/{user_id}", summary="A user's feed")
    @api.get("/api/recommend/{user_id}/", include_in_schema=False)
    @api.get("/api/recommend/{user_id}/{category}", summary="A user's feed within a category")
    async def of_user(
        caller: Caller,
        user_id: str,
        category: str = "",
        n: Number = 10,
        offset: Offset = 0,
        write_back_type: Annotated[str, Query(alias="write-back-type")] = "",
        write_back_delay: Annotated[str, Query(alias="write-back-delay")] = "",
        x_api_version: Annotated[str, Header()] = "",
    ) -> Response:
        wanted = FeedRequest(user_id, n, offset, category)
        return await recommend(caller, wanted, x_api_version, write_back_type, write_back_delay)

    @api.post("/api/session/recommend", summary="A feed for who is not known, from what they did in this session")
    @api.post("/api/session/recommend/{category}", summary="… within a category")
    async def of_session(caller: Caller, request: Request, category: str = "", n: Number = 10) -> Response:
        rows = wire.read(wire.feedback_list, await body_of(request))
        now_ns = service.clock_ns()
        events = sorted((checked_feedback(wire.to_feedback(one), now_ns) for one in rows), key=lambda one: one.at_ns)
        items = tuple(one.item for one in events)
        user = events[-1].user if events else "session"
        answer = service.feed(caller, FeedRequest(user, n, 0, category, session=items), log=False)
        return json_of([{"Id": one.item, "Score": one.score} for one in answer.entries])

    def scored(found: list[tuple[str, float]], offset: int) -> Response:
        return json_of([{"Id": item, "Score": value} for item, value in found[offset:]])

    @api.get("/api/latest", summary="The newest items")
    @api.get("/api/latest/{category}", summary="The newest items of a category")
    async def latest(caller: Caller, category: str = "", n: Number = 10, offset: Offset = 0) -> Response:
        found = service.tenant(caller).feed.latest(service.clock_ns(), n + offset, category)
        return scored(found, offset)

    @api.get("/api/popular", summary="The most popular items of the last days")
    @api.get("/api/popular/{category}", summary="… of a category")
    async def popular(caller: Caller, category: str = "", n: Number = 10, offset: Offset = 0) -> Response:
        found = service.tenant(caller).feed.popular(service.clock_ns(), n + offset, category)
        return scored(found, offset)

    return api


def health_routes(service: FeedService) -> APIRouter:
    """Return the routes that need no key."""
    api = APIRouter(tags=["health"])

    def health() -> dict[str, Any]:
        return {
            "Ready": service.is_ready, "DataStoreConnected": service.is_ready, "CacheStoreConnected": service.is_ready,
            "DataStoreError": None, "CacheStoreError": None,
        }  # fmt: skip

    @api.get("/api/health/live", summary="Whether the process answers")
    async def live() -> Response:
        return json_of(health())

    @api.get("/api/health/ready", summary="Whether feeds are served")
    async def ready() -> Response:
        return json_of(health(), 200 if service.is_ready else 503)

    return api


def _delay_s(text: str) -> int:
    """Return the seconds of a duration such as ``1h30m``."""
    parts = _DURATION.fullmatch(text if text != "0" else "")
    seconds = (
        -1
        if parts is None
        else sum(int(part or 0) * unit for part, unit in zip(parts.groups(), (3600, 60, 1), strict=True))
    )
    if not 0 <= seconds <= DELAY_S_MAX:
        raise BadRequest(
            "bad_delay", f"write-back-delay is a duration such as 1h30m or 10m0s, up to {DELAY_S_MAX // 3600} hours."
        )
    return seconds


def _number(cursor: str) -> int:
    try:
        return int(cursor or 0)
    except ValueError:
        raise BadRequest(
            "bad_cursor", "cursor is none that this service gave: leave it out for the first page."
        ) from None
