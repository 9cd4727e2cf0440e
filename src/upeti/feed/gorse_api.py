"""Gorse's paths, so that its clients work here without a change (github.com/gorse-io/gorse, v0.5).

What differs: ``write-back-delay`` is refused, a user's neighbours are not computed, and lists of items, users and feedback
are paged by cursors of ours. ``Profiling`` of a user is an addition.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

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
Cursor = Annotated[str, Query(description="`Cursor` of the page before; empty for the first.")]


def _rows(number: int) -> Response:
    return json_of({"RowAffected": number})


def feedback_routes(service: FeedService) -> APIRouter:  # noqa: C901 - a list of routes, one after the other
    """Return the routes of feedback."""
    api = APIRouter(tags=["feedback"])

    async def taken(request: Request) -> list[Feedback]:
        now_ns = service.clock_ns()
        rows = wire.read(wire.feedback_list, await body_of(request))
        return [checked_feedback(wire.to_feedback(one), now_ns) for one in rows]

    @api.post("/api/feedback", summary="Add feedback; what is there already stays as it is")
    async def insert(caller: Caller, request: Request) -> Response:
        return _rows(await service.add_feedback(caller, await taken(request)))

    @api.put("/api/feedback", summary="Add feedback in place of what is there")
    async def overwrite(caller: Caller, request: Request) -> Response:
        return _rows(await service.replace_feedback(caller, await taken(request)))

    async def page(tenant: str, n: int, cursor: str, kind: str) -> Response:
        after = _number(cursor)
        rows = await service.store_call(lambda: service.store.feedback(tenant, after=after, limit=n, kind=kind))
        following = str(rows[-1].sequence) if len(rows) == n else ""
        return json_of({"Cursor": following, "Feedback": [wire.from_feedback(one) for one in rows]})

    @api.get("/api/feedback", summary="List feedback, oldest first")
    async def list_all(caller: Caller, n: Page = 10, cursor: Cursor = "") -> Response:
        return await page(caller, n, cursor, "")

    @api.get("/api/feedback/{feedback_type}", summary="List feedback of one type, oldest first")
    async def list_kind(caller: Caller, feedback_type: str, n: Page = 10, cursor: Cursor = "") -> Response:
        return await page(caller, n, cursor, feedback_type)

    @api.get("/api/feedback/{user_id}/{item_id}", summary="Feedback of a user on an item")
    async def of_pair(caller: Caller, user_id: str, item_id: str) -> Response:
        rows = await service.store_call(lambda: service.store.feedback(caller, user=user_id, item=item_id))
        return json_of([wire.from_feedback(one) for one in rows])

    @api.get("/api/feedback/{feedback_type}/{user_id}/{item_id}", summary="Feedback of one type of a user on an item")
    async def of_key(caller: Caller, feedback_type: str, user_id: str, item_id: str) -> Response:
        rows = await service.store_call(
            lambda: service.store.feedback(caller, user=user_id, item=item_id, kind=feedback_type)
        )
        if not rows:
            raise NotFound("no_such_feedback", "There is no such feedback.")
        return json_of(wire.from_feedback(rows[0]))

    @api.delete("/api/feedback/{user_id}/{item_id}", summary="Take back a user's feedback on an item")
    async def delete_pair(caller: Caller, user_id: str, item_id: str) -> Response:
        return _rows(await service.delete_feedback(caller, user_id, item_id))

    @api.delete("/api/feedback/{feedback_type}/{user_id}/{item_id}", summary="Take back feedback of one type")
    async def delete_key(caller: Caller, feedback_type: str, user_id: str, item_id: str) -> Response:
        return _rows(await service.delete_feedback(caller, user_id, item_id, feedback_type))

    @api.get("/api/user/{user_id}/feedback", summary="Feedback of a user")
    async def of_user(caller: Caller, user_id: str) -> Response:
        rows = await service.store_call(lambda: service.store.feedback(caller, user=user_id))
        return json_of([wire.from_feedback(one) for one in rows])

    @api.get("/api/user/{user_id}/feedback/{feedback_type}", summary="Feedback of a user, of one type")
    async def of_user_kind(caller: Caller, user_id: str, feedback_type: str) -> Response:
        rows = await service.store_call(lambda: service.store.feedback(caller, user=user_id, kind=feedback_type))
        return json_of([wire.from_feedback(one) for one in rows])

    @api.get("/api/item/{item_id}/feedback", summary="Feedback on an item")
    async def of_item(caller: Caller, item_id: str) -> Response:
        rows = await service.store_call(lambda: service.store.feedback(caller, item=item_id))
        return json_of([wire.from_feedback(one) for one in rows])

    @api.get("/api/item/{item_id}/feedback/{feedback_type}", summary="Feedback on an item, of one type")
    async def of_item_kind(caller: Caller, item_id: str, feedback_type: str) -> Response:
        rows = await service.store_call(lambda: service.store.feedback(caller, item=item_id, kind=feedback_type))
        return json_of([wire.from_feedback(one) for one in rows])

    return api


def item_routes(service: FeedService) -> APIRouter:
    """Return the routes of items."""
    api = APIRouter(tags=["items"])

    async def put(tenant: str, items: list[Item]) -> Response:
        await service.put_items(tenant, [checked_item(one, service.clock_ns()) for one in items])
        return _rows(len(items))

    async def kept(tenant: str, item_id: str) -> Item:
        found = await service.store_call(lambda: service.store.item(tenant, item_id))
        if found is None:
            raise NotFound("no_such_item", f"There is no item {item_id!r}.")
        return found

    @api.post("/api/item", summary="Add an item, in place of what has its id")
    async def insert(caller: Caller, request: Request) -> Response:
        return await put(caller, [wire.to_item(wire.read(wire.item_one, await body_of(request)))])

    @api.post("/api/items", summary="Add items, in place of what has their ids")
    async def insert_many(caller: Caller, request: Request) -> Response:
        return await put(caller, [wire.to_item(one) for one in wire.read(wire.item_list, await body_of(request))])

    @api.get("/api/items", summary="List items by id, or look for a text in them")
    async def list_all(caller: Caller, n: Page = 10, cursor: Cursor = "", q: str = "") -> Response:
        if q:
            words = q.lower().split()
            found = await service.store_call(lambda: service.store.items(caller))
            rows = [one for one in found if all(word in f"{one.id} {one.text}".lower() for word in words)][:n]
            return json_of({"Cursor": "", "Items": [wire.from_item(one) for one in rows]})
        rows = await service.store_call(lambda: service.store.items(caller, after=cursor, limit=n))
        following = rows[-1].id if len(rows) == n else ""
        return json_of({"Cursor": following, "Items": [wire.from_item(one) for one in rows]})

    @api.get("/api/item/{item_id}", summary="An item")
    async def get(caller: Caller, item_id: str) -> Response:
        return json_of(wire.from_item(await kept(caller, item_id)))

    @api.patch("/api/item/{item_id}", summary="Change an item")
    async def patch(caller: Caller, item_id: str, request: Request) -> Response:
        changes = wire.read(wire.item_patch, await body_of(request))
        return await put(caller, [wire.patched_item(await kept(caller, item_id), changes)])

    @api.delete("/api/item/{item_id}", summary="Delete an item and the feedback on it")
    async def delete(caller: Caller, item_id: str) -> Response:
        return _rows(int(await service.delete_item(caller, item_id)))

    @api.put("/api/item/{item_id}/category/{category}", summary="Put an item into a category")
    async def add_category(caller: Caller, item_id: str, category: str) -> Response:
        item = await kept(caller, item_id)
        categories = tuple(dict.fromkeys((*item.categories, category)))
        return await put(caller, [wire.patched_item(item, wire.GorseItemPatch(categories=categories))])

    @api.delete("/api/item/{item_id}/category/{category}", summary="Take an item out of a category")
    async def drop_category(caller: Caller, item_id: str, category: str) -> Response:
        item = await kept(caller, item_id)
        categories = tuple(one for one in item.categories if one != category)
        return await put(caller, [wire.patched_item(item, wire.GorseItemPatch(categories=categories))])

    @api.get("/api/item/{item_id}/neighbors", summary="Items that are near to one")
    async def neighbours(caller: Caller, item_id: str, n: Number = 10, offset: Offset = 0) -> Response:
        await kept(caller, item_id)
        found = service.tenant(caller).feed.neighbours(item_id, service.clock_ns(), n + offset)
        return json_of([{"Id": item, "Score": value} for item, value in found[offset:]])

    return api


def user_routes(service: FeedService) -> APIRouter:
    """Return the routes of users."""
    api = APIRouter(tags=["users"])

    async def put(tenant: str, users: list[User]) -> Response:
        await service.put_users(tenant, [checked_user(one, service.clock_ns()) for one in users])
        return _rows(len(users))

    async def kept(tenant: str, user_id: str) -> User:
        found = await service.store_call(lambda: service.store.user(tenant, user_id))
        if found is None:
            raise NotFound("no_such_user", f"There is no user {user_id!r}.")
        return found

    @api.post("/api/user", summary="Add a user, in place of who has the id")
    async def insert(caller: Caller, request: Request) -> Response:
        return await put(caller, [wire.to_user(wire.read(wire.user_one, await body_of(request)))])

    @api.post("/api/users", summary="Add users, in place of who has their ids")
    async def insert_many(caller: Caller, request: Request) -> Response:
        return await put(caller, [wire.to_user(one) for one in wire.read(wire.user_list, await body_of(request))])

    @api.get("/api/users", summary="List users by id")
    async def list_all(caller: Caller, n: Page = 10, cursor: Cursor = "") -> Response:
        rows = await service.store_call(lambda: service.store.users(caller, after=cursor, limit=n))
        following = rows[-1].id if len(rows) == n else ""
        return json_of({"Cursor": following, "Users": [wire.from_user(one) for one in rows]})

    @api.get("/api/user/{user_id}", summary="A user")
    async def get(caller: Caller, user_id: str) -> Response:
        return json_of(wire.from_user(await kept(caller, user_id)))

    @api.patch("/api/user/{user_id}", summary="Change a user")
    async def patch(caller: Caller, user_id: str, request: Request) -> Response:
        changes = wire.read(wire.user_patch, await body_of(request))
        return await put(caller, [wire.patched_user(await kept(caller, user_id), changes)])

    @api.delete(
        "/api/user/{user_id}", summary="Delete a user everywhere: what they did, their profile, their impressions"
    )
    async def delete(caller: Caller, user_id: str) -> Response:
        return _rows(int(await service.delete_user(caller, user_id)))

    return api


def recommend_routes(service: FeedService) -> APIRouter:
    """Return the routes that recommend."""
    api = APIRouter(tags=["recommend"])

    async def recommend(
        tenant: str, request: FeedRequest, version: str, write_back_type: str, write_back_delay: str
    ) -> Response:
        if write_back_delay not in ("", "0", "0s", "0m"):
            raise BadRequest(
                "no_delay", "write-back-delay is not supported: leave it out, and it is written back at once."
            )
        check_id("UserId", request.user)
        answer = service.feed(tenant, request)
        if write_back_type:
            now_ns = service.clock_ns()
            seen = [
                checked_feedback(Feedback(write_back_type, request.user, one.item), now_ns) for one in answer.entries
            ]
            await service.add_feedback(tenant, seen)
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


def _number(cursor: str) -> int:
    try:
        return int(cursor or 0)
    except ValueError:
        raise BadRequest(
            "bad_cursor", "cursor is none that this service gave: leave it out for the first page."
        ) from None
