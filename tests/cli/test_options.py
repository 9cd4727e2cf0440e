from __future__ import annotations

from pathlib import Path

import pytest

from upeti.cli.options import data_dir_of, rates_file_of
from upeti.core.errors import ConfigError


def test_the_data_directory_is_relative_to_the_configuration(tmp_path: Path) -> None:
    config = tmp_path / "etc" / "upeti.toml"
    (tmp_path / "etc").mkdir()
    (tmp_path / "data").mkdir()
    config.write_text('data_dir = "../data"\n[money]\nrates_file = "rates.toml"\n')
    assert data_dir_of(config, None).resolve() == tmp_path / "data"
    assert rates_file_of(config) == tmp_path / "etc" / "rates.toml"


def test_an_absolute_data_directory_stays(tmp_path: Path) -> None:
    config = tmp_path / "upeti.toml"
    config.write_text(f'data_dir = "{tmp_path}"')
    assert data_dir_of(config, None) == tmp_path


def test_without_a_name_it_is_the_documented_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert rates_file_of(None) is None
    (tmp_path / "upeti.toml").write_text("")
    (tmp_path / "upeti-data").mkdir()
    assert data_dir_of(None, None) == Path("upeti-data")
    assert rates_file_of(None) is None


def test_a_directory_given_needs_no_configuration(tmp_path: Path) -> None:
    assert data_dir_of(tmp_path / "no.toml", tmp_path) == tmp_path


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "there is no .*upeti.toml.*--data-dir"),
        ("data_dir = ", "upeti check"),
        ("data_dir = 5", "data_dir must be a text"),
        ('data_dir = "gone"', "upeti serve"),
    ],
)
def test_what_cannot_be_used_is_named_with_its_cure(tmp_path: Path, content: str | None, says: str) -> None:
    config = tmp_path / "upeti.toml"
    if content is not None:
        config.write_text(content)
    with pytest.raises(ConfigError, match=says):
        data_dir_of(config, None)


def test_a_file_is_no_data_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="not a directory"):
        data_dir_of(None, tmp_path / "file")
