"""Server-sent events on their way through: usage is read, the extra usage event taken out, the end held back.

Rules: bytes are searched, not parsed, until an event that matters is found; whole reads pass on as they came. An event
that is not complete yet waits for its rest. From the event that ends the stream on, everything is held until
``finish``, so that the attempt can be settled before the client sees the end.

JSON escapes quotes inside strings, so the marks below never match text that a model wrote.
"""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec

from upeti.core.meters import Meters
from upeti.wire.tiers import reported_tier
from upeti.wire.usage import Metered, Usage, anthropic_meters, merge, openai_meters

# An event longer than this is passed on unread: usage events are under 2 KB, the largest content events
# (a whole response object, an image) are megabytes.
EVENT_BYTES_MAX = 8 * 1024 * 1024


class _Chunk(Metered):
    """A chunk of a chat completion (or completion) stream."""

    choices: list[msgspec.Raw] | None = None


class _ResponseEvent(msgspec.Struct):
    type: str = ""
    response: Metered | None = None


class _Stop(msgspec.Struct):
    stop_reason: str | None = None


class _MessageEvent(msgspec.Struct):
    message: Metered | None = None
    delta: _Stop | None = None
    usage: Usage | None = None


_chunk = msgspec.json.Decoder(_Chunk)
_response_event = msgspec.json.Decoder(_ResponseEvent)
_message_event = msgspec.json.Decoder(_MessageEvent)

_USAGE = b'"usage"'
_TIER = re.compile(rb'"service_tier"\s*:\s*"([a-z_]{1,32})"')
_END_BYTES_MAX = 256
_LINE_READS_MAX = 32  # then a long event is put together as far as it is there, and its length looked at
_RESPONSE_EVENT = b"event: response."
_RESPONSE_ENDS = ("response.completed", "response.incomplete", "response.failed", "response.cancelled")
_RESPONSE_END_EVENTS = tuple(f"event: {name}".encode() for name in _RESPONSE_ENDS)
_T = TypeVar("_T")


class EventStream:
    """One stream, of one wire. Subclasses say what its events mean."""

    __slots__ = ("_held", "_line", "_partial", "_tier", "exact", "seek_tier", "usage")

    end_mark = b""  # how the event that ends the stream begins

    def __init__(self) -> None:
        self.usage: Usage | None = None
        self.seek_tier = False  # whether to look for the tier in every chunk; else it is read beside the usage
        self._tier: str | None = None
        self.exact = False  # whether the usage read is the final one, even if the stream should be cut now
        self._partial = b""  # of an event that is not whole yet
        self._line: list[bytes] = []  # the reads since, while they are parts of one long line
        self._held: list[bytes] | None = None  # not None once the end has begun

    @property
    def ended(self) -> bool:
        """Whether the event that ends the stream has been seen."""
        return self._held is not None

    def feed(self, data: bytes) -> bytes:
        """Take what was read; return what may be passed on now (perhaps nothing)."""
        if self._held is not None:
            self._held.append(data)
            return b""
        if self.seek_tier:
            self._find_tier(data)
        if self._partial:
            if b"\n" not in data and len(self._line) < _LINE_READS_MAX:
                self._line.append(data)  # put together once, when the line's end is there
                return b""
            data = self._begun() + data
        if not data.endswith(b"\n\n") and not data.endswith(b"\r\n\r\n"):
            end = _last_event_end(data)
            if len(data) - end <= EVENT_BYTES_MAX:
                self._partial = data[end:]
                data = data[:end]
        if _USAGE in data:
            data = self._read_usage(data)
        end = self._end_from(data)
        if end < 0:
            return data
        self._held = [data[end:]]
        return data[:end]

    def _begun(self) -> bytes:
        """Take out what there is of an event that is not whole."""
        begun = b"".join((self._partial, *self._line)) if self._line else self._partial
        self._partial = b""
        self._line.clear()
        return begun

    def finish(self) -> bytes:
        """The message is over: return what was held back."""
        rest = b"".join(self._held or ()) + self._begun()
        self._held = None
        if _USAGE in rest:
            rest = self._read_usage(rest)
        return rest

    def meters(self) -> Meters | None:
        """What the stream said it used so far, or None when it did not say."""
        return openai_meters(self.usage) if self.usage is not None else None

    def tier(self) -> str | None:
        """The service tier that the stream says it is served at; None when it did not say."""
        told = self.usage.tier if self.usage is not None else None
        return self._tier if told is None else told

    def _find_tier(self, data: bytes) -> None:
        found = _TIER.search(data)
        if found is not None:
            self._tier = reported_tier(found[1].decode(), None)
            self.seek_tier = self._tier is None

    def _end_from(self, data: bytes) -> int:
        """Return where the event that ends the stream begins, -1 when it is not in ``data``."""
        # The events that end chat and message streams are short, and nothing follows them.
        at = data.rfind(self.end_mark, max(0, len(data) - _END_BYTES_MAX))
        return at if at <= 0 or data[at - 1] == 10 else -1

    def _read_usage(self, data: bytes) -> bytes:
        """Read the usage that ``data`` (whole events) holds; return the data, less an event to be taken out."""
        raise NotImplementedError


