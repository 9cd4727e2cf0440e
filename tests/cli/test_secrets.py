"""`upeti secrets`: what goes in encrypted comes out for a worker, and for nobody else."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from upeti.cli.main import main
from upeti.cli.state import open_state
from upeti.gateway.secrets import resolve
from upeti.gateway.snapshot import SecretRef

SECRET = "sk-planted-canary"


@pytest.fixture
def config(tmp_path: Path, state_url: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("UPETI_MASTER_KEY", raising=False)
    path = tmp_path / "upeti.toml"
    path.write_text(f'data_dir = "data"\n[state]\nurl = "{state_url}"\n')
    return path


def run(config: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str, given: str = "") -> int:
    monkeypatch.setattr("sys.stdin", io.StringIO(given))
    with pytest.raises(SystemExit) as ended:
        main(["secrets", *arguments, "--config", str(config)])
    return int(ended.value.code or 0)


def test_a_stored_secret_is_what_a_worker_finds(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(config, monkeypatch, "set", "openai", given=f"{SECRET}\n") == 0
    printed = capsys.readouterr()
    assert 'api_key = "stored:openai"' in printed.out
    data_dir = config.parent / "data"
    sealed = open_state(config).sealed_secrets()["openai"]
    assert resolve(SecretRef("stored", "openai", sealed), data_dir) == SECRET
    for file in data_dir.iterdir():
        assert SECRET.encode() not in file.read_bytes()
    assert run(config, monkeypatch, "list") == 0
    assert capsys.readouterr().out == "openai\n"


def test_a_secret_is_replaced_and_deleted(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for value in ("one", "two"):
        assert run(config, monkeypatch, "set", "a", given=value) == 0
    data_dir = config.parent / "data"
    sealed = open_state(config).sealed_secrets()["a"]
    assert resolve(SecretRef("stored", "a", sealed), data_dir) == "two"
    assert run(config, monkeypatch, "delete", "a") == 0
    assert open_state(config).sealed_secrets() == {}
    assert run(config, monkeypatch, "delete", "a") == 2
    assert "there is no secret `a`: `upeti secrets list`" in capsys.readouterr().err


def test_what_does_not_fit(config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(config, monkeypatch, "set", "a b", given="x") == 2
    assert "'a b' is no name for a secret; use letters, digits and _ . -" in capsys.readouterr().err
    assert run(config, monkeypatch, "set", "a", given=" \n") == 2
    assert "nothing was given for a; pipe it in" in capsys.readouterr().err
    assert open_state(config).sealed_secrets() == {}
