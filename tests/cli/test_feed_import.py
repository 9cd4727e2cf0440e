"""`upeti feed import`: from files of one's own, as somebody at a terminal uses it."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from upeti.cli.main import main


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "upeti.toml"
    path.write_text('data_dir = "data"\n')
    return path


def test_csv_and_parquet_are_imported_and_counted(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    items, clicks = config.parent / "items.csv", config.parent / "clicks.parquet"
    items.write_text("item,title\na,Alpha\nb,Beta\n")
    pq.write_table(pa.table({"user": ["ana", "bo"], "item": ["a", "a"]}), clicks)
    assert run("feed", "import", "csv", "--tenant", "t", "--items", str(items), "--config", str(config)) == 0
    assert "2 items and 0 new of 0 rows of feedback for t" in capsys.readouterr().out
    for new in (2, 0):
        given = ("--tenant", "t", "--feedback", str(clicks), "--json", "--config", str(config))
        assert run("feed", "import", "parquet", *given) == 0
        done = json.loads(capsys.readouterr().out)
        assert (done["feedback"], done["feedback_rows"], done["left_out"]) == (new, 2, [])


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_without_a_file_nothing_is_pretended(config: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("feed", "import", kind, "--tenant", "t", "--config", str(config)) == 2
    assert "--items" in capsys.readouterr().err


def test_bad_rows_are_left_out_when_asked_and_named(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clicks = config.parent / "clicks.csv"
    clicks.write_text("user,item,value\nana,a,1\nbo,a/b,1\n,a,1\ncy,a,nan\n")
    given = ("feed", "import", "csv", "--tenant", "t", "--feedback", str(clicks), "--config", str(config))
    assert run(*given) == 2
    capsys.readouterr()
    assert run(*given, "--skip-bad") == 0
    shown = capsys.readouterr()
    assert "1 new of 1 rows" in shown.out
    assert shown.err.count("left out:") == 3
