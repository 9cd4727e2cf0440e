"""A request's JSON body: the few fields that decide, and edits that leave every other byte alone.

Rules: a body is never decoded into a tree and written again. What must change (the model's name, an output cap,
`stream_options`) is spliced into the client's own bytes where that is provably safe; otherwise the object is taken
apart at its first level only, each value kept as the bytes it was. Both ways leave one value per key, so the
provider reads the same model and cap that were priced.
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from upeti.core.errors import BadRequest


class StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class BodyFields(msgspec.Struct):
    """What routing, the bound and the tags need of any JSON wire. Everything else is skipped unread."""

    model: str | None = None
    stream: bool | None = None
    n: int | None = None
    best_of: int | None = None  # legacy completions: every one of them is billed
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    max_output_tokens: int | None = None
    stream_options: StreamOptions | None = None
    service_tier: str | None = None
    speed: str | None = None  # Anthropic's name of a tier
    inference_geo: str | None = None  # Anthropic's: where the model is to run, at a price of its own
    metadata: Any = None  # not `Raw | None`: msgspec reads that as null only
    previous_response_id: str | None = None
    conversation: Any = None
    prompt: Any = None  # legacy completions: a list of texts is as many calls
    tools: msgspec.Raw = msgspec.Raw()
    web_search_options: Any = None  # of chat completions: {} turns it on
    mcp_servers: Any = None  # Anthropic's


class _Tool(msgspec.Struct):
    type: str | None = None


_decoder = msgspec.json.Decoder(BodyFields)
_tool_decoder = msgspec.json.Decoder(list[_Tool] | None)
_first_level = msgspec.json.Decoder(dict[str, msgspec.Raw])
_TOO_DEEP = "The request body is nested too deeply."


# Parts whose tokens are not in the body's bytes: fetched by address or by id, or decoded by the provider.
_INPUT_ELSEWHERE = (
    b'"image_url"',
    b'"input_image"',
    b'"input_audio"',
    b'"input_file"',
    b'"file_id"',
    b'"file"',
    b'"source"',
    b'"container"',
    b'"item_reference"',
)
# Tools that a provider runs itself. It reads what they find, again at each of their steps, and bills some by the use: no
# size of the body or of the model's window bounds that. Versions are dated suffixes (`web_search_20250305`).
_HOSTED_TOOLS: Final = (
    "web_search",
    "web_fetch",
    "file_search",
    "code_interpreter",
    "code_execution",
    "image_generation",
    "mcp",
)
_HOSTED_TOOL: Final = re.compile(rb'"(?:%b)' % b"|".join(name.encode() for name in _HOSTED_TOOLS))
# No encoder escapes the letters of these names; a body that does hides one of them.
_ESCAPED_LETTER = re.compile(rb"\\u00(?:5[fF]|6[1-9a-fA-F]|7[0-9aA])")


def decode_fields(body: bytes) -> BodyFields:
    """Raises ``BadRequest`` for anything that is not a JSON object with fields of the right types, in UTF-8."""
    try:
        if not body.isascii():
            body.decode()
        return _decoder.decode(body)
    except msgspec.ValidationError as error:
        raise BadRequest("invalid_type", f"The request body does not fit the API: {error}.") from None
    except msgspec.DecodeError as error:
        raise BadRequest("invalid_json", f"The request body is not valid JSON: {error}.") from None
    except UnicodeDecodeError as error:
        raise BadRequest("invalid_utf8", f"The request body is not UTF-8: byte {error.start} cannot be read.") from None
    except RecursionError:
        raise BadRequest("invalid_json", _TOO_DEEP) from None


def metadata_tags(metadata: Any) -> tuple[str, str]:
    """Return (feature, task) from OpenAI `metadata`: keys ``upeti_feature``/``feature`` and ``upeti_task``/``task``."""
    if not isinstance(metadata, dict):
        return "", ""

    def text(*names: str) -> str:
        for name in names:
            value = metadata.get(name)
            if value is not None:
                return value if isinstance(value, str) else ""
        return ""

    return text("upeti_feature", "feature"), text("upeti_task", "task")


def choices_of(fields: BodyFields) -> int:
    """Return how many answers the provider will write and bill for this body."""
    choices = max(fields.n or 1, fields.best_of or 1)
    prompt = fields.prompt
    # A list of texts, or of token lists, is as many prompts; a list of numbers is one.
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], str | list):
        choices *= len(prompt)
    return choices


def has_input_elsewhere(body: bytes, fields: BodyFields) -> bool:
    """Whether the provider will read input that the body's length does not bound."""
    if fields.previous_response_id is not None or fields.conversation is not None or isinstance(fields.prompt, dict):
        return True
    if b"\\u00" in body and _ESCAPED_LETTER.search(body):
        return True
    # Every part that is not plain text, and every tool, has a type.
    return b'"type"' in body and any(mark in body for mark in _INPUT_ELSEWHERE)


