"""The wires: one row for each API that is metered, and one for everything else that is relayed.

A wire says how a call is recognised by its path, where its output cap is, how its stream is read and how its usage
becomes meters. Vendors (``providers/catalog``) say which wires they take.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from upeti.core.meters import Meters
from upeti.wire.sse import ChatStream, EventStream, MessageStream, OpaqueStream, ResponseStream
from upeti.wire.usage import Usage, anthropic_meters, openai_meters


class Wire(msgspec.Struct, frozen=True):
    name: str
    path: str  # behind the version prefix; "" for the wire of everything else
    cap_fields: tuple[str, ...]  # names of the output cap, the newest first; () when nothing is generated
    stream: Callable[[bool], EventStream]  # takes: whether the extra usage event is to be taken out
    meters: Callable[[Usage], Meters | None]
    asks_usage: bool = False  # usage of a stream comes only when asked for (`stream_options`)
    bounded: bool = True  # cost can be bounded from body and cap
    cap_default: int | None = None  # the API's own cap when none is given


CHAT_COMPLETIONS: Final = Wire(
    "chat_completions",
    "/chat/completions",
    ("max_completion_tokens", "max_tokens"),
    lambda strip: ChatStream(strip_usage=strip),
    openai_meters,
    asks_usage=True,
)
COMPLETIONS: Final = Wire(
    "completions",
    "/completions",
    ("max_tokens",),
    lambda strip: ChatStream(strip_usage=strip),
    openai_meters,
    asks_usage=True,
    cap_default=16,  # "max_tokens: defaults to 16", OpenAI API reference, completions
)
RESPONSES: Final = Wire(
    "responses", "/responses", ("max_output_tokens",), lambda strip: ResponseStream(), openai_meters
)
EMBEDDINGS: Final = Wire("embeddings", "/embeddings", (), lambda strip: OpaqueStream(), openai_meters)
MESSAGES: Final = Wire("messages", "/messages", ("max_tokens",), lambda strip: MessageStream(), anthropic_meters)
OTHER: Final = Wire("other", "", (), lambda strip: OpaqueStream(), openai_meters, bounded=False)

WIRES: Final = (CHAT_COMPLETIONS, COMPLETIONS, RESPONSES, EMBEDDINGS, MESSAGES)
_BY_PATH: Final = {wire.path: wire for wire in WIRES}


def wire_of(method: str, path: str) -> Wire:
    """Return the wire of a call to ``path`` (behind the version prefix, e.g. ``/chat/completions``)."""
    if method == "POST":
        return _BY_PATH.get(path, OTHER)
    return OTHER
