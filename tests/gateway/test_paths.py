"""What a path asks for, as a table; what cannot be passed on safely."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upeti.core.errors import BadRequest, NotFound
from upeti.gateway import paths
from upeti.gateway.paths import target_of


@pytest.mark.parametrize(
    ("method", "url", "wire", "suffix", "query", "model"),
    [
        ("POST", "/v1/chat/completions", "chat_completions", "/chat/completions", "", ""),
        ("POST", "/openai/v1/chat/completions", "chat_completions", "/chat/completions", "", ""),
        ("POST", "/openai/deployments/gpt-4o/chat/completions", "chat_completions", "/chat/completions", "", "gpt-4o"),
        ("POST", "/openai/deployments/a%20b%2Fc/embeddings", None, "", "", ""),
        ("POST", "/openai/deployments/%E6%97%A7/embeddings", "embeddings", "/embeddings", "", "旧"),
        ("POST", "/v1/responses?include=a&include=b", "responses", "/responses", "include=a&include=b", ""),
        ("POST", "/openai/v1/responses?api-version=preview", "responses", "/responses", "", ""),
        (
            "POST",
            "/openai/deployments/m/completions?api-version=2024-10-21&x=1",
            "completions",
            "/completions",
            "x=1",
            "m",
        ),
        ("POST", "/v1/messages", "messages", "/messages", "", ""),
        ("POST", "/v1/messages?beta=true", "messages", "/messages", "beta=true", ""),
        ("GET", "/v1/files/file-1/content", "other", "/files/file-1/content", "", ""),
        ("GET", "/v1/batches?limit=2&&after=b%20c", "other", "/batches", "limit=2&after=b%20c", ""),
        ("POST", "/openai/files?api-version=2024-10-21", "other", "/files", "", ""),
        ("DELETE", "/v1/responses/resp_1", "other", "/responses/resp_1", "", ""),
        ("DELETE", "/v1/models/ft:gpt-4o", "other", "/models/ft:gpt-4o", "", ""),
        ("POST", "/v1/", "other", "/", "", ""),
        # absolute form, as a proxy is asked
        ("POST", "http://api.openai.com/v1/embeddings?x=1", "embeddings", "/embeddings", "x=1", ""),
        ("POST", "https://u:8080/v1/embeddings", "embeddings", "/embeddings", "", ""),
    ],
)
def test_what_is_asked_for(method: str, url: str, wire: str | None, suffix: str, query: str, model: str) -> None:
    if wire is None:
        with pytest.raises(BadRequest):
            target_of(method.encode(), url.encode())
        return
    target = target_of(method.encode(), url.encode())
    found = (target.wire.name, target.method, target.suffix, target.query, target.model, target.is_models)
    assert found == (wire, method, suffix, query, model, False)
    assert target.anthropic is suffix.startswith("/messages")


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("/v1/models", ""),
        ("/v1/models/", ""),
        ("/v1/models?limit=1", ""),
        ("/v1/models/gpt-4o", "gpt-4o"),
        ("/openai/v1/models/gpt-4o", "gpt-4o"),
        ("/openai/models/gpt-4o?api-version=2024-10-21", "gpt-4o"),
        ("/v1/models/org%2Fmodel%20x", "org/model x"),
        ("/v1/models/org/model", "org/model"),
        ("/v1/models/../files", "../files"),
    ],
)
def test_models_are_answered_here(url: str, name: str) -> None:
    target = target_of(b"GET", url.encode())
    assert (target.is_models, target.model) == (True, name)


@pytest.mark.parametrize(
    "url",
    [
        "/v1/../admin",
        "/v1/..",
        "/v1/./files",
        "/v1/files/../../admin",
        "/v1//files",
        "//v1/files",
        "/v1/%2e%2e/admin",
        "/v1/%2E./admin",
        "/v1/files%2f..%2fadmin",
        "/v1/files%5c..%5cadmin",
        "/v1/files\\..\\admin",
        "/v1/files%",
        "/v1/files%zz",
        "/v1/a b",
        "/v1/<script>",
        "/v1/files?x=a b",
        "/v1/files?x=\\",
        "/v1/files\x00",
        "v1/files",
        "*",
        "",
        "HTTP://u/v1/files",
        "http:/v1/files",
        "/v1/файлы",
    ],
)
def test_what_is_not_passed_on(url: str) -> None:
    with pytest.raises(BadRequest, match="path") as caught:
        target_of(b"POST", url.encode())
    assert (caught.value.status, caught.value.code) == (400, "invalid_path")


@pytest.mark.parametrize(
    "url",
    [
        "/",
        "/v1",
        "/v2/chat/completions",
        "/chat/completions",
        "/V1/files",
        "/admin",
        "http://u",
        "http://u/",
        "/openai",
    ],
)
def test_what_is_not_here(url: str) -> None:
    with pytest.raises(NotFound, match="base_url") as caught:
        target_of(b"POST", url.encode())
    assert caught.value.code == "unknown_path"
    assert len(caught.value.message) < 400


@given(
    st.sampled_from([b"GET", b"POST", b"PUT", b"PATCH", b"DELETE"]),
    st.binary(max_size=30) | st.text("/.%2eE5cCfFv1?#\\:openai@", max_size=30).map(str.encode),
    st.sampled_from([b"", b"/", b"/v1/", b"/v1/files/", b"/openai/v1/", b"/openai/deployments/", b"http://u/v1/"]),
)
def test_whatever_is_passed_on_stays_below_the_prefix(method: bytes, end: bytes, start: bytes) -> None:
    try:
        target = target_of(method, start + end)
    except (BadRequest, NotFound):
        return
    if target.is_models:
        return
    assert target.suffix.startswith("/")
    steps = target.suffix.lower().replace("%2e", ".").replace("%2f", "/").replace("%5c", "/").split("/")
    assert not {".", ".."} & set(steps)
    assert not set(" \r\n\t\\#") & set(target.suffix + target.query)
    assert (target.suffix + target.query).isascii()


def test_one_path_is_one_target_and_their_number_and_size_are_bounded() -> None:
    first = target_of(b"GET", b"/v1/files/one")
    assert target_of(b"GET", b"/v1/files/one") is first
    for number in range(5_000):
        target_of(b"GET", b"/v1/files/%d" % number)
    assert len(paths._remembered) <= 4_096
    # What is long, anybody could fill the memory with.
    long = b"/v1/files/" + b"x" * 60_000
    assert target_of(b"GET", long).suffix.endswith("xxx")
    assert not any(len(url) > 2_000 for _, url in paths._remembered)
