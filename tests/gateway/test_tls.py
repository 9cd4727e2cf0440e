"""TLS on both sides: a certificate of our own on the listener, a verified one at the provider."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import openai
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from support.gateway_side import KEY, Line, candidate, channel, chat, request, route, serving, snapshot
from upeti.core.errors import ConfigError
from upeti.gateway.worker import _tls
from upeti.sim.provider import SimProvider

CALL = request(chat(max_tokens=5))


class Authority:
    """Signs a certificate for 127.0.0.1; its own is what clients trust."""

    def __init__(self, folder: Path, name: str, host: str = "127.0.0.1") -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = datetime.now(UTC)
        authority = (
            x509.CertificateBuilder()
            .subject_name(issuer)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )
        own = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "server")]))
            .issuer_name(issuer)
            .public_key(own.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address(host))]), critical=False)
            .sign(key, hashes.SHA256())
        )
        self.ca = folder / f"{name}-ca.pem"
        self.certificate = folder / f"{name}.pem"
        self.key = folder / f"{name}.key"
        self.ca.write_bytes(authority.public_bytes(serialization.Encoding.PEM))
        self.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        self.key.write_bytes(
            own.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )

    def server(self) -> ssl.SSLContext:
        context = _tls(str(self.certificate), str(self.key))
        assert context is not None
        return context

    def client(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.ca))


@pytest.fixture(scope="session")
def right(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"), "right")


@pytest.fixture(scope="session")
def wrong(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"), "wrong")


@pytest.fixture
async def secure(right: Authority) -> AsyncIterator[SimProvider]:
    async with SimProvider(tls=right.server()) as running:
        yield running


def ask_in_step(url: str, trust: ssl.SSLContext) -> list[str | None]:
    client = openai.OpenAI(
        base_url=url + "/v1", api_key=KEY, max_retries=0, http_client=openai.DefaultHttpxClient(verify=trust)
    )
    with client:
        plain = client.chat.completions.create(model="m", messages=[], max_tokens=5)
        stream = client.chat.completions.create(model="m-drip2", messages=[], max_tokens=5, stream=True)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    return [plain.choices[0].message.content, text]


async def test_a_client_over_tls(tmp_path: Path, provider: SimProvider, right: Authority, wrong: Authority) -> None:
    async with serving(tmp_path, snapshot([channel("up", provider)]), tls=right.server()) as served:
        plain, streamed = await asyncio.to_thread(ask_in_step, served.url, right.client())
        assert plain == streamed
        assert plain
        with pytest.raises(openai.APIConnectionError):
            await asyncio.to_thread(ask_in_step, served.url, wrong.client())
        # What is not TLS is nobody, and disturbs nobody.
        assert b"HTTP" not in await served.talk(CALL)
        line = Line(*await asyncio.open_connection("127.0.0.1", served.port, ssl=right.client()))
        for _ in range(3):
            line.send(CALL)
            assert (await line.answer()).status == 200
        line.send(b"garbage\r\n\r\n")
        assert (await line.answer()).code == "invalid_http"
        assert await line.rest() == b""
        line.close()


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
async def test_the_listener_speaks_no_old_tls(tmp_path: Path, provider: SimProvider, right: Authority) -> None:
    old = right.client()
    old.minimum_version = ssl.TLSVersion.TLSv1
    old.maximum_version = ssl.TLSVersion.TLSv1_1
    async with serving(tmp_path, snapshot([channel("up", provider)]), tls=right.server()) as served:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.open_connection("127.0.0.1", served.port, ssl=old)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_provider_over_tls(tmp_path: Path, secure: SimProvider, right: Authority, stream: bool) -> None:
    first = snapshot([channel("up", secure, ca_file=str(right.ca))])
    async with serving(tmp_path, first) as served:
        line = await served.connect()
        for words in ("m", "m-biganswer400", "m-close", "m-drip2"):
            line.send(request(chat(words, max_tokens=5, stream=stream)))
            answered = await line.answer()
            assert answered.status == 200
            assert answered.body.endswith(b"data: [DONE]\n\n") if stream else answered.json["usage"]
        line.close()
        assert served.books().outcomes() == [("answered", "posted")] * 4


async def test_a_provider_whose_certificate_nobody_vouches_for_is_not_called(
    tmp_path: Path, secure: SimProvider, wrong: Authority
) -> None:
    for ca_file in ("", str(wrong.ca)):
        folder = tmp_path / ((ca_file and "wrong") or "none")
        routes = [route("*", candidate("up"), attempts_max=1)]
        async with serving(folder, snapshot([channel("up", secure, ca_file=ca_file)], routes)) as served:
            answered = await served.ask(CALL)
            assert (answered.status, answered.code) == (502, "upstream_failed")
            assert "CERTIFICATE_VERIFY_FAILED" in answered.json["error"]["message"].upper().replace(" ", "_")
            assert served.books().outcomes() == [("not_sent", "voided")]
    assert secure.seen == 0


async def test_a_provider_whose_certificate_is_for_another_name_is_not_called(tmp_path: Path) -> None:
    other = Authority(tmp_path, "other", host="10.9.8.7")
    async with SimProvider(tls=other.server()) as secure:
        routes = [route("*", candidate("up"), attempts_max=1)]
        first = snapshot([channel("up", secure, ca_file=str(other.ca))], routes)
        async with serving(tmp_path, first) as served:
            assert (await served.ask(CALL)).code == "upstream_failed"
            assert served.books().outcomes() == [("not_sent", "voided")]
        assert secure.seen == 0


async def test_a_provider_that_should_speak_tls_and_does_not(tmp_path: Path, provider: SimProvider) -> None:
    routes = [route("*", candidate("up"), attempts_max=1)]
    first = snapshot([channel("up", provider, tls=True, connect_timeout_ms=500)], routes)
    async with serving(tmp_path, first) as served:
        assert (await served.ask(CALL)).code == "upstream_failed"
        assert served.books().outcomes() == [("not_sent", "voided")]
    assert provider.seen == 0


def test_a_certificate_that_cannot_be_used_says_which(tmp_path: Path, right: Authority, wrong: Authority) -> None:
    assert _tls("", "") is None
    for certificate, key in ((tmp_path / "nowhere.pem", right.key), (right.certificate, wrong.key)):
        with pytest.raises(ConfigError, match=r"gateway\.tls_certificate"):
            _tls(str(certificate), str(key))
