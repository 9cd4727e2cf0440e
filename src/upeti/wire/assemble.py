"""A streamed answer put together into the whole answer that the same call would have had without a stream.

Rules: for what is kept and learned from, never for what a client gets. Text that was cut into events is whole again here,
so that what spans two events (a name, an address) can be found in it. Values that are no deltas are taken from the last
event that has them. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, Final

Json = dict[str, Any]


def whole_answer(wire: str, body: bytes) -> Json | None:
    """Return the answer that a stream of ``wire`` (a name of ``wire.wires``) spells; None where it does not spell one."""
    assemble = _BY_WIRE.get(wire)
    if assemble is None:
        return None
    try:
        return assemble(list(_events(body)))
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        return None  # no stream of that wire, or one that ends within an event


def _events(body: bytes) -> Iterator[Json]:
    """Yield the data of every event that is a JSON object."""
    for event in body.replace(b"\r\n", b"\n").split(b"\n\n"):
        lines = [line[5:].lstrip(b" ") for line in event.split(b"\n") if line.startswith(b"data:")]
        data = b"\n".join(lines)
        if data.startswith(b"{"):
            yield json.loads(data)


def _chat(events: list[Json]) -> Json | None:
    whole: Json = {}
    choices: dict[int, Json] = {}
    for event in events:
        for name, value in event.items():
            if name != "choices" and value is not None:
                whole[name] = value
        for part in event.get("choices") or ():
            choice = choices.setdefault(part["index"], {"index": part["index"], "message": {}, "finish_reason": None})
            _add_delta(choice["message"], part.get("delta") or {})
            if part.get("finish_reason") is not None:
                choice["finish_reason"] = part["finish_reason"]
    if not choices:
        return None
    whole["object"] = "chat.completion"
    whole["choices"] = [choices[index] for index in sorted(choices)]
    return whole


def _add_delta(message: Json, delta: Json) -> None:
    for name, value in delta.items():
        if name == "tool_calls":
            calls = message.setdefault("tool_calls", [])
            for part in value:
                while len(calls) <= part["index"]:
                    calls.append({"function": {"name": "", "arguments": ""}})
                _add_tool_call(calls[part["index"]], part)
        elif isinstance(value, str) and name != "role":
            message[name] = (message.get(name) or "") + value
        elif value is not None or name not in message:
            message[name] = value


def _add_tool_call(call: Json, part: Json) -> None:
    for name in ("id", "type"):
        if part.get(name):
            call[name] = part[name]
    for name, value in (part.get("function") or {}).items():
        call["function"][name] = call["function"].get(name, "") + (value or "")


def _completion(events: list[Json]) -> Json | None:
    whole: Json = {}
    choices: dict[int, Json] = {}
    for event in events:
        whole |= {name: value for name, value in event.items() if name != "choices" and value is not None}
        for part in event.get("choices") or ():
            choice = choices.setdefault(part["index"], {"index": part["index"], "text": "", "finish_reason": None})
            choice["text"] += part.get("text") or ""
            if part.get("finish_reason") is not None:
                choice["finish_reason"] = part["finish_reason"]
    return whole | {"choices": [choices[index] for index in sorted(choices)]} if choices else None


def _response(events: list[Json]) -> Json | None:
    # The event that ends the stream carries the whole response.
    found = [event["response"] for event in events if isinstance(event.get("response"), dict)]
    return found[-1] if found and found[-1].get("output") is not None else None


def _message(events: list[Json]) -> Json | None:
    message: Json = {}
    blocks: dict[int, Json] = {}
    arguments: dict[int, str] = {}
    for event in events:
        match event.get("type"):
            case "message_start":
                message = dict(event["message"])
            case "content_block_start":
                blocks[event["index"]] = dict(event["content_block"])
            case "content_block_delta":
                delta = event["delta"]
                block = blocks[event["index"]]
                if delta["type"] == "input_json_delta":
                    arguments[event["index"]] = arguments.get(event["index"], "") + delta["partial_json"]
                else:
                    for name in ("text", "thinking", "signature"):
                        if name in delta:
                            block[name] = block.get(name, "") + delta[name]
            case "message_delta":
                message |= {name: value for name, value in event["delta"].items() if value is not None}
                message["usage"] = message.get("usage", {}) | (event.get("usage") or {})
    for index, text in arguments.items():
        blocks[index]["input"] = json.loads(text) if text else {}
    return message | {"content": [blocks[index] for index in sorted(blocks)]} if message else None


_BY_WIRE: Final[dict[str, Callable[[list[Json]], Json | None]]] = {
    "chat_completions": _chat,
    "completions": _completion,
    "responses": _response,
    "messages": _message,
}
