"""A value that fits a JSON schema: what the fake provider says when an answer in a schema's shape is asked for. Pure.

Rules: the same request gives the same value; it depends on the messages, so that different texts get different labels. An
integer within an array counts up from its minimum, so that numbered elements are all there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final

_WORDS: Final = ("drama", "slow", "city", "night", "family", "war", "music", "winter", "space", "love", "crime", "sea")
_ELEMENTS: Final = 3  # of an array whose schema does not say how many


def structured_text(asked: Mapping[str, Any]) -> str | None:
    """Return the answer to a request in OpenAI's shape, None when it asks for no schema."""
    form = asked.get("response_format")
    if not isinstance(form, Mapping) or form.get("type") != "json_schema":
        return None
    named = form.get("json_schema")
    schema = named.get("schema") if isinstance(named, Mapping) else None
    if not isinstance(schema, Mapping):
        return None
    return json.dumps(fitting(schema, json.dumps(asked.get("messages"))), ensure_ascii=False)


def fitting(schema: Mapping[str, Any], seed: str, place: int = 0) -> Any:
    """Return a value of a schema with types, properties, items, enums and bounds; ``place`` is that in an array."""
    if schema.get("enum"):
        return schema["enum"][_draw(seed) % len(schema["enum"])]
    kind = schema.get("type")
    if kind == "object":
        return {name: fitting(one, f"{seed}.{name}", place) for name, one in schema.get("properties", {}).items()}
    if kind == "array":
        count = schema.get("minItems", min(_ELEMENTS, schema.get("maxItems", _ELEMENTS)))
        return [fitting(schema.get("items", {}), f"{seed}[{index}]", index) for index in range(count)]
    if kind == "integer":
        return int(schema.get("minimum", 0)) + place
    if kind == "number":
        low, high = float(schema.get("minimum", 0)), float(schema.get("maximum", 1))
        return round(low + (high - low) * (_draw(seed) % 1001) / 1000, 4)
    if kind == "boolean":
        return bool(_draw(seed) % 2)
    return None if kind == "null" else _WORDS[_draw(seed) % len(_WORDS)]


def _draw(seed: str) -> int:
    return int.from_bytes(sha256(seed.encode("utf-8", "surrogatepass")).digest()[:8], "big")
