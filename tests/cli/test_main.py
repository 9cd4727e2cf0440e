"""`upeti` itself: the list of commands, fast starts, errors with their cure."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest
import typer

from upeti import __version__
from upeti.cli.main import COMMANDS, build, main
from upeti.core.errors import UpetiError


def exit_code(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return int(ended.value.code or 0)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_says_what_the_command_says(name: str) -> None:
    command = COMMANDS[name]
    found = getattr(import_module(command.module), command.attribute)
    text = found.info.help if isinstance(found, typer.Typer) else found.__doc__
    assert text.strip().splitlines()[0] == command.summary


def test_every_command_is_there_with_its_options() -> None:
    whole = typer.main.get_command(build(None))
    for name in COMMANDS:
        one = typer.main.get_command(build(name)).commands[name]  # type: ignore[attr-defined]
        assert [each.name for each in one.params] == [each.name for each in whole.commands[name].params]  # type: ignore[attr-defined]


def test_help_imports_no_command() -> None:
    """What `upeti --help` costs is Typer alone: no Rich, no database, no configuration."""
    program = (
        "import sys\nfrom upeti.cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'rich', 'sqlalchemy', 'duckdb', 'fastapi', 'msgspec', 'cryptography', 'babel'}\n"
        "print('loaded:', *sorted(heavy & set(sys.modules)))\n"
    )
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert all(f"\n  {name} " in printed for name in COMMANDS)
    assert printed.splitlines()[-1].strip() == "loaded:"


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("--version") == 0
    assert capsys.readouterr().out == f"upeti {__version__}\n"


def test_a_mistyped_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("serv") == 2
    assert "Did you mean 'serve'?" in capsys.readouterr().err


def test_errors_of_ours_are_one_message(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise UpetiError("what; cure")

    monkeypatch.setattr("upeti.cli.check.check", fail)
    assert exit_code("check") == 2
    assert capsys.readouterr().err == "upeti: what; cure\n"


def test_a_reader_that_leaves_is_no_error() -> None:
    """`upeti --help | head -1`"""
    process = subprocess.Popen(
        [sys.executable, "-m", "upeti.cli.main", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.close()
    _, errors = process.communicate(timeout=20)
    assert b"Traceback" not in errors
