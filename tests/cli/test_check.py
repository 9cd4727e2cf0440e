"""`upeti check`: OK, warnings, or all that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.postgres import Postgres
from upeti.cli.main import main
from upeti.control.database import is_there
from upeti.control.keys import KeyRow
from upeti.control.ports import free_port
from upeti.control.store import Store

CONFIG = """\
data_dir = "data"
[[channel]]
name = "openai"
kind = "openai_compatible"
api_key = "env:UPETI_TEST_NONE"
[[route]]
name = "gpt-4.1"
candidate = [{ channel = "openai", model = "gpt-4.1" }]
[[key]]
id = "k1"
tenant = "acme"
sha256 = "0000000000000000000000000000000000000000000000000000000000000000"
"""


def check(path: Path, text: str) -> int:
    path.write_text(text)
    with pytest.raises(SystemExit) as ended:
        main(["check", "--config", str(path)])
    return int(ended.value.code or 0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "upeti.toml"


def test_ok_with_a_warning_for_what_this_shell_lacks(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(path, CONFIG) == 0
    printed = capsys.readouterr()
    assert printed.out == f"OK: {path}: 1 channel, 1 route, 1 key\n"
    assert printed.err == (
        f"warning: {path}:5: channel `openai`: the environment variable UPETI_TEST_NONE is not set; "
        "set it where Upeti is started\n"
    )
    assert not (path.parent / "data").exists()


def test_ok_without_warning(path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPETI_TEST_NONE", "x")
    assert check(path, CONFIG) == 0
    assert capsys.readouterr().err == ""


def test_all_that_is_wrong(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = CONFIG.replace('channel = "openai", model', 'channel = "opena", model').replace('000"', '00"')
    assert check(path, text.replace("data_dir", "data_dri")) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines() == [
        f"upeti: {path}:1: unknown field `data_dri`; did you mean `data_dir`?",
        f"{path}:12: key[0].sha256: this text does not have the right form; "
        "write 64 lower-case hex digits: `printf %s KEY | sha256sum`",
    ]
    assert check(path, text.replace('00"', '000"')) == 2
    assert capsys.readouterr().err == (
        f"upeti: {path}:8: route `gpt-4.1`: there is no channel `opena`; did you mean `openai`?\n"
    )


def test_a_model_without_a_price_is_a_warning(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(path, CONFIG.replace('model = "gpt-4.1"', 'model = "gpt-new"')) == 0
    assert (
        f"{path}:8: `gpt-new` of channel `openai` has no price in the part `openai` of the price book: its calls "
        "are refused; add a row in a file of `[money] price_files`"
    ) in capsys.readouterr().err


def test_a_broken_price_file(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prices = path.parent / "prices.toml"
    prices.write_text("part = 'x'\n[[price]]\n")
    assert check(path, CONFIG + "[money]\nprice_files = ['prices.toml']\n") == 2
    assert f"upeti: {prices}" in capsys.readouterr().err


def test_a_broken_tenants_file(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tenants = path.parent / "tenants.toml"
    tenants.write_text("[[tenant]]\n")
    assert check(path, CONFIG + "[money]\ntenants_file = 'tenants.toml'\n") == 2
    assert f"upeti: {tenants}:1: row 1: " in capsys.readouterr().err


def test_keys_of_the_state_count(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path.write_text(CONFIG)
    with pytest.raises(SystemExit):
        main(["keys", "create", "--tenant", "acme", "--config", str(path)])
    capsys.readouterr()
    assert check(path, CONFIG) == 0
    assert "2 keys" in capsys.readouterr().out


def test_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(["check"])
    assert capsys.readouterr().err == "upeti: upeti.toml: there is no such file; `upeti init` makes one\n"


def test_the_keys_of_postgresql_are_looked_at_and_nothing_is_made(
    path: Path, postgres: Postgres, capsys: pytest.CaptureFixture[str]
) -> None:
    url = postgres.new_database()
    text = CONFIG + f'[state]\nurl = "{url}"\n'
    assert check(path, text) == 0
    assert "1 key\n" in capsys.readouterr().out
    assert not is_there(path.parent / "data", url)
    Store(path.parent / "data", url=url).add_key(KeyRow("k2", "1" * 64, "acme"))
    assert check(path, text) == 0
    assert "2 keys\n" in capsys.readouterr().out


def test_a_database_that_is_away_is_a_warning(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(path, CONFIG + f'[state]\nurl = "postgresql://upeti@127.0.0.1:{free_port()}/upeti"\n') == 0
    assert "cannot be reached" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ('url = "mysql://db/upeti"', "this is no address of a PostgreSQL database; write it like postgresql://"),
        ('url = "postgresql://db"', "this is no address of a PostgreSQL database"),
        ('url = "postgresql://u:planted@db/upeti"', 'state.url holds a password; write it as password = "env:NAME"'),
        ('password = "env:PW"', "`password` without `url`"),
        ('url = "postgresql://db/upeti"\npassword = "stored:pw"', "a stored secret is in the state that it would open"),
        ('url = "postgresql://db/upeti"\npassword = "planted"', "never the password itself"),
    ],
)
def test_what_is_wrong_with_the_state(path: Path, capsys: pytest.CaptureFixture[str], lines: str, told: str) -> None:
    assert check(path, CONFIG + f"[state]\n{lines}\n") == 2
    printed = capsys.readouterr().err
    assert told in printed
    assert "planted" not in printed
