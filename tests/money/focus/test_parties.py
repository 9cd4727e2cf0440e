"""Who stands behind a channel."""

from __future__ import annotations

import pytest

from upeti.money.focus.parties import party_of


@pytest.mark.parametrize(
    ("kind", "host", "provider"),
    [
        ("openai_compatible", "", "OpenAI"),
        ("openai_compatible", "eu.api.openai.com", "OpenAI"),
        ("openai_compatible", "LLM.example.net", "llm.example.net"),
        ("azure", "acme.openai.azure.com", "Microsoft"),
        ("anthropic", "", "Anthropic"),
        ("embedded", "", "Own"),
    ],
)
def test_a_channel_has_a_party(kind: str, host: str, provider: str) -> None:
    party = party_of(kind, host)
    assert party.provider == party.issuer == provider
    assert party.service
