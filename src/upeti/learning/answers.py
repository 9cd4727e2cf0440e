"""An answer's kind and form: from a body of ``chat.completions`` to the values that a task is about, and back.

A form is told from a sample of the teacher's answers and says two things: what the values are, and how the teacher writes
them (keys in which order, spaces, a fence around JSON, ``Label: `` before a label). Reading forgives what changes no value
(spaces, order of keys, a fence); writing uses the teacher's most common way. Values are strings, one for each field; only
of ``tags`` are there as many as there are tags, sorted. Pure.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, Final, Literal

import msgspec

from upeti.core.errors import UpetiError

Kind = Literal["label", "number", "tags", "fields", "tool"]
Values = tuple[str, ...]

# The values of an answer of the teacher that is not of the task's form (a refusal, prose). No student ever answers so: where
# answers are compared it counts as another one, instead of being left out.
UNREADABLE: Final[Values] = ("\x00",)
ABSENT: Final = ""  # a field that is not there; no JSON text is empty

_LABEL_CHARACTERS_MAX: Final = 200
_VALUES_MAX: Final = 1_000
_FEW: Final = 20  # distinct values that say nothing about being free text yet
_SHARE_OF_FORM: Final = 0.8
_PREFIX: Final = re.compile(r"[A-Za-z][A-Za-z ]{0,30}:[ \n]+")
_FENCE: Final = re.compile(r"\A(```[a-z]*\s*)(.*?)(\s*```)\Z", re.DOTALL)
_NUMBER: Final = re.compile(r"[+-]?\d{1,18}(?:\.(\d{1,18}))?")
_SEPARATORS: Final = (", ", ",", "; ", ";", "\n")


class AnswerFormError(UpetiError):
    """The answers have no form that a student can learn."""


class Field(msgspec.Struct, frozen=True):
    """A value of the task. ``text``: the value is the string itself; else it is JSON text (``3``, ``true``, ``null``)."""

    name: str
    text: bool = True


class AnswerForm(msgspec.Struct, frozen=True, kw_only=True):
    """What the values of a task's answers are, and how they are written."""

    kind: Kind
    fields: tuple[Field, ...]
    prefix: str = ""
    suffix: str = ""
    spellings: dict[str, str] = {}  # of a label: without case and full stop -> as the teacher mostly writes it
    decimals: int = 0  # of a number
    separator: str = ""  # of tags; "": they are a JSON array
    indent: str | None = None  # of JSON
    item_separator: str = ", "
    key_separator: str = ": "
    ascii: bool = False
    tool: str = ""
    finish_reason: str = "stop"

    @property
    def names(self) -> tuple[str, ...]:
        """The fields' names, in the order of the values."""
        return tuple(field.name for field in self.fields)


class _Function(msgspec.Struct):
    name: str
    arguments: str


class _ToolCall(msgspec.Struct):
    function: _Function


