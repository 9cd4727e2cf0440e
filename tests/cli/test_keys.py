"""`upeti keys`: made once, shown once, revoked for good."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest

from upeti.cli.main import main
from upeti.cli.state import open_state


@pytest.fixture
def config(tmp_path: Path, state_url: str) -> Path:
    path = tmp_path / "upeti.toml"
    path.write_text(f'data_dir = "data"\n[state]\nurl = "{state_url}"\n')
    return path


def run(config: Path, *arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["keys", *arguments, "--config", str(config)])
    return int(ended.value.code or 0)


def test_only_the_digest_is_kept(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--tenant", "acme", "--project", "shop", "--feature", "search", "--limit", "12.50"]
    assert run(config, "create", *options, "--routes", "a, b", "--expires", "2099-01-01") == 0
    printed = capsys.readouterr().out
    key = re.findall(r"\bupeti-[0-9a-f]{64}\b", printed)
    assert len(key) == 1
    assert "expires  2099-01-01T00:00:00Z" in printed
    (row,) = open_state(config).all_keys()
    assert row.sha256 == hashlib.sha256(key[0].encode()).hexdigest()
    assert (row.tenant, row.project, row.feature, row.routes) == ("acme", "shop", "search", ("a", "b"))
    assert row.limit_pico == 12_500_000_000_000
    assert run(config, "list") == 0
    listed = capsys.readouterr().out
    assert row.id in listed
    assert key[0] not in listed
    for file in (config.parent / "data").iterdir():
        assert key[0].encode() not in file.read_bytes()


def test_json_for_programs(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(config, "create", "--tenant", "acme", "--json") == 0
    made = json.loads(capsys.readouterr().out)
    assert run(config, "list", "--json") == 0
    (listed,) = json.loads(capsys.readouterr().out)
    assert made == {"key": made["key"], **listed}
    assert (listed["limit"], listed["expires"], listed["state"]) == (None, None, "valid")


def test_two_keys_are_never_the_same(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = []
    for _ in range(2):
        run(config, "create", "--tenant", "acme", "--json")
        made.append(json.loads(capsys.readouterr().out))
    assert made[0]["key"] != made[1]["key"]
    assert made[0]["id"] != made[1]["id"]


def test_revoked_keys_are_shown_as_such(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(config, "create", "--tenant", "acme", "--json")
    key_id = json.loads(capsys.readouterr().out)["id"]
    assert run(config, "revoke", key_id) == 0
    assert capsys.readouterr().out == f"{key_id} is revoked.\n"
    run(config, "list", "--json")
    assert json.loads(capsys.readouterr().out)[0]["state"] == "revoked"
    assert run(config, "revoke", key_id) == 2
    assert capsys.readouterr().err == f"upeti: there is no valid key `{key_id}`: `upeti keys list` shows them\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tenant", "a b"], "tenant: 'a b' does not have the right form; use 1 to 128 letters, digits"),
        (["--tenant", "a", "--limit", "ten"], "limit: 'ten' is not a decimal number; write it like 10.50"),
        (["--tenant", "a", "--limit", "-1"], "limit: below zero"),
        (["--tenant", "a", "--expires", "soon"], "expires: 'soon' is no time; write 2027-01-31"),
        (["--tenant", "a", "--expires", "2001-01-01"], "expires: 2001-01-01 has passed; choose a later time"),
    ],
)
def test_what_does_not_fit(config: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str) -> None:
    assert run(config, "create", *options) == 2
    assert message in capsys.readouterr().err
    assert open_state(config).all_keys() == []


def test_a_tenant_must_be_named(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(config, "create") == 2
    assert "--tenant" in capsys.readouterr().err


def test_a_key_is_revoked_while_the_file_is_wrong(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(config, "create", "--tenant", "acme", "--json")
    key_id = json.loads(capsys.readouterr().out)["id"]
    config.write_text(config.read_text() + "[gateway]\nprt = 1\n")
    assert run(config, "revoke", key_id) == 0


def test_without_a_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path / "none.toml", "list") == 2
    assert "`upeti init` makes one" in capsys.readouterr().err
    (tmp_path / "bad.toml").write_text("data_dir = 5\n")
    assert run(tmp_path / "bad.toml", "list") == 2
    assert "data_dir is no text" in capsys.readouterr().err
