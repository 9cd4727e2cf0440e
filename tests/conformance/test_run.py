from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[2] / "conformance"


@pytest.fixture(scope="module")
def run() -> ModuleType:
    spec = importlib.util.spec_from_file_location("conformance_run", FOLDER / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(FOLDER))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(FOLDER))
    return module


def test_outcomes_are_read_from_pytests_report(run: ModuleType, tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    report.write_text("""<testsuites><testsuite>
        <testcase classname="tests.api_resources.chat.test_a.TestA" name="good[loose]"/>
        <testcase classname="tests.api_resources.chat.test_a.TestA" name="bad"><failure>x</failure></testcase>
        <testcase classname="tests.api_resources.chat.test_a.TestA" name="bad"><error>teardown</error></testcase>
        <testcase classname="tests.api_resources.chat.test_a.TestA" name="left"><skipped/></testcase>
        </testsuite></testsuites>""")
    assert run.read_report(report) == {
        "chat.test_a.TestA::good[loose]": "passed",
        "chat.test_a.TestA::bad": "failed",
        "chat.test_a.TestA::left": "skipped",
    }


def test_only_what_the_gateway_adds_counts_against_it(run: ModuleType) -> None:
    direct = {"a": "passed", "b": "failed", "c": "skipped", "d": "passed", "e": "failed"}
    through = {"a": "failed", "b": "failed", "c": "skipped", "e": "passed"}
    worse, better = run.compare(direct, through)
    assert worse == ["a", "d"]  # d did not run at all
    assert better == ["e"]
    assert run.compare(direct, direct) == ([], [])


def test_the_table_counts_by_file(run: ModuleType) -> None:
    direct = {"chat.test_a.TestA::x": "passed", "chat.test_a.TestB::y": "failed", "test_b.TestC::z": "skipped"}
    lines = run.table(direct, {**direct, "chat.test_a.TestA::x": "failed"}).splitlines()
    assert [line.split() for line in lines[2:]] == [
        ["chat.test_a", "2", "1", "2", "0"],
        ["test_b", "1", "0", "0", "1"],
        ["all", "3", "1", "2", "1"],
    ]
