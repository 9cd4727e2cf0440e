"""`upeti journal acts`: who decided what, when and why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from upeti.cli.main import main
from upeti.journal.acts import act, record_acts

ACTS = (
    act(1_700_000_000 * 10**9, "head of risk", "rights.granted", "grt_1", "letter", purpose="store"),
    act(1_700_000_001 * 10**9, "Ben", "rights.revoked", "grt_1", "withdrawn\x1b[31m"),
    act(1_700_000_002 * 10**9, "rule:retention", "capture.expired", "pr_1", "older than 30 days"),
)


@pytest.fixture
def acts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    record_acts(tmp_path, *ACTS)

    def one(*arguments: str) -> str:
        with pytest.raises(SystemExit) as ended:
            main(["journal", "acts", "--data-dir", str(tmp_path), *arguments])
        assert not ended.value.code
        return capsys.readouterr().out

    return one


def test_acts_are_printed_oldest_first_with_name_and_reason(acts: Any) -> None:
    text = acts()
    assert text.index("grt_1") < text.index("withdrawn") < text.index("rule:retention")
    assert "2023-11-14T22:13:20+00:00" in text
    assert "\x1b" not in text


@pytest.mark.parametrize(
    ("arguments", "numbers"),
    [
        ((), [0, 1, 2]),
        (("--kind", "rights"), [0, 1]),
        (("--kind", "rights.revoked"), [1]),
        (("--kind", "right"), []),
        (("--subject", "pr_1"), [2]),
        (("--by", "head of risk"), [0]),
    ],
)
def test_acts_are_chosen_by_idea_kind_subject_and_person(
    acts: Any, arguments: tuple[str, ...], numbers: list[int]
) -> None:
    found = json.loads(acts("--json", *arguments))
    assert [one["act_id"] for one in found] == [ACTS[number].act_id for number in numbers]
    if 0 in numbers:
        assert found[0]["detail"] == {"purpose": "store"}
    if not numbers:
        assert acts(*arguments) == "No act fits.\n"
