"""The benchmark of the books runs, and what it compares is equal; its figures are for `make bench`."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import books, machine


@pytest.mark.slow
def test_both_parts_run_and_are_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "BUILD", tmp_path)
    figures = books.run(books.Plan(attempts=2_000, events=20_000))
    assert [each.unit for each in figures] == ["attempts/s", "attempts/s", "MB", "s", "s", "s"]
    assert all(each.figure > 0 for each in figures)


def test_a_difference_is_not_passed_over(tmp_path: Path) -> None:
    books.write_journal(tmp_path, 2)  # and nobody posts it
    with pytest.raises(AssertionError, match="postings 0, usage 0, attempts 2"):
        books._check_sums(tmp_path, 2)
