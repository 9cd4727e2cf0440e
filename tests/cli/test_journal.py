from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import typer
from typer.testing import CliRunner, Result

from support.journal_files import START_NS, JournalFiles, opened, refused, settled
from upeti.cli.journal import journal_app
from upeti.core.events import AttemptRecovered

app = typer.Typer()
app.add_typer(journal_app, name="journal")


def run(command: str, data_dir: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["journal", command, "--data-dir", str(data_dir), *arguments])


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_sound_journal_is_called_sound(tmp_path: Path) -> None:
    files = JournalFiles(tmp_path)
    files.append(opened(1), settled(1, cost_pico=6_000_000))
    result = run("verify", tmp_path)
    assert result.exit_code == 0
    assert "The journal is sound." in result.stdout
    assert "notice: w0-0001 segment 0: above bound" in result.stdout
    assert "cost 0.000006 USD, its bound was 0.000005" in result.stdout
    report = json.loads(run("verify", tmp_path, "--json").stdout)
    assert report["sound"] is True
    assert report["instances"][0]["digest"] == files.digest.hex()
    assert report["counts"] == {"above bound": 1}


def test_damage_gives_a_status_and_a_place(tmp_path: Path) -> None:
    files = JournalFiles(tmp_path)
    files.append(opened(1), settled(1))
    files.append(opened(2), settled(2))
    data = bytearray(files.path.read_bytes())
    data[130] ^= 1
    files.path.write_bytes(data)
    for arguments in ([], ["--json"]):
        result = run("verify", tmp_path, *arguments)
        assert result.exit_code == 1
        assert "damaged" in result.stdout
        assert "00000000.upj: byte " in result.stdout


def test_no_data_directory_is_an_error(tmp_path: Path) -> None:
    result = run("verify", tmp_path / "gone")
    assert result.exit_code == 2
    assert "not a directory" in result.stderr


def test_tail_prints_the_newest_records_of_all_instances(tmp_path: Path) -> None:
    files = JournalFiles(tmp_path)
    for call in (1, 3, 5):
        files.append(opened(call, feature="é\x1b[0m\x7f"), settled(call))
    JournalFiles(tmp_path, "w1-0001").append(refused(4))
    result = run("tail", tmp_path, "--lines", "3")
    assert result.stdout.isascii()
    assert "\x1b" not in result.stdout
    assert "\x7f" not in result.stdout
    found = lines(result.stdout)
    assert [(one["instance"], one["record"], one["call"]) for one in found] == [
        ("w1-0001", "refused", 4),
        ("w0-0001", "opened", 5),
        ("w0-0001", "settled", 5),
    ]
    assert found[1]["feature"] == "é\x1b[0m\x7f"
    assert found[1]["bound"] == "0.000005"
    assert found[2]["at"] == "2026-11-01T00:00:05.100000000Z"
    assert found[2]["cost"] == "0.000001234567"
    assert run("tail", tmp_path, "--lines", "0").stdout == ""
    only = lines(run("tail", tmp_path, "--instance", "w1-0001").stdout)
    assert [one["record"] for one in only] == ["segment", "refused"]


def test_tail_names_what_is_within_a_record(tmp_path: Path) -> None:
    files = JournalFiles(tmp_path)
    files.append(opened(1))
    files.rotate()
    JournalFiles(tmp_path, "keeper-0001").append(AttemptRecovered("w0-0001", opened(1), START_NS, 7))
    found = lines(run("tail", tmp_path).stdout)
    (recovered,) = [one for one in found if one["record"] == "recovered"]
    assert recovered["opened"]["bound"] == "0.000005"
    assert recovered["cost"] == "0.000000000007"
    (segment,) = [one for one in found if one.get("number") == 1]
    assert [one["call"] for one in segment["carried"]] == [1]


def test_tail_follows_segments_and_new_instances(tmp_path: Path) -> None:
    files = JournalFiles(tmp_path)
    files.append(opened(1))
    program = "from upeti.cli.journal import journal_app; journal_app()"
    command = [sys.executable, "-c", program, "tail", "--follow", "--data-dir", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            begun = [json.loads(process.stdout.readline())["record"] for _ in range(2)]
            files.append(settled(1))
            files.rotate()
            files.append(opened(2))
            went_on = [json.loads(process.stdout.readline())["record"] for _ in range(4)]
            JournalFiles(tmp_path, "w1-0001").append(refused(3))
            other = [json.loads(process.stdout.readline())["record"] for _ in range(2)]
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
    assert begun == ["segment", "opened"]
    assert went_on == ["settled", "closed", "segment", "opened"]
    assert other == ["segment", "refused"]
