"""`upeti feed demo` on a slice of the real data, as somebody at a terminal and a program use it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from support.shared_data import shared_data
from upeti.cli.main import main

DAYS, FILMS = 13, 100
DAY_S = 86_400


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)


@pytest.fixture(scope="module")
def slice_of_films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The last days of MovieTweetings, the films that were rated most in them."""
    whole = shared_data("movietweetings-100k")
    folder = tmp_path_factory.mktemp("films")
    ratings = [line.split("::") for line in (whole / "ratings.dat").read_text("utf-8").splitlines()]
    last_s = max(int(row[3]) for row in ratings)
    ratings = [row for row in ratings if int(row[3]) > last_s - (DAYS + 3) * DAY_S]
    films = {film for film, _ in Counter(row[1] for row in ratings).most_common(FILMS)}
    rows = ["::".join(row) for row in ratings if row[1] in films]
    (folder / "ratings.dat").write_text("\n".join(rows) + "\n", "utf-8")
    named = [
        line for line in (whole / "movies.dat").read_text("utf-8").splitlines() if line.partition("::")[0] in films
    ]
    (folder / "movies.dat").write_text("\n".join(named) + "\n", "utf-8")
    return folder


def test_days_are_ranked_and_the_worth_report_gives_the_verdict(
    slice_of_films: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("feed", "demo", str(slice_of_films), "--days", str(DAYS), "--price", "5", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    first, last = said["days"][0], said["days"][-1]
    assert len(said["days"]) == DAYS
    assert (first["ranked"], first["by_arm"]) == (None, {})
    assert 0 < last["ranked"] < 1
    assert set(last["by_arm"]) == {"free", "enriched"}
    assert said["days"][2]["events"] < last["events"] == said["events"]
    assert said["feeds"] == sum(one["feeds"] for one in said["days"] if one["ranked"] is not None)
    worth = said["worth"]
    assert worth["spent"]["enrichment_paid"] == {"cost": "500", "versions": FILMS, "unknown": 0}
    assert sum(arm["impressions"] for arm in worth["arms"]) == 10 * said["feeds"]
    assert worth["verdict"] == "stop paying"  # five dollars a film cannot come back


def test_it_prints_the_days_the_rate_and_the_verdict(slice_of_films: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("feed", "demo", str(slice_of_films), "--days", "12", "--price", "0", "--no-embed") == 0
    shown = capsys.readouterr().out
    for text in (
        "popularity",
        "enriched",
        "events played",
        "a second",
        "UNDECIDED",
        "three-day popularity",
        "λ·ΔE − ΔC",
    ):
        assert text in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--days", "5"), "cannot be replayed"),
        (("--days", "170"), "cannot be replayed"),
        (("--price", "cheap"), "cheap"),
        (("--event-value", "0"), "over 0"),
    ],
)
def test_what_cannot_be_is_said_with_the_cure(
    slice_of_films: Path, arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("feed", "demo", str(slice_of_films), "--no-embed", *arguments) == 2
    assert message in capsys.readouterr().err


def test_a_folder_without_the_data_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("feed", "demo", str(tmp_path)) == 2
    assert "name the folder that holds MovieTweetings" in capsys.readouterr().err


def test_ctrl_c_ends_it_without_a_trace(slice_of_films: Path) -> None:
    program = [sys.executable, "-m", "upeti.cli.main", "feed", "demo", str(slice_of_films), "--days", str(DAYS)]
    process = subprocess.Popen(
        program,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"TERM": "dumb", "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    assert process.stdout.readline()  # it has begun
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=30)
    assert process.returncode == 130
    assert b"Traceback" not in told
