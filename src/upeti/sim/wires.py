"""The shapes of each wire's answers, plain and streamed. Pure."""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from upeti.sim.behaviours import Behaviour
from upeti.sim.structured import structured_text
from upeti.sim.values import CREATED_S, TOKENS, UNKNOWN_FIELD, Answer, Event, Usage, dumps

STREAM_TYPE: Final = "text/event-stream; charset=utf-8"
DONE: Final = b"[DONE]"


@dataclass
class Call:
    """What an answer is made from."""

    model: str
    usage: Usage
    choices: int
    extra_text: str
    behaviour: Behaviour
    asked: dict[str, Any]  # the request's body
    said: tuple[
        str, ...
    ] = ()  # what each choice says, in pieces, one for each of its output tokens; (): words of its own

    @property
    def include_usage(self) -> bool:
        options = self.asked.get("stream_options")
        return isinstance(options, dict) and options.get("include_usage") is True

    @property
    def tier(self) -> dict[str, str]:
        """The field that says at which tier the call was served, if the answer has one."""
        asked = self.asked.get("service_tier")
        for word in ("priority", "flex", "standard"):
            if f"as{word}" in self.behaviour:
                asked = word
        if not isinstance(asked, str) or "notier" in self.behaviour:
            return {}
        return {"service_tier": {"standard": "default", "auto": "default", "fast": "priority"}.get(asked, asked)}

    @property
    def anthropic_tier(self) -> dict[str, str]:
        speed = self.asked.get("speed")
        named = {"speed": speed} if isinstance(speed, str) else {}
        geo = self.asked.get("inference_geo")
        named |= {"inference_geo": geo if isinstance(geo, str) else "global"}
        return {**named, "service_tier": self.tier.get("service_tier", "default").replace("default", "standard")}

    def tokens(self) -> Iterator[str]:
        """The text in pieces, one for each output token of all choices; what is extra comes first."""
        for index in range(self.usage.output):
            word = self.said[index // self.choices] if self.said else TOKENS[index % len(TOKENS)]
            yield (self.extra_text if index == 0 else "") + word

    def text(self) -> str:
        return "".join(self.tokens())

    @property
    def finish(self) -> str:
        return "content_filter" if "filtered" in self.behaviour else "stop"

    @property
    def stop_reason(self) -> str:
        return "refusal" if "filtered" in self.behaviour else "end_turn"

    def shows_usage(self) -> bool:
        return "nousage" not in self.behaviour


class _Events:
    """Collects events, each with what is billed by then."""

    def __init__(self, call: Call, *, split_reasoning: bool = True) -> None:
        self.call = call
        self.events: list[Event] = []
        self.made = 0  # output tokens
        self._line = b"\r\n" if "crlf" in call.behaviour else b"\n"
        self._split_reasoning = split_reasoning

    def usage(self) -> Usage:
        return self.call.usage.upto(self.made)

    def add(self, value: object, name: str = "") -> None:
        lines = [b"event: " + name.encode()] if name else []
        lines.append(b"data: " + (value if isinstance(value, bytes) else dumps(value)))
        if "ping" in self.call.behaviour and self.events and len(self.events) % 3 == 0:
            lines.insert(0, b": keep-alive")
            lines.insert(1, b"")
        data = self._line.join([*lines, b"", b""])
        self.events.append(Event(data, self.usage().meters(split_reasoning=self._split_reasoning)))

    def answer(self) -> Answer:
        billed = self.call.usage.meters(split_reasoning=self._split_reasoning)
        return Answer(200, events=tuple(self.events), billed=billed, content_type=STREAM_TYPE)


def _plain(call: Call, body: dict[str, Any], usage: dict[str, Any], *, split_reasoning: bool = True) -> Answer:
    if call.shows_usage():
        body["usage"] = usage
    body["x_sim"] = UNKNOWN_FIELD
    return Answer(200, dumps(body), billed=call.usage.meters(split_reasoning=split_reasoning))


def chat_completions(call: Call) -> Answer:
    per_choice = list(call.tokens())
    structured = None if "prose" in call.behaviour or call.said else structured_text(call.asked)
    choices = []
    for index in range(call.choices):
        message = {
            "role": "assistant",
            "content": structured or "".join(per_choice[index :: call.choices]),
            "refusal": None,
        }
        choices.append({"index": index, "message": message, "logprobs": None, "finish_reason": call.finish})
    body = {
        "id": "chatcmpl-sim",
        "object": "chat.completion",
        "created": CREATED_S,
        "model": call.model,
        "choices": choices,
        **call.tier,
    }
    return _plain(call, body, call.usage.chat())


def chat_completions_stream(call: Call) -> Answer:
    return _chat_stream(
        call, "chat.completion.chunk", lambda text, first: {"delta": _delta(text, first)}, {"delta": {}}
    )


def _delta(text: str, first: bool) -> dict[str, str]:
    return {"role": "assistant", "content": text} if first else {"content": text}


def completions(call: Call) -> Answer:
    per_choice = list(call.tokens())
    choices = [
        {
            "text": "".join(per_choice[index :: call.choices]),
            "index": index,
            "logprobs": None,
            "finish_reason": "length",
        }
        for index in range(call.choices)
    ]
    body = {
        "id": "cmpl-sim",
        "object": "text_completion",
        "created": CREATED_S,
        "model": call.model,
        "choices": choices,
    }
    return _plain(call, body, call.usage.chat())


def completions_stream(call: Call) -> Answer:
    return _chat_stream(call, "text_completion", lambda text, first: {"text": text}, {"text": ""})


def _chat_stream(call: Call, kind: str, content: Callable[[str, bool], dict[str, Any]], end: dict[str, Any]) -> Answer:
    """Chunks as OpenAI sends them: ``usage`` is null in each when it was asked for, and comes in one more."""
    out = _Events(call)
    shows = call.shows_usage()
    each = shows and "usageeach" in call.behaviour

    def chunk(choices: list[dict[str, Any]], usage: Usage | None) -> None:
        body = {
            "id": "chatcmpl-sim",
            "object": kind,
            "created": CREATED_S,
            "model": call.model,
            "choices": choices,
            **({} if usage is not None else call.tier),  # not beside the usage: a reader must have seen it before
        }
        if usage is not None:
            body["usage"] = usage.chat()
        elif shows and call.include_usage:
            body["usage"] = None
        body["x_sim"] = UNKNOWN_FIELD
        out.add(body)

    for token in call.tokens():
        index = out.made % call.choices
        first = out.made < call.choices
        out.made += 1
        choice = {"index": index, **content(token, first), "logprobs": None, "finish_reason": None}
        chunk([choice], out.usage() if each else None)
    for index in range(call.choices):
        chunk(
            [{"index": index, **end, "logprobs": None, "finish_reason": call.finish}],
            out.usage() if each else None,
        )
    if shows and call.include_usage:
        chunk([], call.usage)
    out.add(DONE)
    return out.answer()


def _response(call: Call, status: str, output: list[dict[str, Any]], usage: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "id": "resp_sim",
        "object": "response",
        "created_at": CREATED_S,
        "status": status,
        "error": None,
        "model": call.model,
        "output": output,
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        **({"service_tier": "auto"} if status == "in_progress" else call.tier),
        "usage": usage,
        "x_sim": UNKNOWN_FIELD,
    }


def _message(text: str, status: str) -> dict[str, Any]:
    content = [{"type": "output_text", "text": text, "annotations": []}] if status == "completed" else []
    return {"id": "msg_sim", "type": "message", "status": status, "role": "assistant", "content": content}


def responses(call: Call) -> Answer:
    usage = call.usage.responses() if call.shows_usage() else None
    body = _response(call, "completed", [_message(call.text(), "completed")], usage)
    return Answer(200, dumps(body), billed=call.usage.meters())


def responses_stream(call: Call) -> Answer:
    out = _Events(call)
    number = 0

    def add(kind: str, **fields: Any) -> None:
        nonlocal number
        out.add({"type": kind, "sequence_number": number, **fields}, kind)
        number += 1

    def shown() -> dict[str, Any] | None:
        return out.usage().responses() if call.shows_usage() and "usageeach" in call.behaviour else None

    place = {"item_id": "msg_sim", "output_index": 0, "content_index": 0}
    add("response.created", response=_response(call, "in_progress", [], shown()))
    add("response.in_progress", response=_response(call, "in_progress", [], shown()))
    add("response.output_item.added", output_index=0, item=_message("", "in_progress"))
    add("response.content_part.added", **place, part={"type": "output_text", "text": "", "annotations": []})
    for token in call.tokens():
        out.made += 1
        add("response.output_text.delta", **place, delta=token)
    text = call.text()
    add("response.output_text.done", **place, text=text)
    add("response.content_part.done", **place, part={"type": "output_text", "text": text, "annotations": []})
    add("response.output_item.done", output_index=0, item=_message(text, "completed"))
    usage = call.usage.responses() if call.shows_usage() else None
    add("response.completed", response=_response(call, "completed", [_message(text, "completed")], usage))
    return out.answer()


def embeddings(call: Call) -> Answer:
    vector = [0.5, -0.25, 0.125, 0.0625]  # exact in a float32, so base64 and JSON say the same
    packed = base64.b64encode(struct.pack("<4f", *vector)).decode()
    shown = packed if call.asked.get("encoding_format") == "base64" else vector
    texts = call.asked.get("input")
    count = len(texts) if isinstance(texts, list) and texts and not isinstance(texts[0], int) else 1
    data = [{"object": "embedding", "index": index, "embedding": shown} for index in range(count)]
    body = {"object": "list", "data": data, "model": call.model}
    usage = {"prompt_tokens": call.usage.input, "total_tokens": call.usage.input}
    answer = _plain(call, body, usage)
    billed = {name: count for name, count in (answer.billed or {}).items() if name.startswith("input")}
    return Answer(200, answer.body, billed=billed)


def messages(call: Call) -> Answer:
    body = _anthropic_message(call, [{"type": "text", "text": call.text()}], call.stop_reason, None)
    return _plain(call, body, {**call.usage.anthropic(), **call.anthropic_tier}, split_reasoning=False)


def _anthropic_message(
    call: Call, content: list[dict[str, Any]], stop_reason: str | None, usage: dict[str, Any] | None
) -> dict[str, Any]:
    body: dict[str, Any] = {
        "id": "msg_sim",
        "type": "message",
        "role": "assistant",
        "model": call.model,
        "content": content,
        "stop_reason": stop_reason,
        "stop_sequence": None,
    }
    if usage is not None:
        body["usage"] = usage
    return body


def messages_stream(call: Call) -> Answer:
    """Anthropic's deltas are cumulative: each report replaces the one before."""
    out = _Events(call, split_reasoning=False)
    shows = call.shows_usage()
    first = None
    if shows:
        first = {**call.usage.upto(min(1, call.usage.output)).anthropic(), **call.anthropic_tier}
    out.add({"type": "message_start", "message": _anthropic_message(call, [], None, first)}, "message_start")
    block = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    out.add(block, "content_block_start")
    out.add({"type": "ping"}, "ping")
    for token in call.tokens():
        out.made += 1
        delta = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": token}}
        out.add(delta, "content_block_delta")
        if shows and "usageeach" in call.behaviour:
            out.add(_message_delta(None, out.made), "message_delta")
    out.add({"type": "content_block_stop", "index": 0}, "content_block_stop")
    out.add(_message_delta(call.stop_reason, call.usage.output if shows else None), "message_delta")
    out.add({"type": "message_stop", "x_sim": UNKNOWN_FIELD}, "message_stop")
    return out.answer()


def _message_delta(stop_reason: str | None, output: int | None) -> dict[str, Any]:
    body: dict[str, Any] = {
        "type": "message_delta",
        "delta": {"stop_reason": stop_reason, "stop_sequence": None},
    }
    if output is not None:
        body["usage"] = {"output_tokens": output}
    return body


PLAIN: Final[dict[str, Callable[[Call], Answer]]] = {
    "chat_completions": chat_completions,
    "completions": completions,
    "responses": responses,
    "embeddings": embeddings,
    "messages": messages,
}
STREAMED: Final[dict[str, Callable[[Call], Answer]]] = {
    "chat_completions": chat_completions_stream,
    "completions": completions_stream,
    "responses": responses_stream,
    "messages": messages_stream,
}
