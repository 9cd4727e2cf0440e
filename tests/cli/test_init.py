"""`upeti init`: the file it writes is right, and is the example in the repository."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from upeti.cli.main import main
from upeti.control.config_file import load, parse

EXAMPLE = Path(__file__).parents[2] / "upeti.example.toml"


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return int(ended.value.code or 0)


def test_what_it_writes_is_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("init") == 0
    config = load(tmp_path / "upeti.toml")
    assert [(channel.name, channel.kind) for channel in config.channel] == [("local", "embedded")]
    assert run("check") == 0
    printed = capsys.readouterr()
    assert "upeti keys create --tenant me\n  upeti serve\n" in printed.out
    assert f"OK: {tmp_path / 'upeti.toml'}" in printed.out or "OK: upeti.toml" in printed.out


def test_it_is_the_example_of_the_repository(tmp_path: Path) -> None:
    assert run("init", str(tmp_path / "other.toml")) == 0
    assert (tmp_path / "other.toml").read_text() == EXAMPLE.read_text()


def test_what_is_commented_out_is_right_too(tmp_path: Path) -> None:
    """Every setting that is shown works once its `#` is taken away."""
    text = re.sub(r"(?m)^# (?=(\[|[a-z_0-9]+ = ))", "", EXAMPLE.read_text())
    text = text.replace('"…"', f'"{"0" * 64}"')
    for name in ("server.pem", "server.key", "our-prices.toml", "tenants.toml"):
        (tmp_path / name).touch()
    config = parse(text, tmp_path / "upeti.toml").config
    assert {channel.kind for channel in config.channel} == {"embedded", "openai_compatible", "azure", "anthropic"}
    assert [route.name for route in config.route] == ["smollm2-135m", "gpt-4.1", "*"]
    assert config.gateway.tls_key == str(tmp_path / "server.key")
    assert len(config.key) == 1


def test_a_file_that_is_there_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "upeti.toml"
    path.write_text("mine")
    assert run("init", str(path)) == 2
    assert path.read_text() == "mine"
    message = f"upeti: {path} is there already; name another file, or replace it with --force\n"
    assert capsys.readouterr().err == message
    assert run("init", str(path), "--force") == 0
    assert path.read_text() == EXAMPLE.read_text()


def test_a_directory_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("init", str(tmp_path / "none" / "upeti.toml")) == 2
    assert "cannot be written (No such file or directory)" in capsys.readouterr().err