class _Message(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Choice(msgspec.Struct):
    message: _Message
    finish_reason: str | None = None


class _Body(msgspec.Struct):
    choices: list[_Choice]


class _Said(msgspec.Struct, frozen=True):
    """What a body says: its text, or the arguments of its one tool call."""

    text: str
    tool: str
    finish_reason: str


_decoder = msgspec.json.Decoder(_Body)


# -- reading
# -------------------------------------------------------------------------------------------------------------


def read_answer(form: AnswerForm, body: bytes) -> Values | None:
    """Return the values of a whole ``chat.completions`` body; None where it holds no answer of this form."""
    said = _said(body)
    return None if said is None or said.tool != form.tool else read_text(form, said.text)


def read_text(form: AnswerForm, text: str) -> Values | None:
    """Return the values of an answer's text (of a tool: its arguments); None where it is not of this form."""
    try:
        return _READERS[form.kind](form, text)
    except (ValueError, RecursionError):  # no JSON, or no number
        return None


def _said(body: bytes) -> _Said | None:
    try:
        choices = _decoder.decode(body).choices
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    if len(choices) != 1 or choices[0].finish_reason in ("length", "content_filter"):
        return None
    message = choices[0].message
    calls = message.tool_calls or []
    if message.refusal or len(calls) > 1 or (calls and (message.content or "").strip()):
        return None
    finish_reason = choices[0].finish_reason or "stop"
    if calls:
        return _Said(calls[0].function.arguments, calls[0].function.name, finish_reason)
    return None if message.content is None else _Said(message.content, "", finish_reason)


def _bare(form: AnswerForm, text: str) -> str:
    text = text.strip()
    if fenced := _FENCE.match(text):
        text = fenced[2].strip()
    prefix, suffix = form.prefix.strip(), form.suffix.strip()
    if prefix and text.startswith(prefix):
        text = text[len(prefix) :].strip()
    if suffix and text.endswith(suffix):
        text = text[: -len(suffix)].strip()
    return text


def _folded(label: str) -> str:
    return label.strip().rstrip(".").strip("\"'`* ").casefold()


def _read_label(form: AnswerForm, text: str) -> Values | None:
    label = _bare(form, text)
    return (form.spellings.get(_folded(label), label),) if label else None


def _canonical_number(text: str) -> str:
    try:
        number = Decimal(text.strip())
    except InvalidOperation:
        raise ValueError("no number") from None
    if not _NUMBER.fullmatch(text.strip()):
        raise ValueError("no plain number")
    return "0" if number == 0 else f"{number.normalize():f}"


def _read_number(form: AnswerForm, text: str) -> Values | None:
    return (_canonical_number(_bare(form, text)),)


def _read_tags(form: AnswerForm, text: str) -> Values | None:
    text = _bare(form, text)
    if form.separator:
        tags = [tag.strip() for tag in text.split(form.separator.strip() or "\n")]
    else:
        tags = _json_of(text)
        if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
            return None
    return tuple(sorted({tag for tag in tags if tag}))


def _read_fields(form: AnswerForm, text: str) -> Values | None:
    found = _json_of(_bare(form, text))
    if not isinstance(found, dict) or not set(found) <= set(form.names):
        return None
    values = []
    for field in form.fields:
        if field.text:
            value = found.get(field.name)
            if not isinstance(value, str):
                return None
            values.append(value)
        else:
            values.append(_json_text(found[field.name]) if field.name in found else ABSENT)
    return tuple(values)


_READERS: Final = {
    "label": _read_label,
    "number": _read_number,
    "tags": _read_tags,
    "fields": _read_fields,
    "tool": _read_fields,
}


def _json_of(text: str) -> Any:
    """Raises ``ValueError``, also for what is JSON but no text (half a surrogate pair) or no number (NaN)."""

    def refuse(constant: str) -> Any:
        raise ValueError(constant)

    found = json.loads(text, parse_constant=refuse)
    _json_text(found).encode()  # UnicodeEncodeError is a ValueError
    return found


def _json_text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, allow_nan=False)


# -- telling the form
# -------------------------------------------------------------------------------------------------------------


def form_of(bodies: Iterable[bytes]) -> AnswerForm:
    """Return the form of a sample of the teacher's bodies (100 and more tell it well).

    Raises ``AnswerFormError`` when fewer than four of five have one form, or when a value is free text.
    """
    return _form_of([_said(body) for body in bodies])


def form_of_texts(texts: Iterable[str]) -> AnswerForm:
    """Return the form of labels that were brought, each as a teacher would write it. Raises ``AnswerFormError``."""
    return _form_of([_Said(text, "", "stop") for text in texts])


def _form_of(sample: list[_Said | None]) -> AnswerForm:
    told = [one for one in sample if one is not None]
    by_kind = Counter(_kind(one) for one in told)
    if not by_kind:
        raise AnswerFormError(f"none of {len(sample)} answers can be read: only whole answers with one choice can")
    (kind, tool), count = by_kind.most_common(1)[0]
    if kind == "number" and count < _SHARE_OF_FORM * len(told):  # labels some of which are numbers
        (kind, tool), count = ("label", ""), by_kind["label", ""] + by_kind["number", ""]
    elif kind == "label":
        count += by_kind["number", ""]
    if count < _SHARE_OF_FORM * len(sample):
        raise AnswerFormError(
            f"only {count} of {len(sample)} answers have the form `{kind}`: ask the teacher for one form "
            "(response_format, tool_choice), or split the task by what it asks for"
        )
    kinds = {(kind, tool)} | ({("number", "")} if kind == "label" else set())
    those = [one for one in told if _kind(one) in kinds]
    if kind in ("fields", "tool"):
        return _form_of_fields(kind, tool, those)
    texts = [one.text.strip() for one in those]
    if kind == "tags":
        form = AnswerForm(kind="tags", fields=(Field("tags"),), **_json_style(texts))
        _refuse_free_text("tags", [tag for text in texts for tag in _read_tags(form, text) or ()])
        return form
    return _form_of_text(kind, texts)


