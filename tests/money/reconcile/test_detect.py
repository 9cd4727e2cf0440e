"""Which shape a file is, by its content alone."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path

import pytest

from upeti.money.reconcile.detect import open_report, sha256_of
from upeti.money.reconcile.lines import ReportError

FIXTURES = Path(__file__).parents[2] / "fixtures" / "reconcile"


def test_names_are_nothing(tmp_path: Path) -> None:
    for source, provider in (
        ("azure_ea.csv", "azure"),
        ("openai_costs_total.json", "openai"),
        ("anthropic_cost_report.json", "anthropic"),
    ):
        (tmp_path / "download").write_bytes((FIXTURES / source).read_bytes())
        assert open_report([tmp_path / "download"]).provider == provider
        (tmp_path / "download").write_bytes(gzip.compress((FIXTURES / source).read_bytes()))
        assert open_report([tmp_path / "download"]).provider == provider


def test_pages_in_one_file(tmp_path: Path) -> None:
    pages = [json.loads((FIXTURES / f"openai_costs_page_{number}.json").read_text()) for number in (1, 2)]
    (tmp_path / "pages.json").write_text(json.dumps(pages))
    assert len(list(open_report([tmp_path / "pages.json"]).lines)) == 6


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "columns .none. are not those"),
        (b"a,b\n1,2\n", "columns .a, b. are not those of a report that is known: Azure"),
        (b"{}", "not that of a report that is known"),
        (b"[]", "not that of a report that is known"),
        (b"{", "not JSON"),
        (b"\xff\xfe\x00a", "not a text file in UTF-8"),
    ],
)
def test_what_is_no_report_is_an_error(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ReportError, match=says):
        open_report([tmp_path / "file"])


def test_what_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="cannot be read"):
        open_report([tmp_path / "none"])
    with pytest.raises(ReportError, match="cannot be read"):
        sha256_of([tmp_path / "none"])


def test_files_of_two_providers_are_no_report() -> None:
    for one, other in (
        ("azure_ea.csv", "openai_costs_total.json"),
        ("openai_costs_total.json", "anthropic_cost_report.json"),
        ("azure_ea.csv", "azure_focus_1_0.csv"),
    ):
        with pytest.raises(ReportError, match="not parts of one report"):
            open_report([FIXTURES / one, FIXTURES / other])


def test_the_digest_is_that_of_the_file() -> None:
    path = FIXTURES / "azure_ea.csv"
    assert sha256_of([path]) == hashlib.sha256(path.read_bytes()).hexdigest()
    pages = [FIXTURES / f"openai_costs_page_{number}.json" for number in (1, 2)]
    assert sha256_of(pages) == sha256_of(pages[::-1]) != sha256_of(pages[:1])
