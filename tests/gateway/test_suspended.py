"""A tenant that a case has suspended: 403 with the case and how to appeal; nobody else notices."""

from __future__ import annotations

from pathlib import Path

from support.gateway_side import KEY, channel, chat, request, serving, snapshot
from upeti.gateway.snapshot import Caller
from upeti.sim.provider import SimProvider

OTHER = "upeti-another-key"
NOTICE = "This tenant is suspended since 2026-11-23 (case C-000007). To appeal, write to appeals@example.com."
CALLERS = {KEY: Caller("k1", "acme", "shop"), OTHER: Caller("k2", "beta", "shop")}


async def test_a_suspended_tenant_gets_its_case_and_a_served_one_its_answer(
    tmp_path: Path, provider: SimProvider
) -> None:
    async with serving(tmp_path, snapshot([channel("up", provider)], callers=CALLERS)) as served:
        assert (await served.ask(request(chat()))).status == 200
        served.swap(suspended={"acme": "C-000007"}, notices={"C-000007": NOTICE})
        for path, body, method in (
            ("/v1/chat/completions", chat(), "POST"),
            ("/v1/chat/completions", chat(stream=True), "POST"),
            ("/v1/embeddings", {"model": "m", "input": "x"}, "POST"),
            ("/v1/files", None, "GET"),
            ("/v1/models", None, "GET"),
        ):
            refused = await served.ask(request(body, path, method=method))
            assert (refused.status, refused.code, refused.json["error"]["message"]) == (403, "tenant_suspended", NOTICE)
        assert refused.json["error"]["type"] == "permission_error"
        assert len(provider.requests) == 1
        assert (await served.ask(request(chat(), key=OTHER))).status == 200
        served.swap(suspended={}, notices={})
        assert (await served.ask(request(chat()))).status == 200
        await served.stop()
        assert [record.code for record in served.books().refused] == ["tenant_suspended"] * 4


async def test_anthropic_clients_are_told_in_their_own_shape(tmp_path: Path, provider: SimProvider) -> None:
    first = snapshot([channel("up", provider, "anthropic")], callers=CALLERS)
    async with serving(tmp_path, first) as served:
        served.swap(suspended={"acme": "C-000007"}, notices={"C-000007": NOTICE})
        body = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}
        refused = await served.ask(request(body, "/v1/messages"))
        assert refused.status == 403
        assert (refused.json["type"], refused.json["error"]["type"]) == ("error", "permission_error")
        assert refused.json["error"]["message"] == NOTICE
