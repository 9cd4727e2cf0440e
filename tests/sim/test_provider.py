"""The fake provider over real sockets, with raw bytes and with the clients that people use."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import ssl
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

import upeti.sim
from upeti.sim.provider import SimProvider

SOURCE = Path(upeti.sim.__file__).parents[2]


def call(model: str, path: str = "/v1/chat/completions", headers: str = "", **body: Any) -> bytes:
    data = json.dumps({"model": model, **body}).encode()
    return f"POST {path} HTTP/1.1\r\nHost: sim\r\n{headers}Content-Length: {len(data)}\r\n\r\n".encode() + data


async def talk(provider: SimProvider, data: bytes, *, end: bool = True) -> bytes:
    """Send bytes and read until the provider closes; ``end`` closes our side for writing first."""
    reader, writer = await asyncio.open_connection(provider.host, provider.port)
    writer.write(data)
    if end:
        writer.write_eof()
    try:
        return await asyncio.wait_for(reader.read(), 5)
    finally:
        writer.close()


def body_of(answer: bytes) -> bytes:
    return answer.partition(b"\r\n\r\n")[2]


async def test_it_keeps_what_arrived_byte_for_byte() -> None:
    sent = call("m", headers="X-Client-Request-Id: a-1\r\nX-Odd:  spaced \r\n", messages=[])
    async with SimProvider() as provider:
        await talk(provider, sent)
        (request,) = provider.requests
        assert request.head + request.raw_body == sent
        assert request.header("x-client-request-id") == "a-1"
        assert request.served is not None
        assert request.served.complete
        assert request.served.billed == {"input": len(request.body) // 4, "output": 12}


async def test_pipelined_requests_are_answered_in_order_on_one_connection() -> None:
    async with SimProvider() as provider:
        answer = await talk(provider, call("first") + call("second", stream=True) + call("third"))
        assert [request.connection for request in provider.requests] == [1, 1, 1]
        assert answer.count(b"HTTP/1.1 200 OK") == 3
        assert answer.index(b'"first"') < answer.index(b'"second"') < answer.index(b'"third"')


async def test_expect_100_is_answered() -> None:
    async with SimProvider() as provider:
        reader, writer = await asyncio.open_connection(provider.host, provider.port)
        head, _, body = call("m", headers="Expect: 100-continue\r\n").partition(b"\r\n\r\n")
        writer.write(head + b"\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(body)
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        writer.close()


async def test_the_clients_people_use_can_read_it() -> None:
    async with SimProvider() as provider:
        client = openai.AsyncOpenAI(base_url=f"{provider.url}/v1", api_key="k", max_retries=0)
        messages: Any = [{"role": "user", "content": "hi"}]
        plain = await client.chat.completions.create(model="m", messages=messages, max_tokens=5)
        assert plain.usage is not None
        assert plain.usage.completion_tokens == 5
        stream = await client.chat.completions.create(
            model="m-split", messages=messages, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        assert chunks[-1].usage is not None
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert text.startswith("Halo dunia, café 漢字 🙂 ")
        response = await client.responses.create(model="m", input="hi", max_output_tokens=3)
        assert response.usage is not None
        assert response.usage.output_tokens == 3
        events = [event async for event in await client.responses.create(model="m-split", input="hi", stream=True)]
        assert events[-1].type == "response.completed"
        embedded = await client.embeddings.create(model="m", input=["a", "b"])
        assert embedded.data[1].embedding == [0.5, -0.25, 0.125, 0.0625]
        with pytest.raises(openai.RateLimitError):
            await client.chat.completions.create(model="m-err429", messages=messages)
        azure = openai.AsyncAzureOpenAI(azure_endpoint=provider.url, api_version="2025-01-01", api_key="k")
        deployed = await azure.chat.completions.create(model="gpt-mine", messages=messages)
        assert deployed.model == "gpt-mine"
        for each in (client, azure):
            await each.close()


async def test_anthropics_client_can_read_it() -> None:
    async with SimProvider() as provider:
        client = anthropic.AsyncAnthropic(base_url=provider.url, api_key="k", max_retries=0)
        messages: Any = [{"role": "user", "content": "hi"}]
        plain = await client.messages.create(model="m", messages=messages, max_tokens=5)
        assert plain.usage.output_tokens == 5
        async with client.messages.stream(model="m-usageeach-ping-split", messages=messages, max_tokens=9) as stream:
            message = await stream.get_final_message()
        assert message.usage.output_tokens == 9
        assert message.usage.input_tokens == len(provider.requests[1].body) // 4
        await client.close()


async def test_a_cut_stream_ends_without_its_last_chunk_and_is_billed_for_what_was_made() -> None:
    async with SimProvider() as provider:
        answer = await talk(provider, call("m-cut3", stream=True), end=False)
        assert answer.count(b"data: ") == 3
        assert not answer.endswith(b"0\r\n\r\n")
        served = provider.requests[0].served
        assert served is not None
        assert not served.complete
        assert served.billed is not None
        assert served.billed["output"] == 3


async def test_what_goes_wrong_goes_wrong() -> None:
    async with SimProvider() as provider:
        assert len(body_of(await talk(provider, call("m-cutbody"), end=False))) > 0
        assert b"not HTTP" in await talk(provider, call("m-garbage"), end=False)
        with pytest.raises(json.JSONDecodeError):
            json.loads(body_of(await talk(provider, call("m-badjson"))))
        with pytest.raises(ConnectionResetError):
            await talk(provider, call("m-reset"), end=False)
        reader, writer = await asyncio.open_connection(provider.host, provider.port)
        writer.write(call("m-never"))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.1)
        writer.close()
        statuses = [request.served.status for request in provider.requests if request.served]
        assert statuses == [200, 0, 200, 0]


async def test_a_client_that_leaves_within_a_stream_is_billed_for_what_was_made() -> None:
    async with SimProvider() as provider:
        reader, writer = await asyncio.open_connection(provider.host, provider.port)
        writer.write(call("m-drip10", stream=True, max_tokens=200))
        await reader.readuntil(b"data: ")
        writer.transport.abort()
        async with asyncio.timeout(5):
            while provider.requests[0].served is None:
                await asyncio.sleep(0.01)
        served = provider.requests[0].served
        assert served is not None
        assert not served.complete
        assert served.billed is not None
        assert 1 <= served.billed["output"] < 100


async def test_words_come_from_the_model_a_header_the_plan_or_always() -> None:
    async with SimProvider() as provider:
        assert b" 503 " in await talk(provider, call("m", headers="X-Sim: err503\r\n"))
        provider.next("err500", "")
        assert b" 500 " in await talk(provider, call("m"))
        assert b" 200 " in await talk(provider, call("m-err503"))
        provider.always = "err401"
        assert b" 401 " in await talk(provider, call("m"))


async def test_a_key_is_asked_for_in_every_form() -> None:
    async with SimProvider(api_key="secret") as provider:
        assert b" 401 " in await talk(provider, call("m"))
        for header in ("Authorization: Bearer secret", "api-key: secret", "x-api-key: secret"):
            assert b" 200 " in await talk(provider, call("m", headers=f"{header}\r\n"))


async def test_stop_cuts_and_start_takes_the_same_port() -> None:
    async with SimProvider() as provider:
        port = provider.port
        reader, writer = await asyncio.open_connection(provider.host, port)
        writer.write(call("m-never"))
        await provider.wait_for(1)
        await provider.stop()
        assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(provider.host, port)
        await provider.start()
        assert provider.port == port
        assert b" 200 " in await talk(provider, call("m"))


async def test_junk_does_no_harm() -> None:
    async with SimProvider() as provider:
        assert b" 400 " in await talk(provider, b"\x16\x03\x01junk\r\n\r\n")
        assert b" 400 " in await talk(provider, b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: 1\r\n\r\n{")
        assert b" 200 " in await talk(provider, call("m"))
        assert provider.connections_open == 0


def tls_files(folder: Path) -> tuple[Path, Path]:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    certificate_file, key_file = folder / "certificate.pem", folder / "key.pem"
    certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    no_password = serialization.NoEncryption()
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    key_file.write_bytes(key.private_bytes(encoding, form, no_password))
    return certificate_file, key_file


def start(*arguments: str) -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "upeti.sim.provider", *arguments],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    url = json.loads(process.stdout.readline())["url"]
    return process, url


async def test_as_a_process_with_tls_it_logs_what_it_saw_and_served(tmp_path: Path) -> None:
    certificate, key = tls_files(tmp_path)
    log = tmp_path / "provider.jsonl"
    process, url = start("--log", str(log), "--tls-certificate", str(certificate), "--tls-key", str(key))
    try:
        context = ssl.create_default_context(cafile=str(certificate))
        port = int(url.rpartition(":")[2])
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
        writer.write(call("m-never", headers="X-Client-Request-Id: c9-2\r\n"))
        async with asyncio.timeout(5):
            while not log.exists() or not log.read_bytes():
                await asyncio.sleep(0.01)
        seen = json.loads(log.read_text())
        assert (seen["event"], seen["client_request_id"], seen["words"]) == ("seen", "c9-2", ["never"])
        writer.close()
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 0
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["event"] for line in lines] == ["seen", "served"]
    assert lines[1]["complete"] is False
    assert lines[1]["billed"] is None


async def test_two_providers_share_a_log_and_kill_loses_nothing(tmp_path: Path) -> None:
    log = tmp_path / "provider.jsonl"
    processes = [start("--log", str(log)) for _ in range(2)]
    for process, url in processes:
        client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0)
        for index in range(20):
            await client.completions.create(
                model="m",
                prompt="hi",
                max_tokens=4,
                extra_headers={"x-client-request-id": f"{process.pid}-{index}"},
            )
        await client.close()
        process.kill()
        process.wait()
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    served = [line for line in lines if line["event"] == "served"]
    assert len({line["client_request_id"] for line in served}) == 40
    assert {line["billed"]["output"] for line in served} == {4}
    assert {line["pid"] for line in lines} == {process.pid for process, _ in processes}