def _kind(said: _Said) -> tuple[Kind, str]:
    if said.tool:
        return "tool", said.tool
    text = said.text.strip()
    if fenced := _FENCE.match(text):
        text = fenced[2].strip()
    if text[:1] in ("{", "["):
        try:
            found = _json_of(text)
        except (ValueError, RecursionError):
            return "label", ""
        if isinstance(found, dict):
            return "fields", ""
        if isinstance(found, list) and all(isinstance(tag, str) for tag in found):
            return "tags", ""
    return ("number" if _NUMBER.fullmatch(text) else "label"), ""


def _form_of_text(kind: Kind, texts: list[str]) -> AnswerForm:
    prefix = _shared_prefix(texts)
    bare = [text[len(prefix) :].strip() for text in texts]
    if kind == "label" and prefix and all(_NUMBER.fullmatch(text) for text in bare):
        kind = "number"
    if kind == "number":
        places = Counter(len(match[1] or "") for text in bare if (match := _NUMBER.fullmatch(text)))
        return AnswerForm(kind="number", fields=(Field("number"),), prefix=prefix, decimals=places.most_common(1)[0][0])
    if separator := _tag_separator(bare):
        form = AnswerForm(kind="tags", fields=(Field("tags"),), prefix=prefix, separator=separator)
        _refuse_free_text("tags", [tag for text in bare for tag in _read_tags(form, text) or ()])
        return form
    suffix = "." if all(text.endswith(".") for text in bare) else ""
    labels = Counter(text.removesuffix(suffix) for text in bare if text.removesuffix(suffix))
    _refuse_free_text("label", list(labels.elements()))
    spellings: dict[str, str] = {}
    for label, _ in labels.most_common():
        spellings.setdefault(_folded(label), label)
    return AnswerForm(kind="label", fields=(Field("label"),), prefix=prefix, suffix=suffix, spellings=spellings)


def _form_of_fields(kind: Kind, tool: str, those: list[_Said]) -> AnswerForm:
    objects: list[dict[str, Any]] = []
    texts: list[str] = []
    for one in those:
        text = one.text.strip()
        try:
            found = _json_of(fenced[2] if (fenced := _FENCE.match(text)) else text)
        except (ValueError, RecursionError):
            continue
        if isinstance(found, dict):
            objects.append(found)
            texts.append(text)
    order = Counter(tuple(found) for found in objects)
    names = dict.fromkeys(name for keys, _ in order.most_common() for name in keys)
    if not names:
        raise AnswerFormError("the answers' JSON objects have no fields: there is nothing to learn")
    fields = []
    for name in names:
        values = [_json_text(found[name]) if name in found else ABSENT for found in objects]
        _refuse_free_text(name, values)
        fields.append(Field(name, all(isinstance(found.get(name), str) for found in objects)))
    reasons = Counter(one.finish_reason for one in those)
    return AnswerForm(
        kind=kind,
        fields=tuple(fields),
        tool=tool,
        finish_reason=reasons.most_common(1)[0][0],
        **_json_style(texts),
    )


def _shared_prefix(texts: list[str]) -> str:
    prefixes = Counter(match[0] for text in texts if (match := _PREFIX.match(text)))
    if not prefixes:
        return ""
    prefix, count = prefixes.most_common(1)[0]
    return prefix if count >= _SHARE_OF_FORM * len(texts) else ""


def _tag_separator(texts: list[str]) -> str:
    """Return what separates tags; "" for labels: parts that come again in other company are tags."""
    wholes = set(texts)
    for separator in _SEPARATORS:
        several = [text for text in texts if separator in text]
        parts = {part.strip() for text in wholes for part in text.split(separator.strip() or "\n")}
        if len(several) * 10 >= len(texts) and len(parts) < len(wholes):
            return separator
    return ""


def _json_style(texts: list[str]) -> dict[str, Any]:
    """Return how most of the JSON texts are written, as arguments of ``AnswerForm``."""
    seen: Counter[tuple[str, str, str | None, str, str, bool]] = Counter()
    for text in texts:
        fenced = _FENCE.match(text)
        bare = fenced[2] if fenced else text
        around = (fenced[1], fenced[3]) if fenced else ("", "")
        try:
            found = _json_of(bare)
        except (ValueError, RecursionError):
            continue
        style = next((style for style in _STYLES if _dumped(found, *style) == bare), None)
        if style is not None:
            seen[(*around, *style)] += 1
    # Where spaces leave a choice (one field, plain letters) the first style that fits was counted.
    best = seen.most_common(1)[0][0] if seen else ("", "", *_STYLES[0])
    names = ("prefix", "suffix", "indent", "item_separator", "key_separator", "ascii")
    return dict(zip(names, best, strict=True))


