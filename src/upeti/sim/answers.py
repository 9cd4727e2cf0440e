"""What the fake provider says, on each wire: bodies, events, usage. Pure: the same request gives the same
bytes.

Rules: usage is exact and follows from the request alone: input tokens are the body's bytes // 4, output
tokens the cap that was asked for, at most ``OUTPUT_TOKENS_MAX``, ``OUTPUT_TOKENS_DEFAULT`` without one,
times the choices; words in the model's name change them. One event carries one token. ``billed`` is what
the provider charges for, in disjoint meters; it is right even where the answer says nothing about usage.
Every answer has a field that no client knows.
"""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import unquote

from upeti.sim.behaviours import Behaviour
from upeti.sim.http import Request
from upeti.sim.values import CREATED_S, TOKENS, Answer, Usage, dumps
from upeti.sim.wires import PLAIN, STREAMED, Call

OUTPUT_TOKENS_DEFAULT: Final = 12
OUTPUT_TOKENS_MAX: Final = 200
TRAP: Final = '{"usage":{"prompt_tokens":999999,"completion_tokens":999999}}\n\ndata: [DONE]\n\n'
CAP_FIELDS: Final = ("max_completion_tokens", "max_tokens", "max_output_tokens")


def wire_of(path: str) -> str:
    """Return the wire's name, or ``other``, by the end of a path of OpenAI, Azure or Anthropic."""
    for ending, wire in (
        ("/chat/completions", "chat_completions"),
        ("/completions", "completions"),
        ("/responses", "responses"),
        ("/embeddings", "embeddings"),
        ("/messages", "messages"),
    ):
        if path.endswith(ending):
            return wire
    return "other"


def model_of(request: Request) -> str:
    """Return the model: from the body, or from the path of an Azure deployment."""
    parts = request.path.split("/")
    if len(parts) > 3 and parts[2] == "deployments":
        return unquote(parts[3])
    model = request.json.get("model")
    return model if isinstance(model, str) else ""


def answer(request: Request, behaviour: Behaviour) -> Answer:
    """Return what the provider says to ``request``, before anything goes wrong on the way."""
    wrong = refusal(request, behaviour)
    if wrong is not None:
        return wrong
    if request.method != "POST" or wire_of(request.path) == "other":
        return _other(request, behaviour)
    return spoken(
        Call(
            model_of(request),
            usage_of(request, behaviour),
            choices_of(request),
            text_of(behaviour) + (_words_of(request)[::-1] if "parrot" in behaviour else ""),
            behaviour,
            request.json,
        ),
        wire_of(request.path),
    )


def spoken(call: Call, wire: str) -> Answer:
    """Return ``call``'s answer on a wire, plain or as a stream as it asks for."""
    make = STREAMED if call.asked.get("stream") is True and wire in STREAMED else PLAIN
    return make[wire](call)


def refusal(request: Request, behaviour: Behaviour) -> Answer | None:
    """Return the error that ``request`` gets, by its words or because it cannot be read; None for none."""
    wire = wire_of(request.path)
    if behaviour.signal is not None:
        row = behaviour.signal
        return Answer(row.statuses[0], row.example.encode(), headers=tuple(row.example_headers.items()))
    if "echo" in behaviour or ("parrot" in behaviour and "err" in behaviour):
        asked = f" asking {_words_of(request)!r}" if "parrot" in behaviour else ""
        key = _key_of(request) if "echo" in behaviour else "your key"
        return error(behaviour.number("err", 400), wire, message=f"Wrong, with {key}{asked} and all that.")
    if "quota" in behaviour:
        return error(429, wire, "insufficient_quota", "You exceeded your current quota.")
    if "err" in behaviour:
        return error(behaviour.number("err", 500), wire)
    if "badjson" in behaviour:
        return Answer(200, b'{"id":"sim","choices":[{"message":')
    if request.method == "POST" and wire != "other" and not request.json:
        return error(400, wire, "invalid_json", "The body is not a JSON object.")
    return None


