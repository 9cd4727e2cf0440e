"""The catalogue of providers: facts that the gateway takes on trust."""

from __future__ import annotations

import typing

import pytest

from upeti.core.config import Channel
from upeti.money.price_book import PriceBook
from upeti.providers.catalog import PROVIDERS, Host


def test_there_is_a_row_for_every_kind_that_a_channel_may_have() -> None:
    assert set(PROVIDERS) == set(typing.get_args(typing.get_type_hints(Channel)["kind"]))
    assert all(kind == provider.kind for kind, provider in PROVIDERS.items())


@pytest.mark.parametrize("kind", PROVIDERS)
def test_every_price_part_named_is_in_the_book(kind: str) -> None:
    provider = PROVIDERS[kind]
    parts = {host.prices for host in (*provider.hosts.values(), provider.other_hosts)} - {""}
    assert parts
    assert parts <= set(PriceBook.shipped().parts())


@pytest.mark.parametrize(
    ("kind", "wire", "host", "field"),
    [
        ("openai_compatible", "chat_completions", "api.openai.com", "max_completion_tokens"),
        ("openai_compatible", "chat_completions", "API.OpenAI.com", "max_completion_tokens"),
        ("openai_compatible", "chat_completions", "eu.api.openai.com", "max_completion_tokens"),
        ("openai_compatible", "chat_completions", "10.0.0.7", "max_tokens"),
        ("openai_compatible", "chat_completions", "localhost", "max_tokens"),
        ("openai_compatible", "responses", "api.openai.com", "max_output_tokens"),
        ("openai_compatible", "completions", "api.openai.com", "max_tokens"),
        ("openai_compatible", "embeddings", "api.openai.com", ""),
        ("openai_compatible", "other", "api.openai.com", ""),
        ("azure", "chat_completions", "house.openai.azure.com", "max_completion_tokens"),
        ("anthropic", "messages", "api.anthropic.com", "max_tokens"),
        ("embedded", "chat_completions", "127.0.0.1", "max_tokens"),
    ],
)
def test_the_output_cap_has_the_name_that_the_host_knows(kind: str, wire: str, host: str, field: str) -> None:
    assert PROVIDERS[kind].cap_field(wire, host) == field


@pytest.mark.parametrize(
    ("kind", "host", "part"),
    [
        ("openai_compatible", "api.openai.com", "openai"),
        ("openai_compatible", "eu.api.openai.com", ""),  # regions charge more
        ("openai_compatible", "api.openai.com.example.org", ""),
        ("openai_compatible", "llm.example.org", ""),
        ("azure", "house.openai.azure.com", "azure"),
        ("anthropic", "api.anthropic.com", "anthropic"),
        ("anthropic", "claude.example.org", ""),
        ("embedded", "127.0.0.1", "local"),
    ],
)
def test_a_list_price_is_taken_only_where_the_list_holds(kind: str, host: str, part: str) -> None:
    assert PROVIDERS[kind].host(host).prices == part


@pytest.mark.parametrize(
    ("kind", "status", "code", "open_question"),
    [
        ("azure", 400, "content_filter", True),
        ("azure", 400, "context_length_exceeded", True),
        ("azure", 400, "invalid_value", False),
        ("azure", 400, "", False),
        ("azure", 401, "", False),
        ("azure", 408, "", True),
        ("azure", 429, "rate_limit_exceeded", False),
        ("openai_compatible", 400, "content_filter", False),
        ("openai_compatible", 408, "timeout", True),
        ("openai_compatible", 504, "", True),
        ("anthropic", 504, "", True),
        ("anthropic", 529, "overloaded_error", False),
    ],
)
def test_errors_after_which_the_charge_is_unknown(kind: str, status: int, code: str, open_question: bool) -> None:
    assert PROVIDERS[kind].may_charge(status, code) is open_question


def test_the_secret_goes_into_the_header_that_the_vendor_reads() -> None:
    sent = {kind: provider.auth.header + ": " + provider.auth.prefix for kind, provider in PROVIDERS.items()}
    assert sent == {
        "openai_compatible": "Authorization: Bearer ",
        "azure": "api-key: ",
        "anthropic": "x-api-key: ",
        "embedded": ": ",
        "student": ": ",
    }
    assert PROVIDERS["azure"].bearer == PROVIDERS["openai_compatible"].auth


def test_only_anthropic_takes_messages_and_it_takes_nothing_else() -> None:
    takers = {kind for kind, provider in PROVIDERS.items() if "messages" in provider.wires}
    assert takers == {"anthropic"}
    assert PROVIDERS["anthropic"].wires == {"messages"}


def test_rows_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        PROVIDERS["azure"].other_hosts = Host("openai", "max_tokens")  # type: ignore[misc]
