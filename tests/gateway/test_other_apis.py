"""Every other path below /v1: relayed to one channel, counted where the answer says something to count."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from support.gateway_side import KEY, PRICED, Served, candidate, channel, keys, request, route, serving, snapshot
from upeti.core.events import Outcome
from upeti.gateway.snapshot import Caller
from upeti.money.price import Price
from upeti.sim.provider import SimProvider

SPEECH = Price("speech", "USD", 0, {"audio_seconds": 100_000_000})


@pytest.fixture
async def served(tmp_path: Path, provider: SimProvider, other: SimProvider) -> AsyncIterator[Served]:
    channels = [channel("first", provider), channel("second", other)]
    routes = [
        route("m", candidate("first")),
        route("whisper", candidate("second", "whisper-1", prices={"*": (SPEECH,)})),
        route("painter", candidate("second", "paint-1", prices={})),
        route("moderator", candidate("second", "moderator-1", prices={})),
    ]
    async with serving(tmp_path, snapshot(channels, routes, default_channel="first")) as running:
        yield running


def attempt(served: Served) -> tuple[Any, ...]:
    opened, settled = served.books().attempt()
    assert (opened.wire, settled.ended, settled.status) == ("other", "answered", 200)
    return opened.channel, opened.route, opened.model, settled.outcome, settled.cost_pico, settled.meters


async def test_a_file_is_uploaded_as_it_is(served: Served, provider: SimProvider) -> None:
    content = bytes(range(256)) * 40
    async with served.openai() as client:
        await client.files.create(file=("data.bin", io.BytesIO(content)), purpose="batch")
    (arrived,) = provider.requests
    assert (arrived.method, arrived.target) == ("POST", "/v1/files")
    assert content in arrived.body
    boundary = (arrived.header("content-type") or "").partition("boundary=")[2]
    assert arrived.body.startswith(b"--" + boundary.encode())
    assert arrived.body.endswith(boundary.encode() + b"--\r\n")
    assert attempt(served) == ("first", "", "", Outcome.UNPRICED, 0, None)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/files"),
        ("GET", "/files/file-1"),
        ("GET", "/files/file-1/content"),
        ("DELETE", "/files/file-1"),
        ("POST", "/batches"),
        ("GET", "/batches?limit=2&after=b_1"),
        ("POST", "/batches/b_1/cancel"),
        ("GET", "/fine_tuning/jobs"),
        ("GET", "/responses/resp_1?include=x"),
        ("DELETE", "/responses/resp_1"),
        ("POST", "/uploads/u_1/parts"),
        ("PUT", "/anything/new"),
        ("PATCH", "/anything/new"),
    ],
)
@pytest.mark.parametrize("prefix", ["/v1", "/openai/v1", "/openai"])
async def test_a_path_without_a_model_goes_to_the_default_channel(
    served: Served, provider: SimProvider, method: str, path: str, prefix: str
) -> None:
    body = {"x": [1.5]} if method in ("POST", "PUT", "PATCH") else None
    answered = await served.ask(request(body, prefix + path, method=method))
    assert answered.status == 200
    (arrived,) = provider.requests
    assert (arrived.method, arrived.target) == (method, "/v1" + path)
    assert arrived.json == (body or {})
    assert answered.json["target"] == "/v1" + path
    assert attempt(served)[:2] == ("first", "")


async def test_a_model_in_a_json_body_chooses_the_route_and_is_renamed(served: Served, other: SimProvider) -> None:
    async with served.openai() as client:
        await client.moderations.create(model="moderator", input="Halo")
    (arrived,) = other.requests
    assert arrived.path == "/v1/moderations"
    assert arrived.json == {"model": "moderator-1", "input": "Halo"}
    assert attempt(served) == ("second", "moderator", "moderator-1", Outcome.UNPRICED, 0, None)


async def test_what_was_drawn_is_counted_and_without_a_price_owed_an_unknown_amount(
    served: Served, other: SimProvider
) -> None:
    raw = None
    async with served.openai() as client:
        raw = await client.images.with_raw_response.generate(model="painter", prompt="a cat")
    assert raw.headers["x-upeti-cost"] == "unknown"
    (arrived,) = other.requests
    meters = arrived.served.billed if arrived.served else None
    assert attempt(served) == ("second", "painter", "paint-1", Outcome.UNPRICED, 0, meters)


async def test_seconds_of_speech_are_billed_by_the_forms_model(served: Served, other: SimProvider) -> None:
    audio = b'RIFF\r\n\r\nname="purpose"\r\n\r\n\x00\xff' * 100
    async with served.openai() as client:
        text = await client.audio.transcriptions.create(model="whisper", file=("a.wav", io.BytesIO(audio)))
    assert text.text
    (arrived,) = other.requests
    assert audio in arrived.body
    assert b'name="model"\r\n\r\nwhisper-1\r\n' in arrived.body
    assert b"\r\nwhisper\r\n" not in arrived.body
    assert arrived.header("content-length") == str(len(arrived.body))
    assert attempt(served) == ("second", "whisper", "whisper-1", Outcome.POSTED, 300_000_000, {"audio_seconds": 3})


async def test_a_form_whose_model_has_a_header_of_its_own(served: Served, other: SimProvider) -> None:
    form = (
        b'--b\r\nContent-Disposition: form-data; name="model"\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n'
        b"whisper\r\n--b--\r\n"
    )
    headers = "Content-Type: multipart/form-data; boundary=b\r\n"
    assert (await served.ask(request(form, "/v1/audio/translations", headers=headers))).status == 200
    assert other.requests[0].body == form.replace(b"whisper", b"whisper-1")


@pytest.mark.parametrize(
    "form",
    [
        b"",
        b"--b--\r\n",
        b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\n\r\n--b--\r\n',
        b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\n' + b"x" * 300 + b"\r\n--b--\r\n",
        b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\nname="model"',
        b"\xff" * 100,
    ],
)
async def test_a_form_without_a_model_that_can_be_read_goes_on_unread(
    served: Served, provider: SimProvider, form: bytes
) -> None:
    headers = "Content-Type: multipart/form-data; boundary=b\r\n"
    assert (await served.ask(request(form, "/v1/audio/translations", headers=headers))).status == 200
    assert provider.requests[0].body == form


async def test_a_body_that_only_the_provider_can_judge_goes_on_unread(served: Served, provider: SimProvider) -> None:
    for body in (b"[1,2]", b"{broken", b'{"model":7}', b"\xff\xfe", b"[" * 100_000):
        assert (await served.ask(request(body, "/v1/fine_tuning/jobs"))).status == 200
        assert provider.requests[-1].body == body


async def test_an_unknown_model_goes_to_the_default_channel_under_its_own_name(
    served: Served, provider: SimProvider
) -> None:
    assert (await served.ask(request({"model": "dall-e-9"}, "/v1/images/generations"))).status == 200
    assert provider.requests[0].json == {"model": "dall-e-9"}
    assert attempt(served)[:3] == ("first", "", "dall-e-9")


async def test_speech_that_is_made_comes_back_in_bytes(served: Served) -> None:
    async with served.openai() as client:
        made = await client.audio.speech.create(model="m", voice="alloy", input="Halo")
    assert made.content == bytes(range(256)) * 64


async def test_a_look_up_is_free_where_there_is_a_price(tmp_path: Path, provider: SimProvider) -> None:
    routes = [route("m", candidate("up", prices=PRICED))]
    callers = {KEY: Caller("k1", "acme", "shop", budgets=("key:k1",))}
    first = snapshot([channel("up", provider)], routes, callers=callers)
    async with serving(tmp_path, first, limits_pico={"key:k1": 0}) as served:
        for method in ("GET", "DELETE"):
            assert (await served.ask(request(path="/v1/files/f", method=method))).status == 200
        # What cannot be bounded is refused to a key with a limit.
        for path in ("/v1/files", "/v1/images/generations"):
            refused = await served.ask(request({"model": "m"} if "images" in path else {}, path))
            assert refused.status == 400
            assert refused.code == ("cost_unbounded" if "images" in path else "price_unknown")
        books = served.books()
    assert [(one.bound_pico, one.budgets) for one in books.opened] == [(0, ("key:k1",))] * 2
    assert [one.code for one in books.refused] == ["price_unknown", "cost_unbounded"]


async def test_a_key_limited_to_routes_reaches_only_their_models(served: Served, provider: SimProvider) -> None:
    served.swap(keys=keys({KEY: Caller("k1", "acme", "shop", routes=frozenset({"whisper"}))}))
    for path, body, status in (
        ("/v1/files", {}, 403),
        ("/v1/images/generations", {"model": "painter"}, 403),
        ("/v1/audio/translations", {"model": "whisper"}, 200),
    ):
        answered = await served.ask(request(body, path))
        assert answered.status == status
        if status == 403:
            assert answered.code == "route_not_allowed"
    assert not provider.requests
