"""Bearer tokens of Microsoft Entra: asked for once, given at once, renewed ahead of time. The identity library is played."""

from __future__ import annotations

import sys
import time
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from upeti.core.errors import ConfigError
from upeti.gateway import entra
from upeti.gateway.snapshot import ChannelView

VIEW = ChannelView("azure", "azure", "example.openai.azure.com", 443, True, "", entra=True)


def identity(monkeypatch: pytest.MonkeyPatch, get_token: Any) -> None:
    azure, module = ModuleType("azure"), ModuleType("azure.identity")
    module.DefaultAzureCredential = lambda: SimpleNamespace(get_token=get_token)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "azure", azure)
    monkeypatch.setitem(sys.modules, "azure.identity", module)


def test_a_token_is_renewed_ahead_of_time_and_an_old_one_kept_when_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def get_token(scope: str) -> SimpleNamespace:
        asked.append(scope)
        if len(asked) == 2:
            raise RuntimeError("the directory is away")
        return SimpleNamespace(token=f"token-{len(asked)}", expires_on=time.time() + 300)

    identity(monkeypatch, get_token)
    monkeypatch.setattr(entra, "_RETRY_S", 0.05)
    token = entra.token_source(VIEW)
    assert token() == "token-1"
    deadline = time.monotonic() + 5
    while token() == "token-1" and time.monotonic() < deadline:
        time.sleep(0.01)
    assert token() == "token-3"
    assert set(asked) == {"https://cognitiveservices.azure.com/.default"}


def test_no_token_is_an_error_with_the_channels_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def get_token(scope: str) -> SimpleNamespace:
        raise RuntimeError("no credential is set up")

    identity(monkeypatch, get_token)
    with pytest.raises(ConfigError, match="channel azure: no token"):
        entra.token_source(VIEW)


def test_without_the_extra_the_cure_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "azure.identity", None)
    with pytest.raises(ConfigError, match=r'pip install "upeti\[azure\]"'):
        entra.token_source(VIEW)