_STYLES: Final = [
    (indent, item, key, ascii_only)
    for indent, item, key in (
        (None, ", ", ": "),
        (None, ",", ":"),
        (None, ",", ": "),
        ("  ", ",", ": "),
        ("    ", ",", ": "),
        ("\t", ",", ": "),
        (" ", ",", ": "),
    )
    for ascii_only in (False, True)
]


def _dumped(value: Any, indent: str | None, item: str, key: str, ascii_only: bool) -> str:
    return json.dumps(value, indent=indent, separators=(item, key), ensure_ascii=ascii_only)


def _refuse_free_text(name: str, values: Sequence[str]) -> None:
    counts = Counter(values)
    long = sum(len(value) > _LABEL_CHARACTERS_MAX for value in values)
    if long * 10 > len(values) or len(counts) > max(_FEW, min(_VALUES_MAX, len(values) // 2)):
        raise AnswerFormError(
            f"`{name}` is free text ({len(counts)} different values in {len(values)} answers): "
            "a student learns values that come again; leave the field out, or have the teacher choose from a list"
        )


# -- writing
# -------------------------------------------------------------------------------------------------------------


def tokens_of(text: str) -> int:
    """Return about how many tokens a text is: a quarter of its UTF-8 bytes, at least one if there are any.

    An own model costs nothing by the token, so that a count which needs no tokenizer is exact enough.
    """
    return -(-len(text.encode()) // 4)


def answer_text(form: AnswerForm, values: Values) -> str:
    """Return the text (of a tool: the arguments) that says ``values``. Raises ``ValueError`` if they are not of the form."""
    if form.kind != "tags" and len(values) != len(form.fields):
        raise ValueError(f"{len(values)} values for {len(form.fields)} fields")
    match form.kind:
        case "label":
            text = values[0]
        case "number":
            number = Decimal(values[0])
            exponent = number.as_tuple().exponent
            places = max(form.decimals, -exponent if isinstance(exponent, int) else 0)
            text = f"{number:.{places}f}"
        case "tags" if form.separator:
            text = form.separator.join(values)
        case "tags":
            text = _styled(form, list(values))
        case _:
            text = _styled(
                form,
                {
                    field.name: value if field.text else json.loads(value)
                    for field, value in zip(form.fields, values, strict=True)
                    if field.text or value != ABSENT
                },
            )
    return form.prefix + text + form.suffix


def _styled(form: AnswerForm, value: Any) -> str:
    return _dumped(value, form.indent, form.item_separator, form.key_separator, form.ascii)


def write_answer(
    form: AnswerForm,
    values: Values,
    *,
    model: str,
    id: str,
    created: int,
    prompt_tokens: int,
    stream: bool = False,
    include_usage: bool = False,
) -> bytes:
    """Return a whole ``chat.completion`` body, or all events of a stream up to ``[DONE]``.

    ``created`` is in seconds since 1970; the tokens of the answer are those of ``tokens_of``. ``include_usage`` matters to
    a stream only, as on OpenAI's wire. Raises ``ValueError`` if the values are not of the form.
    """
    text = answer_text(form, values)
    completion_tokens = tokens_of(text)
    usage = {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    }
    # A tool call's id is of its answer, so that the same answer is the same bytes.
    call = {"id": f"call_{id.rpartition('-')[2]}", "type": "function", "function": {"name": form.tool}}
    head = {"id": id, "object": "chat.completion", "created": created, "model": model}
    if not stream:
        message: dict[str, Any] = {"role": "assistant", "content": None if form.tool else text, "refusal": None}
        if form.tool:
            message["tool_calls"] = [call | {"function": {"name": form.tool, "arguments": text}}]
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": form.finish_reason}
        return msgspec.json.encode({**head, "choices": [choice], "usage": usage, "system_fingerprint": None})

    first: dict[str, Any] = {"role": "assistant", "content": None if form.tool else "", "refusal": None}
    then: dict[str, Any] = {"content": text}
    if form.tool:
        first["tool_calls"] = [{"index": 0, **call, "function": {"name": form.tool, "arguments": ""}}]
        then = {"tool_calls": [{"index": 0, "function": {"arguments": text}}]}
    head |= {"object": "chat.completion.chunk", "system_fingerprint": None}
    events = [
        {**head, "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}]}
        for delta, reason in ((first, None), (then, None), ({}, form.finish_reason))
    ]
    if include_usage:
        events = [{**event, "usage": None} for event in events]
        events.append({**head, "choices": [], "usage": usage})
    return b"".join(b"data: " + msgspec.json.encode(event) + b"\n\n" for event in events) + b"data: [DONE]\n\n"