def has_hosted_tools(fields: BodyFields) -> bool:
    """Whether a body asks for tools that the provider runs; a function of the same name is none."""
    if fields.web_search_options is not None or fields.mcp_servers is not None:
        return True
    tools = bytes(fields.tools)
    if not _HOSTED_TOOL.search(tools) and not _ESCAPED_LETTER.search(tools):
        return False
    try:
        asked = _tool_decoder.decode(tools)
    except (msgspec.MsgspecError, RecursionError):
        return True  # not of the form that we know: nobody can say
    return any((tool.type or "").startswith(_HOSTED_TOOLS) for tool in asked or ())


def edit(
    body: bytes,
    *,
    model: str | None = None,
    named: bool = False,
    cap_field: str = "",
    cap: int = 0,
    include_usage: bool = False,
) -> bytes:
    """Return ``body`` with the model renamed, an output cap added and stream usage asked for, as wanted.

    ``model=None`` leaves the name; ``named`` says that the body has one at its first level, so that a nested key of
    that name is not mistaken for it; ``cap_field=""`` adds no cap (only call it for a body that has none). Raises
    ``BadRequest`` for a body that can only be edited by taking it apart, and is nested too deeply for that.
    """
    if model is None and not cap_field and not include_usage:
        return body
    if (
        (b"\\u00" in body and _ESCAPED_LETTER.search(body))  # a key may be written with escapes: "mod\u0065l"
        or (model is not None and not (named and body.count(b'"model"') == 1))
        or (include_usage and b'"stream_options"' in body)
        or (cap_field and f'"{cap_field}"'.encode() in body)
    ):
        return _edit_first_level(body, model, cap_field, cap, include_usage)
    if model is not None:
        spliced = _splice_model(body, model)
        if spliced is None:
            return _edit_first_level(body, model, cap_field, cap, include_usage)
        body = spliced
    added = b""
    if cap_field:
        added = b'"%b":%d' % (cap_field.encode(), cap)
    if include_usage:
        added += (b"," if added else b"") + b'"stream_options":{"include_usage":true}'
    if added:
        end = body.rindex(b"}")
        empty = body[body.index(b"{") + 1 : end].isspace() or body[body.index(b"{") + 1 : end] == b""
        body = b"%b%b%b}%b" % (body[:end], b"" if empty else b",", added, body[end + 1 :])
    return body


def _splice_model(body: bytes, model: str) -> bytes | None:
    """Replace the string after the only ``"model"`` of the body; None where that is not a key with a plain string."""
    colon = body.index(b'"model"') + 7
    while body[colon : colon + 1] in b" \t\r\n":
        colon += 1
    if body[colon : colon + 1] != b":":
        return None
    start = colon + 1
    while body[start : start + 1] in b" \t\r\n":
        start += 1
    end = body.find(b'"', start + 1)
    if body[start : start + 1] != b'"' or end < 0 or b"\\" in body[start:end]:
        return None
    return body[:start] + msgspec.json.encode(model) + body[end + 1 :]


def _edit_first_level(body: bytes, model: str | None, cap_field: str, cap: int, include_usage: bool) -> bytes:
    try:
        values = _first_level.decode(body)
    except RecursionError:  # it was read, but with more of the stack left than here
        raise BadRequest("invalid_json", _TOO_DEEP) from None
    if model is not None:
        values["model"] = msgspec.Raw(msgspec.json.encode(model))
    if cap_field:
        values[cap_field] = msgspec.Raw(b"%d" % cap)
    if include_usage:
        options: dict[str, msgspec.Raw] = {}
        given = values.get("stream_options")
        if given is not None and bytes(given) != b"null":
            options = _first_level.decode(given)
        options["include_usage"] = msgspec.Raw(b"true")
        values["stream_options"] = msgspec.Raw(msgspec.json.encode(options))
    return msgspec.json.encode(values)