def choices_of(request: Request) -> int:
    n = request.json.get("n")
    return n if isinstance(n, int) and 0 < n <= 16 else 1


def usage_of(request: Request, behaviour: Behaviour) -> Usage:
    read = behaviour.number("in", max(1, len(request.body) // 4))
    cap = next((request.json[name] for name in CAP_FIELDS if isinstance(request.json.get(name), int)), None)
    each = min(cap, OUTPUT_TOKENS_MAX) if cap is not None and cap > 0 else OUTPUT_TOKENS_DEFAULT
    made = behaviour.number("out", each * choices_of(request))
    if wire_of(request.path) == "embeddings":
        return Usage(read, 0)  # made of input alone, and never cached
    return Usage(
        read,
        made,
        cached=read // 2 if "cached" in behaviour else 0,
        reasoning=made // 2 if "reason" in behaviour else 0,
    )


def text_of(behaviour: Behaviour) -> str:
    """Return text to put into the answer besides its tokens."""
    text = TRAP if "trap" in behaviour else ""
    if "biganswer" in behaviour:
        text += "x" * (behaviour.number("biganswer", 2048) * 1024)
    return text


def error(status: int, wire: str, code: str = "", message: str = "") -> Answer:
    """Return an error in the wire's own shape."""
    kinds = {
        400: ("invalid_request_error", "invalid_request"),
        401: ("authentication_error", "invalid_api_key"),
        403: ("permission_error", "forbidden"),
        404: ("not_found_error", "model_not_found"),
        429: ("rate_limit_error", "rate_limit_exceeded"),
        503: ("overloaded_error", "overloaded"),
    }
    kind, code_default = kinds.get(status, ("api_error", "server_error"))
    text = message or f"This is error {status} of the fake provider."
    body: dict[str, Any]
    if wire == "messages":
        body = {"type": "error", "error": {"type": kind, "message": text}, "request_id": "req_sim"}
    else:
        body = {"error": {"message": text, "type": kind, "param": None, "code": code or code_default}}
    headers = (("retry-after", "1"),) if status in (429, 503) else ()
    return Answer(status, dumps(body), headers=headers)


def _words_of(request: Request) -> str:
    """Return all texts of the request's body but the model's name and the roles."""
    return " ".join(_texts(request.json))


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        return [text for one in value for text in _texts(one)]
    if isinstance(value, dict):
        return [text for name, one in value.items() if name not in ("model", "role") for text in _texts(one)]
    return []


def _key_of(request: Request) -> str:
    bearer = (request.header("authorization") or "").removeprefix("Bearer ")
    return bearer or request.header("api-key") or request.header("x-api-key") or "no key"


def _other(request: Request, behaviour: Behaviour) -> Answer:
    """Answer the paths that a gateway only relays."""
    path = request.path
    usage = usage_of(request, behaviour)
    if request.method == "GET" and path.endswith("/models"):
        model = {"id": "sim", "object": "model", "created": CREATED_S, "owned_by": "sim"}
        return Answer(200, dumps({"object": "list", "data": [model]}))
    if path.endswith("/audio/speech"):
        return Answer(200, bytes(range(256)) * 64, content_type="audio/mpeg")
    if path.endswith("/audio/transcriptions"):
        said = {"text": "".join(TOKENS), "usage": {"type": "duration", "seconds": 3}}
        return Answer(200, dumps(said), billed={"audio_seconds": 3})
    if path.endswith("/images/generations"):
        shown = {"created": CREATED_S, "data": [{"b64_json": "c2lt"}], "usage": usage.responses()}
        return Answer(200, dumps(shown), billed=usage.meters())
    if path.endswith("/messages/count_tokens"):
        return Answer(200, dumps({"input_tokens": usage.input}))
    seen = {
        "object": "sim.other",
        "method": request.method,
        "target": request.target,
        "body_bytes": len(request.body),
    }
    return Answer(200, dumps(seen))
