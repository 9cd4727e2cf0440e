"""Which call speaks which wire, and what the table says of each."""

from __future__ import annotations

import pytest

from upeti.providers.catalog import PROVIDERS
from upeti.wire.body import BodyFields
from upeti.wire.sse import ChatStream, MessageStream, OpaqueStream, ResponseStream
from upeti.wire.wires import OTHER, WIRES, wire_of


@pytest.mark.parametrize(
    ("method", "path", "name"),
    [
        ("POST", "/chat/completions", "chat_completions"),
        ("POST", "/completions", "completions"),
        ("POST", "/responses", "responses"),
        ("POST", "/embeddings", "embeddings"),
        ("POST", "/messages", "messages"),
        # everything else is relayed
        ("GET", "/chat/completions", "other"),
        ("DELETE", "/responses", "other"),
        ("POST", "/responses/resp_1/cancel", "other"),
        ("POST", "/messages/count_tokens", "other"),
        ("POST", "/chat/completions/", "other"),
        ("POST", "/Chat/Completions", "other"),
        ("POST", "/moderations", "other"),
        ("POST", "", "other"),
    ],
)
def test_the_wire_of_a_call(method: str, path: str, name: str) -> None:
    assert wire_of(method, path).name == name


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("chat_completions", ChatStream),
        ("completions", ChatStream),
        ("responses", ResponseStream),
        ("embeddings", OpaqueStream),
        ("messages", MessageStream),
    ],
)
def test_the_stream_of_a_wire(name: str, kind: type) -> None:
    (wire,) = [wire for wire in WIRES if wire.name == name]
    assert type(wire.stream(True)) is kind
    assert type(OTHER.stream(True)) is OpaqueStream


def test_every_cap_is_a_field_that_is_read_and_every_generating_wire_has_one() -> None:
    for wire in WIRES:
        assert set(wire.cap_fields) <= set(BodyFields.__struct_fields__)
        assert bool(wire.cap_fields) == (wire.name != "embeddings")
        for provider in PROVIDERS.values():
            if wire.name in provider.wires:
                cap_field = provider.cap_field(wire.name, "api.example.com")
                assert cap_field in wire.cap_fields if wire.cap_fields else cap_field == ""
    assert not OTHER.bounded
    assert not OTHER.cap_fields
