"""`upeti certificate`: an auditor with two files and a public key computes it all again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.certify_side import certificate_of, population
from upeti.cli.main import main
from upeti.control.signing import pem_of, public_keys, rotate, sign
from upeti.learning.calibration import encode
from upeti.learning.certificate import PAYLOAD_TYPE, payload
from upeti.learning.target import Kind

ROWS = population(5, 600, wrong=0.05)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    certificate = certificate_of(ROWS, Kind.CLASS)
    (tmp_path / "certificate.json").write_bytes(sign(tmp_path / "data", PAYLOAD_TYPE, payload(certificate)))
    (tmp_path / "rows.jsonl").write_bytes(encode(ROWS))
    (tmp_path / "key.pem").write_text(pem_of(public_keys(tmp_path / "data")[-1]))
    return tmp_path


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["certificate", *arguments])
    return int(ended.value.code or 0)


def verify(files: Path, *more: str, key: str = "key.pem") -> int:
    names = [str(files / "certificate.json"), "--rows", str(files / "rows.jsonl"), "--key", str(files / key)]
    return run("verify", *names, *more)


def test_what_fits_is_said_to_fit(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify(files) == 0
    assert "its 600 rows give all that it states" in capsys.readouterr().out
    assert verify(files, "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"sound": True, "wrong": []}


def test_the_keys_of_the_installation_do_too(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (files / "upeti.toml").write_text('data_dir = "data"\n')
    names = [str(files / "certificate.json"), "--rows", str(files / "rows.jsonl")]
    assert run("verify", *names, "--config", str(files / "upeti.toml")) == 0


def test_a_changed_row_is_exit_status_one_with_what_differs(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = files / "rows.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"teacher":["yes"]', b'"teacher":["no"]', 1))
    assert verify(files) == 1
    assert "the rows are not those certified" in capsys.readouterr().err
    assert verify(files, "--json") == 1
    assert json.loads(capsys.readouterr().out)["sound"] is False
    path.write_bytes(b"no rows\n")
    assert verify(files) == 1
    assert "line 1 is no calibration row" in capsys.readouterr().err


def test_another_signer_is_not_believed(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (files / "other.pem").write_text(pem_of(rotate(files)))
    assert verify(files, key="other.pem") == 1
    assert "signature: it was signed by" in capsys.readouterr().err


def test_a_file_that_is_not_there_is_an_error_with_its_cure(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("verify", str(files / "nothing"), "--rows", str(files / "rows.jsonl")) == 2
    assert "correct the path" in capsys.readouterr().err
    assert run("show", str(files / "rows.jsonl")) == 2
    assert "no signed document" in capsys.readouterr().err


def test_it_is_shown_for_people_and_for_programs(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("show", str(files / "certificate.json")) == 0
    shown = capsys.readouterr().out
    assert "On calls like those of its rows" in shown
    assert "gpt-4o at main, answering as gpt-4o-2024-11-20" in shown
    assert "other classes" in shown
    assert "870 of 1,000" in shown
    assert run("show", str(files / "certificate.json"), "--json") == 0
    assert json.loads(capsys.readouterr().out)["schema"] == "upeti.certificate/1"
