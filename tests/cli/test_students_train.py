"""`upeti students train` says what it needs before it does anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from upeti.cli.main import main

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
