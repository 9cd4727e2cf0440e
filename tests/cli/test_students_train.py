"""`upeti students train` says what it needs before it does anything."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support.keeper_side import until
from support.learn_side import CONFIG as WATCHED
from support.learn_side import learned
from upeti.cli.main import main
from upeti.control import students

CONFIG = 'data_dir = "data"\n'
OWN = CONFIG + '[[channel]]\nname = "own"\nkind = "student"\n'


@pytest.mark.parametrize(
    ("text", "given", "said"),
    [
        (CONFIG, [], 'write `[[channel]]`, `name = "own"`, `kind = "student"` into the configuration'),
        (OWN, ["--channel", "openai"], "`openai` is no channel of kind `student`; there are: own"),
        (OWN, ["--level", "l9"], "--level l9: there are auto, l1, l2"),
        (OWN, ["--out", "."], "choose another --out"),
        (OWN, [], "`intents` is no declared task: `upeti tasks list` shows what is asked"),
    ],
)
def test_what_is_wrong_is_said_with_its_cure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, given: list[str], said: str
) -> None:
    (tmp_path / "upeti.toml").write_text(text)
    who = ["--by", "head of support", "--why", "asked all day"]
    with pytest.raises(SystemExit) as ended:
        main(["students", "train", "intents", *who, *given, "--config", str(tmp_path / "upeti.toml")])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_ctrl_c_ends_it_at_once_and_leaves_no_student(tmp_path: Path) -> None:
    (tmp_path / "upeti.toml").write_text(WATCHED)
    side = learned(tmp_path)
    command = [sys.executable, "-m", "upeti.cli.main", "students", "train", "intents", "--level", "l1"]
    who = ["--by", "head of support", "--why", "asked all day"]
    process = subprocess.Popen(
        [*command, *who],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )

    def working() -> list[int]:
        return [pid for pid in children_of(process.pid) if b"learn_job" in Path(f"/proc/{pid}/cmdline").read_bytes()]

    until(working, seconds=60, what="the job")
    (job,) = working()
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert "Traceback" not in errors, errors
    until(lambda: not Path(f"/proc/{job}").exists(), seconds=20, what="the job's end")
    assert students.all_students(side.store) == []


def test_what_was_made_is_said_and_copied(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "upeti.toml").write_text(WATCHED.replace(', { channel = "sim" }', "").replace("intents", "others"))
    learned(tmp_path, 120)
    who = ["--by", "head of support", "--why", "asked all day", "--level", "l1", "--out", str(tmp_path / "copy")]
    with pytest.raises(SystemExit) as ended:
        main(["students", "train", "intents", *who, "--config", str(tmp_path / "upeti.toml")])
    said = capsys.readouterr()
    assert not ended.value.code, said.err
    for part in (
        "intents@1 is registered; it will be served as own/intents.",
        "It agrees with its teacher on ",
        'Missing: no route names it yet: put { channel = "own", model = "intents" } before the teacher in its route.',
        "Next: upeti students certify intents@1",
    ):
        assert part in said.out
    assert (tmp_path / "copy" / "card.md").read_text().startswith("# intents@1")


def children_of(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(one) for one in path.read_text().split()] if path.exists() else []