class ChatStream(EventStream):
    """Chat completions and legacy completions: `data:` chunks, usage in the last, then `data: [DONE]`."""

    __slots__ = ("_strip",)

    end_mark = b"data: [DONE]"

    def __init__(self, *, strip_usage: bool) -> None:
        super().__init__()
        self._strip = strip_usage

    def _read_usage(self, data: bytes) -> bytes:
        # The last report wins: where every chunk carries one (`"usage":null`, or cumulative figures) the rest say less.
        at = data.rfind(_USAGE)
        if data.startswith(b":null", at + len(_USAGE)):
            return data
        while at >= 0 and not _is_key(data, at):  # a text that ends in `"usage`
            at = data.rfind(_USAGE, 0, at)
        if at < 0 or not _is_object(data, at):
            return data
        chunk = _decode_line(_chunk, data, at)
        if chunk is None or chunk.usage is None:
            return data
        self.usage = chunk.used()
        self.exact = not chunk.choices
        if self._strip and self.exact:
            start, end = _event_around(data, at)
            return data[:start] + data[end:]
        return data


class ResponseStream(EventStream):
    """Responses: typed events; the last (`response.completed`, …) holds the whole response with its usage."""

    __slots__ = ("_end",)

    def __init__(self) -> None:
        super().__init__()
        self._end = -1

    def _end_from(self, data: bytes) -> int:
        at = data.rfind(_RESPONSE_EVENT)
        if at >= 0 and data.startswith(_RESPONSE_END_EVENTS, at) and (at == 0 or data[at - 1] == 10):
            return at
        return self._end  # of a provider that does not name its events, known by the usage

    def _read_usage(self, data: bytes) -> bytes:
        at = data.rfind(_USAGE)
        while at >= 0 and not _is_object(data, at):  # metadata and tools may have keys of that name behind it
            at = data.rfind(_USAGE, 0, at)
        event = _decode_line(_response_event, data, at) if at >= 0 else None
        if event is not None and event.type in _RESPONSE_ENDS and event.response is not None:
            self.usage = event.response.used()
            self.exact = self.usage is not None
            self._end = _event_around(data, at)[0]
        return data


class MessageStream(EventStream):
    """Anthropic messages: input in `message_start`, cumulative output in `message_delta`."""

    __slots__ = ()

    end_mark = b"event: message_stop"

    def meters(self) -> Meters | None:
        return anthropic_meters(self.usage) if self.usage is not None else None

    def _read_usage(self, data: bytes) -> bytes:
        at = data.find(_USAGE)
        while at >= 0:
            if _is_object(data, at):
                event = _decode_line(_message_event, data, at)
                if event is not None:
                    usage = event.usage or (event.message.usage if event.message is not None else None)
                    if usage is not None:
                        self.usage = merge(self.usage, usage)
                        self.exact = event.delta is not None and event.delta.stop_reason is not None
            line_end = data.find(b"\n", at)
            at = data.find(_USAGE, line_end) if line_end >= 0 else -1
        return data


class OpaqueStream(EventStream):
    """A stream of a wire that is not metered (audio, files): passed on as it comes."""

    __slots__ = ()

    def feed(self, data: bytes) -> bytes:
        return data

    def _read_usage(self, data: bytes) -> bytes:
        return data


def _is_key(data: bytes, at: int) -> bool:
    """Whether a colon follows the ``"usage"`` at offset ``at``."""
    at += len(_USAGE)
    return data[at : at + 8].lstrip(b" \t")[:1] == b":"


def _is_object(data: bytes, at: int) -> bool:
    """Whether a colon and an opening brace follow the ``"usage"`` at offset ``at``."""
    at += len(_USAGE)
    return data[at : at + 8].lstrip(b" :\t")[:1] == b"{"


def _decode_line(decoder: msgspec.json.Decoder[_T], data: bytes, at: int) -> _T | None:
    """Decode the `data:` line around offset ``at``; None when it is not one that can be read."""
    start = data.rfind(b"\n", 0, at) + 1
    end = data.find(b"\n", at)
    line = data[start : end if end >= 0 else len(data)]
    if not line.startswith(b"data:"):
        return None
    try:
        return decoder.decode(line[5:])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _last_event_end(data: bytes) -> int:
    """Return the offset behind the last complete event, 0 when there is none."""
    end = data.rfind(b"\n\n")
    crlf = data.rfind(b"\r\n\r\n")
    return max(end + 2 if end >= 0 else 0, crlf + 4 if crlf >= 0 else 0)


def _event_around(data: bytes, at: int) -> tuple[int, int]:
    """Return the bounds of the event that holds offset ``at``, its blank line included."""
    start = _last_event_end(data[:at])
    ends = [end + width for end, width in ((data.find(b"\n\n", at), 2), (data.find(b"\r\n\r\n", at), 4)) if end >= 0]
    return start, min(ends, default=len(data))
