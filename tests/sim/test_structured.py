"""Answers in a schema's shape: they fit it, and the same request gives the same."""

from __future__ import annotations

import json

from upeti.feed.enrichment import PROMPT, labels_of, request_of
from upeti.sim.structured import fitting, structured_text


def test_labels_fit_what_the_worker_asks() -> None:
    request = request_of(PROMPT, "labels", ["one", "two", "three"])
    text = structured_text(request)
    assert text is not None
    assert text == structured_text(request)
    assert text != structured_text(request_of(PROMPT, "labels", ["one", "two", "four"]))
    body = json.dumps({"choices": [{"message": {"content": text}, "finish_reason": "stop"}]}).encode()
    assert sorted(labels_of(body, 3)) == [1, 2, 3]


def test_other_requests_get_prose() -> None:
    for form in (
        None,
        "x",
        {"type": "json_object"},
        {"type": "json_schema"},
        {"type": "json_schema", "json_schema": 1},
    ):
        assert structured_text({"response_format": form}) is None


def test_every_type() -> None:
    schema = {
        "type": "object",
        "properties": {
            "flag": {"type": "boolean"},
            "nothing": {"type": "null"},
            "word": {"type": "string"},
            "share": {"type": "number", "minimum": 2, "maximum": 3},
            "many": {"type": "array", "items": {"type": "integer", "minimum": 5}},
            "one": {"enum": ["a", "b"]},
        },
    }
    found = fitting(schema, "seed")
    assert found["flag"] in (True, False)
    assert found["nothing"] is None
    assert found["word"]
    assert 2 <= found["share"] <= 3
    assert found["many"] == [5, 6, 7]
    assert found["one"] in ("a", "b")
