"""The clients that people use, through the gateway, to every kind of provider."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest

from support.gateway_side import KEY, MICRO_USD, Served, candidate, channel, route, serving, snapshot
from upeti.core.amount import decimal_text
from upeti.core.events import Outcome
from upeti.gateway.snapshot import Caller, SecretRef
from upeti.sim.answers import TRAP
from upeti.sim.provider import SimProvider
from upeti.sim.values import TOKENS

HELLO: Any = [{"role": "user", "content": "Halo"}]
SAID = "".join(TOKENS[:5])


@pytest.fixture
async def served(tmp_path: Path, provider: SimProvider) -> AsyncIterator[Served]:
    async with serving(tmp_path, snapshot([channel("up", provider)])) as running:
        yield running


def check_billed(served: Served, provider: SimProvider, wire: str, *, stream: bool = False) -> None:
    """The one attempt is on the books as the provider bills it."""
    opened, settled = served.books().attempt()
    (request,) = provider.requests
    assert request.served is not None
    meters = request.served.billed
    assert meters is not None
    assert (opened.wire, opened.stream, opened.channel) == (wire, stream, "up")
    assert (settled.outcome, settled.ended, settled.status) == (Outcome.POSTED, "answered", 200)
    assert settled.meters == meters
    assert settled.cost_pico == (2 * meters["input"] + 8 * meters.get("output", 0)) * MICRO_USD
    assert settled.cost_pico <= opened.bound_pico
    assert settled.provider_request_id == "req_sim"
    assert request.header("x-client-request-id") == f"{opened.call_id}-0"


async def test_a_chat_completion(served: Served, provider: SimProvider) -> None:
    async with served.openai() as client:
        answer = await client.chat.completions.create(model="m", messages=HELLO, max_tokens=5)
    assert answer.choices[0].message.content == SAID
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 5
    assert answer.model_extra == {"x_sim": {"kept": [1, 2.5, None], "why": "no client knows this field"}}
    check_billed(served, provider, "chat_completions")


async def test_a_chat_completion_in_a_stream(served: Served, provider: SimProvider) -> None:
    async with served.openai() as client:
        stream = await client.chat.completions.create(model="m-trap", messages=HELLO, max_tokens=5, stream=True)
        chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == TRAP + SAID
    assert all(chunk.usage is None for chunk in chunks)  # it was asked for by us and taken out again
    assert provider.requests[0].json["stream_options"] == {"include_usage": True}
    check_billed(served, provider, "chat_completions", stream=True)


async def test_a_client_that_asks_for_usage_gets_it(served: Served, provider: SimProvider) -> None:
    async with served.openai() as client:
        stream = await client.chat.completions.create(
            model="m-each", messages=HELLO, max_tokens=5, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
    assert not chunks[-1].choices
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 5
    check_billed(served, provider, "chat_completions", stream=True)


def talk_in_step(url: str) -> tuple[str | None, list[str], list[str]]:
    """What the client without asyncio hears: plain, streamed, and of models."""
    with openai.OpenAI(base_url=url + "/v1", api_key=KEY, max_retries=0) as client:
        plain = client.chat.completions.create(model="m", messages=HELLO, max_tokens=5)
        stream = client.chat.completions.create(model="m-drip5", messages=HELLO, max_tokens=5, stream=True)
        words = [chunk.choices[0].delta.content or "" for chunk in stream]
        models = [model.id for model in client.models.list()]
    return plain.choices[0].message.content, words, models


async def test_the_client_without_asyncio(tmp_path: Path, provider: SimProvider) -> None:
    routes = [route("m", candidate("up")), route("m-drip5", candidate("up"))]
    async with serving(tmp_path, snapshot([channel("up", provider)], routes)) as served:
        plain, words, models = await asyncio.to_thread(talk_in_step, served.url)
    assert plain == "".join(words) == SAID
    assert models == ["m", "m-drip5"]


async def test_a_response(served: Served, provider: SimProvider) -> None:
    async with served.openai() as client:
        answer = await client.responses.create(model="m", input="Halo", max_output_tokens=5)
    assert answer.output_text == SAID
    check_billed(served, provider, "responses")


async def test_a_response_in_a_stream(served: Served, provider: SimProvider) -> None:
    async with served.openai() as client:
        stream = await client.responses.create(model="m-each", input="Halo", max_output_tokens=5, stream=True)
        events = [event async for event in stream]
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == SAID
    assert events[-1].type == "response.completed"
    check_billed(served, provider, "responses", stream=True)


async def test_a_completion(served: Served, provider: SimProvider) -> None:
    async with served.openai() as client:
        answer = await client.completions.create(model="m", prompt="Halo", max_tokens=5)
    assert answer.choices[0].text == SAID
    check_billed(served, provider, "completions")


async def test_a_completion_in_a_stream(served: Served, provider: SimProvider) -> None:
    async with served.openai() as client:
        stream = await client.completions.create(model="m", prompt="Halo", max_tokens=5, stream=True)
        chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].text for chunk in chunks) == SAID
    check_billed(served, provider, "completions", stream=True)


@pytest.mark.parametrize("encoding_format", ["base64", "float", openai.omit])
async def test_embeddings(served: Served, provider: SimProvider, encoding_format: Any) -> None:
    async with served.openai() as client:
        answer = await client.embeddings.create(model="m", input=["Halo", "dunia"], encoding_format=encoding_format)
    assert len(answer.data) == 2
    if encoding_format != "base64":
        assert answer.data[0].embedding == [0.5, -0.25, 0.125, 0.0625]
    check_billed(served, provider, "embeddings")


async def test_models(tmp_path: Path, provider: SimProvider) -> None:
    """Who may use which: listed and found, or neither."""
    routes = [
        route("fast", candidate("up"), created_s=1_700_000_000),
        route("org/big model", candidate("up")),
        route("secret", candidate("up")),
    ]
    callers = {KEY: Caller("k1", "acme", "shop", routes=frozenset({"fast", "org/big model"}))}
    async with serving(tmp_path, snapshot([channel("up", provider)], routes, callers=callers)) as served:
        async with served.openai() as client:
            assert [model.id async for model in client.models.list()] == ["fast", "org/big model"]
            found = await client.models.retrieve("fast")
            assert (found.id, found.created, found.object, found.owned_by) == ("fast", 1_700_000_000, "model", "upeti")
            assert (await client.models.retrieve("org/big model")).id == "org/big model"
            for name in ("secret", "nothing", "*", "fast/more"):
                with pytest.raises(openai.NotFoundError) as caught:
                    await client.models.retrieve(name)
                assert caught.value.code == "model_not_found"
        async with served.azure() as client:
            assert (await client.models.retrieve("fast")).id == "fast"
        assert not served.books().opened
        assert not provider.requests


async def test_behind_a_route_for_all_names_every_model_is_found(served: Served, provider: SimProvider) -> None:
    async with served.openai() as client:
        assert [model.id async for model in client.models.list()] == []
        assert (await client.models.retrieve("gpt-4o")).id == "gpt-4o"
    assert not provider.requests


async def test_a_plain_answer_says_who_answered_and_what_it_cost(served: Served) -> None:
    async with served.openai() as client:
        raw = await client.chat.completions.with_raw_response.create(model="m", messages=HELLO, max_tokens=5)
    opened, settled = served.books().attempt()
    headers = raw.headers
    assert headers["x-request-id"] == opened.call_id
    assert headers["x-upeti-served-by"] == "up/m"
    assert headers["x-upeti-cost"] == decimal_text(settled.cost_pico)
    assert headers["x-upeti-currency"] == "USD"
    assert headers["x-upeti-provider-request-id"] == "req_sim"
    assert "x-upeti-budget-left" not in headers


async def test_a_stream_says_what_it_can_cost_at_most(served: Served) -> None:
    async with served.openai() as client:
        raw = await client.chat.completions.with_raw_response.create(
            model="m", messages=HELLO, max_tokens=5, stream=True
        )
        [_ async for _ in raw.parse()]
    opened, settled = served.books().attempt()
    assert raw.headers["x-request-id"] == opened.call_id
    assert raw.headers["x-upeti-cost-max"] == decimal_text(opened.bound_pico)
    assert "x-upeti-cost" not in raw.headers
    assert 0 < settled.cost_pico <= opened.bound_pico


# -- Azure's ways in ----------------------------------------------------------------------------------------------------


async def test_an_azure_client_by_its_deployment(served: Served, provider: SimProvider) -> None:
    async with served.azure() as client:
        answer = await client.chat.completions.create(model="m", messages=HELLO, max_tokens=5)
    assert answer.choices[0].message.content == SAID
    (request,) = provider.requests
    assert request.target == "/v1/chat/completions"  # no api-version for a provider that is not Azure
    assert request.json["model"] == "m"
    assert request.header("api-key") is None
    check_billed(served, provider, "chat_completions")


async def test_an_azure_client_in_a_stream(served: Served, provider: SimProvider) -> None:
    async with served.azure(azure_deployment="m") as client:
        stream = await client.chat.completions.create(model="unused", messages=HELLO, max_tokens=5, stream=True)
        chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == SAID
    check_billed(served, provider, "chat_completions", stream=True)


async def test_azures_newer_paths(served: Served, provider: SimProvider) -> None:
    options: Any = {"base_url": served.url + "/openai/v1/", "default_headers": {"api-key": KEY}}
    async with served.openai(**options) as client:
        answer = await client.responses.create(model="m", input="Halo", max_output_tokens=5)
    assert answer.output_text == SAID
    check_billed(served, provider, "responses")


# -- out to Azure -------------------------------------------------------------------------------------------------------


async def to_azure(tmp_path: Path, provider: SimProvider, monkeypatch: pytest.MonkeyPatch, version: str) -> Any:
    """Send one call to an Azure channel whose deployment has another name; return the request that arrived."""
    monkeypatch.setenv("AZURE_KEY_OF_TESTS", "azure-secret")
    view = channel(
        "up",
        provider,
        "azure",
        api_key=SecretRef("env", "AZURE_KEY_OF_TESTS"),
        api_version=version,
        deployments={"gpt-4o": "our gpt/4o"},
    )
    first = snapshot([view], [route("fast", candidate("up", "gpt-4o"))])
    async with serving(tmp_path, first) as served:
        async with served.openai() as client:
            await client.chat.completions.create(model="fast", messages=HELLO, max_tokens=5)
            stream = await client.chat.completions.create(model="fast", messages=HELLO, max_tokens=5, stream=True)
            assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == SAID
        opened = served.books().opened[0]
        assert (opened.route, opened.model) == ("fast", "gpt-4o")
        assert served.books().outcomes() == [("answered", "posted")] * 2
    request = provider.requests[0]
    assert request.header("api-key") == "azure-secret"
    assert request.header("authorization") is None
    return request


async def test_to_azure_with_a_version(tmp_path: Path, provider: SimProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    request = await to_azure(tmp_path, provider, monkeypatch, "2024-10-21")
    assert request.target == "/openai/deployments/our%20gpt%2F4o/chat/completions?api-version=2024-10-21"


async def test_to_azure_without_a_version(
    tmp_path: Path, provider: SimProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = await to_azure(tmp_path, provider, monkeypatch, "")
    assert request.target == "/openai/v1/chat/completions"
    assert request.json["model"] == "our gpt/4o"


# -- Anthropic ----------------------------------------------------------------------------------------------------------


@pytest.fixture
async def served_by_anthropic(
    tmp_path: Path, provider: SimProvider, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Served]:
    monkeypatch.setenv("ANTHROPIC_KEY_OF_TESTS", "anthropic-secret")
    view = channel("up", provider, "anthropic", api_key=SecretRef("env", "ANTHROPIC_KEY_OF_TESTS"))
    async with serving(tmp_path, snapshot([view])) as running:
        yield running


async def test_a_message(served_by_anthropic: Served, provider: SimProvider) -> None:
    async with served_by_anthropic.anthropic() as client:
        answer = await client.messages.create(model="m", max_tokens=5, messages=HELLO)
    assert answer.content[0].text == SAID  # type: ignore[union-attr]
    (request,) = provider.requests
    assert request.target == "/v1/messages"
    assert request.header("x-api-key") == "anthropic-secret"
    assert request.header("anthropic-version")
    check_billed(served_by_anthropic, provider, "messages")


async def test_a_message_in_a_stream(served_by_anthropic: Served, provider: SimProvider) -> None:
    async with (
        served_by_anthropic.anthropic() as client,
        client.messages.stream(model="m-each-ping", max_tokens=5, messages=HELLO) as stream,
    ):
        assert await stream.get_final_text() == SAID
    check_billed(served_by_anthropic, provider, "messages", stream=True)


async def test_tokens_are_counted_by_the_provider(served_by_anthropic: Served, provider: SimProvider) -> None:
    async with served_by_anthropic.anthropic() as client:
        counted = await client.messages.count_tokens(model="m", messages=HELLO)
    assert counted.input_tokens == len(provider.requests[0].body) // 4
    assert provider.requests[0].target == "/v1/messages/count_tokens"


async def test_each_api_goes_to_the_channels_that_take_it(
    tmp_path: Path, provider: SimProvider, other: SimProvider
) -> None:
    channels = [channel("openai", provider), channel("anthropic", other, "anthropic")]
    routes = [route("both", candidate("openai"), candidate("anthropic", order=1)), route("one", candidate("openai"))]
    async with serving(tmp_path, snapshot(channels, routes)) as served:
        async with served.openai() as client:
            await client.chat.completions.create(model="both", messages=HELLO, max_tokens=5)
        async with served.anthropic() as client:
            await client.messages.create(model="both", max_tokens=5, messages=HELLO)
            with pytest.raises(Exception, match="No candidate of the route 'one' takes this API"):
                await client.messages.create(model="one", max_tokens=5, messages=HELLO)
    assert [request.path for request in provider.requests] == ["/v1/chat/completions"]
    assert [request.path for request in other.requests] == ["/v1/messages"]
