"""Gorse's JSON and ours, bytes ⇄ values: field names as its clients send and expect them.

Rules: what a client sent is kept or refused, never bent: a number where a text belongs is an error that names the field.
Times are RFC 3339 as Go writes them; a time that is left out, or Go's zero time, is unknown.
"""

from __future__ import annotations

import datetime
from typing import Any, Final

import msgspec

from upeti.core.errors import BadRequest
from upeti.feed.items import Feedback, Item, User

_NS: Final = 10**9
_ZERO: Final = "0001-01-01T00:00:00Z"


class GorseFeedback(msgspec.Struct, rename="pascal"):
    """Feedback as Gorse's clients send it."""

    feedback_type: str
    user_id: str
    item_id: str
    value: float = 1.0
    timestamp: str | None = None
    comment: str | None = None


class GorseItem(msgspec.Struct, rename="pascal"):
    """An item as Gorse's clients send it."""

    item_id: str
    is_hidden: bool = False
    categories: tuple[str, ...] | None = None
    timestamp: str | None = None
    labels: Any = None
    comment: str | None = None


class GorseItemPatch(msgspec.Struct, rename="pascal"):
    """What is to change of an item; null and what is left out stay as they are."""

    is_hidden: bool | None = None
    categories: tuple[str, ...] | None = None
    timestamp: str | None = None
    labels: Any = None
    comment: str | None = None


class GorseUser(msgspec.Struct, rename="pascal"):
    """A user as Gorse's clients send it; ``Profiling`` is ours."""

    user_id: str
    labels: Any = None
    subscribe: tuple[str, ...] | None = None
    comment: str | None = None
    profiling: bool | None = None


class GorseUserPatch(msgspec.Struct, rename="pascal"):
    """What is to change of a user; null and what is left out stay as they are."""

    labels: Any = None
    subscribe: tuple[str, ...] | None = None
    comment: str | None = None
    profiling: bool | None = None


class FeedBody(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /v1/feed`."""

    user: str
    n: int = 20
    offset: int = 0
    category: str = ""
    exclude: tuple[str, ...] = ()
    profiling: str = ""  # "off": nothing about the user is used
    context: dict[str, str] = {}


class Engaged(msgspec.Struct, forbid_unknown_fields=True):
    """One row of `POST /v1/impressions`: what came of an item that was shown."""

    impression_id: str
    user: str
    item: str
    kind: str
    value: float = 1.0
    timestamp: str | None = None


class ScreenBody(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /v1/screen`."""

    probabilities: dict[str, float]  # impression → with which the idea would have put that item at that place
    kinds: tuple[str, ...] = ()  # of feedback that count; empty: all positive ones
    within_s: int = 86_400


feedback_list: Final = msgspec.json.Decoder(list[GorseFeedback])
item_one: Final = msgspec.json.Decoder(GorseItem)
item_list: Final = msgspec.json.Decoder(list[GorseItem])
item_patch: Final = msgspec.json.Decoder(GorseItemPatch)
user_one: Final = msgspec.json.Decoder(GorseUser)
user_list: Final = msgspec.json.Decoder(list[GorseUser])
user_patch: Final = msgspec.json.Decoder(GorseUserPatch)
feed_body: Final = msgspec.json.Decoder(FeedBody)
screen_body: Final = msgspec.json.Decoder(ScreenBody)
engaged_list: Final = msgspec.json.Decoder(list[Engaged])
encode: Final = msgspec.json.Encoder().encode


def read(decoder: msgspec.json.Decoder[Any], body: bytes) -> Any:
    """Return what a body says. Raises ``BadRequest`` that names the field."""
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadRequest("bad_body", f"The body cannot be taken: {error}.") from None


def to_feedback(one: GorseFeedback) -> Feedback:
    return Feedback(one.feedback_type, one.user_id, one.item_id, one.value, to_ns(one.timestamp))


def to_item(one: GorseItem) -> Item:
    return Item(one.item_id, one.categories or (), one.labels, one.comment or "", one.is_hidden, to_ns(one.timestamp))


def to_user(one: GorseUser) -> User:
    return User(one.user_id, one.labels, one.comment or "", one.profiling is not False)


def patched_item(item: Item, patch: GorseItemPatch) -> Item:
    changes: dict[str, Any] = {
        name: value
        for name in ("is_hidden", "categories", "labels", "comment")
        if (value := getattr(patch, name)) is not None
    }
    if patch.timestamp is not None:
        changes["at_ns"] = to_ns(patch.timestamp)
    return msgspec.structs.replace(item, **changes)


def patched_user(user: User, patch: GorseUserPatch) -> User:
    names = ("labels", "comment", "profiling")
    return msgspec.structs.replace(
        user, **{name: value for name in names if (value := getattr(patch, name)) is not None}
    )


def from_feedback(one: Feedback) -> dict[str, Any]:
    return {
        "FeedbackType": one.kind,
        "UserId": one.user,
        "ItemId": one.item,
        "Value": one.value,
        "Timestamp": to_text(one.at_ns),
        "Comment": "",
    }


def from_item(one: Item) -> dict[str, Any]:
    return {
        "ItemId": one.id,
        "IsHidden": one.is_hidden,
        "Categories": list(one.categories),
        "Timestamp": to_text(one.at_ns),
        "Labels": one.labels,
        "Comment": one.comment,
    }


def from_user(one: User) -> dict[str, Any]:
    return {
        "UserId": one.id, "Labels": one.labels, "Subscribe": [], "Comment": one.comment, "Profiling": one.profiling,
    }  # fmt: skip


def to_ns(text: str | None) -> int:
    """Return a time in nanoseconds since 1970; 0 for none. Raises ``BadRequest``."""
    if not text or text == _ZERO:
        return 0
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise BadRequest(
            "bad_timestamp",
            f"Timestamp {text[:40]!r} is no time; write it like 2026-11-27T08:30:00Z.",
            param="Timestamp",
        ) from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)
    return int(moment.timestamp()) * _NS + moment.microsecond * 1000


def to_text(at_ns: int) -> str:
    """Return a time as RFC 3339 in UTC."""
    moment = datetime.datetime.fromtimestamp(at_ns // _NS, datetime.UTC)
    return moment.isoformat().replace("+00:00", "Z")
