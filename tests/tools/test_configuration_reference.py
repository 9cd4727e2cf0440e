"""docs/configuration.md is what core/config.py says, setting by setting."""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import msgspec
import pytest

TOOL = Path(__file__).parents[2] / "tools" / "configuration_reference.py"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = spec_from_file_location("configuration_reference", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(tool: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["configuration_reference.py", *arguments])
    return int(tool.main())


def test_the_page_is_up_to_date(tool: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(tool, monkeypatch, "--check") == 0, "run `make docs`"


def test_every_setting_is_on_it(tool: ModuleType) -> None:
    page = tool.REFERENCE.read_text()
    for table, kind in tool.SECTIONS:
        section = page.partition(f"\n## `{table}`\n" if table else "\n## At the top\n")[2].partition("\n## ")[0]
        for field in msgspec.structs.fields(kind):
            assert tool._is_table(field.type) or f"| `{field.encode_name}` |" in section, (table, field.encode_name)


def test_a_page_that_is_behind_is_noticed_and_written_anew(
    tool: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "configuration.md"
    monkeypatch.setattr(tool, "REFERENCE", page)
    assert run(tool, monkeypatch, "--check") == 1
    page.write_text(tool.reference().replace("8080", "9090"))
    assert run(tool, monkeypatch, "--check") == 1
    assert "run `make docs`" in capsys.readouterr().err
    assert run(tool, monkeypatch) == 0
    assert page.read_text() == tool.reference()
