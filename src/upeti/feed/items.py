"""Items, users and feedback as they are kept, and what is refused of them.

Rules: an id is 1 to 256 printable characters without a slash; texts and labels have a length; numbers are finite. A
moment in the future is a clock that is wrong: it counts as the moment at which it was received. What a model may read of
an item is ``text``; its digest tells whether there is anything new to read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from hashlib import sha256
from typing import Any, Final

import msgspec

from upeti.core.errors import BadRequest, TooLarge

ID_CHARACTERS_MAX: Final = 256
# A film's description has 500 characters, an article 10,000; MiniLM reads the first 1,000 or so.
TEXT_BYTES_MAX: Final = 65_536
CATEGORIES_MAX: Final = 64
CLOCK_AHEAD_NS: Final = 60 * 10**9  # so much may an honest clock go before ours
_FIRST_NS: Final = -(2**62)
_TEXT_LABELS: Final = ("title", "description")  # read first; the other labels are facts
CREATOR_LABEL: Final = "creator"


class Item(msgspec.Struct, frozen=True):
    """Something that can be shown. ``labels`` is JSON: an object, or a list of words."""

    id: str
    categories: tuple[str, ...] = ()
    labels: Any = None
    comment: str = ""
    is_hidden: bool = False
    at_ns: int = 0  # since when it can be shown; 0: unknown
    changed_ns: int = 0
    digest: str = ""

    @property
    def text(self) -> str:
        """What a model reads of it: ``title (year). genres. description. comment``, what there is of them."""
        labels = self.labels if isinstance(self.labels, Mapping) else {}
        title, year, genres = labels.get("title"), labels.get("year"), labels.get("genre") or ()
        named = f"{title} ({year})" if title and year else str(title or "")
        kinds = genres if isinstance(genres, str) else ", ".join(str(one) for one in genres)
        return ". ".join(part for part in (named, kinds, str(labels.get("description") or ""), self.comment) if part)

    @property
    def creator(self) -> str:
        """Who made it, for caps; empty when nobody says so."""
        labels = self.labels if isinstance(self.labels, Mapping) else {}
        creator = labels.get(CREATOR_LABEL, "")
        return creator if isinstance(creator, str) else ""


class User(msgspec.Struct, frozen=True):
    """Somebody whom items are shown to. ``profiling`` false: their feed is the same for everyone."""

    id: str
    labels: Any = None
    comment: str = ""
    profiling: bool = True
    changed_ns: int = 0


class Feedback(msgspec.Struct, frozen=True):
    """What a user did with an item: once for each kind."""

    kind: str  # such as click, like, share, hide
    user: str
    item: str
    value: float = 1.0
    at_ns: int = 0
    received_ns: int = 0
    sequence: int = 0  # its place in the log; 0: not yet written


def item_digest(item: Item) -> str:
    """Return the digest of what a model may read of an item, in hex."""
    return sha256(msgspec.json.encode([item.text, words_of(item.labels)], order="deterministic")).hexdigest()


def words_of(labels: Any) -> list[str]:
    """Return the facts in ``labels`` as words: ``genre:drama``, ``year:2013``; texts are left out."""
    return sorted(set(_words(labels, "")))


def _words(labels: Any, path: str) -> Iterator[str]:
    if isinstance(labels, Mapping):
        for name, value in labels.items():
            if path or name not in _TEXT_LABELS:
                yield from _words(value, f"{path}.{name}" if path else str(name))
    elif isinstance(labels, list | tuple):
        for value in labels:
            yield from _words(value, path)
    elif labels is not None and labels != "":
        yield f"{path}:{labels}".lower() if path else str(labels).lower()


def check_id(what: str, value: str) -> str:
    """Return ``value``. Raises ``BadRequest`` for what cannot be an id."""
    if not value or len(value) > ID_CHARACTERS_MAX or "/" in value or not value.isprintable():
        shown = value[:40].encode("unicode_escape").decode()
        cure = f"use 1 to {ID_CHARACTERS_MAX} printable characters without a slash"
        raise BadRequest("bad_id", f"{what} {shown!r} is no id: {cure}.", param=what)
    return value


def checked_item(item: Item, now_ns: int) -> Item:
    """Return an item with its digest and times. Raises ``BadRequest``, ``TooLarge``."""
    check_id("ItemId", item.id)
    _check_length("Comment", len(item.comment.encode("utf-8", "replace")))
    _check_labels(item.labels)
    if len(item.categories) > CATEGORIES_MAX:
        raise BadRequest("too_many_categories", f"An item has at most {CATEGORIES_MAX} categories.", param="Categories")
    for category in item.categories:
        check_id("Categories", category)
    at_ns = checked_ns(item.at_ns, now_ns) if item.at_ns else now_ns
    return msgspec.structs.replace(item, at_ns=at_ns, changed_ns=now_ns, digest=item_digest(item))


def checked_user(user: User, now_ns: int) -> User:
    """Return a user with the time of the change. Raises ``BadRequest``, ``TooLarge``."""
    check_id("UserId", user.id)
    _check_length("Comment", len(user.comment.encode("utf-8", "replace")))
    _check_labels(user.labels)
    return msgspec.structs.replace(user, changed_ns=now_ns)


def checked_feedback(feedback: Feedback, now_ns: int) -> Feedback:
    """Return feedback with the times it counts at. Raises ``BadRequest``."""
    check_id("FeedbackType", feedback.kind)
    check_id("UserId", feedback.user)
    check_id("ItemId", feedback.item)
    if not math.isfinite(feedback.value):
        raise BadRequest("bad_value", "Value must be a finite number; leave it out where there is none.", param="Value")
    at_ns = checked_ns(feedback.at_ns, now_ns) if feedback.at_ns else now_ns
    return msgspec.structs.replace(feedback, at_ns=at_ns, received_ns=now_ns, sequence=0)


def checked_ns(at_ns: int, now_ns: int) -> int:
    """Return the moment, or ``now_ns`` for one in the future. Raises ``BadRequest`` for none that a clock can show."""
    if at_ns < _FIRST_NS:
        raise BadRequest("bad_timestamp", "Timestamp is too long ago; write it like 2026-11-27T08:30:00Z.")
    return now_ns if at_ns > now_ns + CLOCK_AHEAD_NS else at_ns


def _check_labels(labels: Any) -> None:
    try:
        encoded = msgspec.json.encode(labels)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadRequest("bad_labels", f"Labels are no JSON ({error}).", param="Labels") from None
    _check_length("Labels", len(encoded))
    if labels is not None and not isinstance(labels, Mapping | list):
        raise BadRequest("bad_labels", "Labels must be an object or a list of words.", param="Labels")


def _check_length(what: str, length: int) -> None:
    if length > TEXT_BYTES_MAX:
        raise TooLarge(
            "too_long", f"{what} has {length} bytes, {TEXT_BYTES_MAX} are taken: shorten it.", status=413, param=what
        )
