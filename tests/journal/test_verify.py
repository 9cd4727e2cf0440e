from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.journal_files import START_NS, JournalFiles, corrected, opened, refused, settled
from upeti.core.events import AttemptRecovered, Outcome, SegmentClosed
from upeti.journal.verify import FINDINGS_LISTED_MAX, Verification, verify


def recovery(call: int, instance: str = "w0-0001", **changes: object) -> AttemptRecovered:
    one = opened(call, **changes)
    return AttemptRecovered(instance, one, START_NS, one.bound_pico)


def kinds(result: Verification) -> list[str]:
    return [finding.kind for finding in result.findings]


def three_segments(data_dir: Path) -> JournalFiles:
    files = JournalFiles(data_dir)
    for call in range(3):
        files.append(opened(call))
    files.append(settled(0), refused(7))
    files.rotate()
    files.append(settled(1))
    files.rotate()
    files.append(settled(2), opened(3))
    files.append(settled(3))
    files.close()
    return files


def test_a_sound_journal(tmp_path: Path) -> None:
    files = three_segments(tmp_path)
    JournalFiles(tmp_path, "w1-0001").append(opened(1), opened(2))
    JournalFiles(tmp_path, "keeper-0001").append(recovery(2, "w1-0001"))
    result = verify(tmp_path)
    assert result.sound
    assert result.findings == []
    keeper, first, second = result.instances
    assert (first.segments, first.opened, first.settled, first.refused, first.open) == (3, 4, 4, 1, 0)
    assert first.ended
    assert first.digest == files.digest.hex()
    assert (second.opened, second.settled, second.recovered, second.open) == (2, 0, 1, 1)
    assert not second.ended
    assert keeper.instance == "keeper-0001"


def test_no_journal_is_sound(tmp_path: Path) -> None:
    assert verify(tmp_path).sound


@given(st.integers(0, 2), st.floats(0, 1, exclude_max=True), st.integers(1, 255))
@settings(max_examples=150, deadline=None)
def test_a_changed_byte_anywhere_is_found(
    tmp_path_factory: pytest.TempPathFactory, segment: int, place: float, mask: int
) -> None:
    data_dir = tmp_path_factory.mktemp("flip")
    files = three_segments(data_dir)
    path = files.directory / f"{segment:08d}.upj"
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] ^= mask
    path.write_bytes(data)
    assert not verify(data_dir).sound


def test_the_last_segment_truncated_at_any_byte_is_torn_and_no_damage(tmp_path: Path) -> None:
    files = three_segments(tmp_path)
    data = files.path.read_bytes()
    for size in range(len(data)):
        files.path.write_bytes(data[:size])
        result = verify(tmp_path)
        assert result.sound, (size, result.findings)
        assert result.instances[0].bytes + result.instances[0].torn_bytes >= size


def test_an_earlier_segment_truncated_at_any_byte_is_damage(tmp_path: Path) -> None:
    files = three_segments(tmp_path)
    path = files.directory / "00000001.upj"
    data = path.read_bytes()
    for size in range(len(data)):
        path.write_bytes(data[:size])
        assert not verify(tmp_path).sound, size


def test_a_missing_segment_is_found(tmp_path: Path) -> None:
    files = three_segments(tmp_path)
    (files.directory / "00000001.upj").unlink()
    assert kinds(verify(tmp_path)) == ["missing segment"]


def test_a_missing_last_segment_is_noticed(tmp_path: Path) -> None:
    files = three_segments(tmp_path)
    files.path.unlink()
    result = verify(tmp_path)
    assert kinds(result) == ["no next segment"]
    assert result.sound  # it looks the same when the process was killed while it rotated


def test_a_foreign_file_is_found(tmp_path: Path) -> None:
    files = JournalFiles(tmp_path)
    (files.directory / "notes.upj").touch()
    assert kinds(verify(tmp_path)) == ["foreign file"]


def test_a_segment_of_another_place_is_found(tmp_path: Path) -> None:
    files = JournalFiles(tmp_path)
    files.directory.rename(files.directory.with_name("w9-0001"))
    assert kinds(verify(tmp_path)) == ["wrong place"]


Write = Callable[[JournalFiles], None]


def _carried_differs(files: JournalFiles) -> None:
    files.append(opened(1), SegmentClosed(START_NS, False))
    files.open.clear()
    files.begin()


def _not_closed(files: JournalFiles) -> None:
    files.append(opened(1))
    files.begin()


def _second_beginning(files: JournalFiles) -> None:
    files.number -= 1
    files.begin()


RULES: list[tuple[str, bool, Write]] = [
    ("settled twice", True, lambda files: files.append(opened(1), settled(1), settled(1))),
    ("opened twice", True, lambda files: files.append(opened(1), settled(1), opened(1))),
    ("opened twice", True, lambda files: files.append(opened(1, 77), opened(1, 77))),
    ("never opened", True, lambda files: files.append(settled(1))),
    (
        "never opened",
        False,
        lambda files: files.append(settled(1, outcome=Outcome.VOIDED, cost_pico=0)),
    ),
    ("above bound", False, lambda files: files.append(opened(1), settled(1, cost_pico=5_000_001))),
    ("cost of nothing", True, lambda files: files.append(opened(1), settled(1, outcome=Outcome.VOIDED))),
    ("cost of nothing", True, lambda files: files.append(opened(1), settled(1, outcome=Outcome.UNPRICED))),
    ("after the end", True, lambda files: files.append(SegmentClosed(START_NS, True), refused(1))),
    ("open at the end", False, lambda files: files.append(opened(1), SegmentClosed(START_NS, True))),
    (
        "newer version",
        True,
        lambda files: files.append(SegmentClosed(START_NS, False)) or files.begin(version=2),
    ),
    ("carried differs", True, _carried_differs),
    ("not closed", True, _not_closed),
    ("no beginning", True, _second_beginning),
]


@pytest.mark.parametrize(("kind", "damage", "write"), RULES, ids=[f"{rule[0]}" for rule in RULES])
def test_a_broken_rule_is_named(tmp_path: Path, kind: str, damage: bool, write: Write) -> None:
    write(JournalFiles(tmp_path))
    result = verify(tmp_path)
    assert kinds(result) == [kind]
    assert result.sound is not damage


def test_a_cost_at_its_bound_and_one_without_a_price_are_no_finding(tmp_path: Path) -> None:
    files = JournalFiles(tmp_path)
    files.append(opened(1), settled(1, cost_pico=5_000_000))
    files.append(opened(2, priced=False, bound_pico=0), settled(2, outcome=Outcome.UNPRICED, cost_pico=0))
    assert verify(tmp_path).findings == []


@pytest.mark.parametrize(
    ("kind", "recovered"),
    [
        ("settled and recovered", [recovery(1)]),
        ("recovered twice", [recovery(2), recovery(2)]),
        ("never opened", [recovery(8)]),
        ("recovered differs", [recovery(2, tenant="other")]),
        ("missing instance", [recovery(1, "w7-0001")]),
    ],
)
def test_a_wrong_recovery_is_named(tmp_path: Path, kind: str, recovered: list[AttemptRecovered]) -> None:
    JournalFiles(tmp_path).append(opened(1), opened(2), settled(1))
    JournalFiles(tmp_path, "keeper-0001").append(*recovered)
    result = verify(tmp_path)
    assert kinds(result) == [kind]
    assert not result.sound


def test_a_recovery_above_its_bound_is_a_notice(tmp_path: Path) -> None:
    JournalFiles(tmp_path).append(opened(1, bound_pico=5))
    record = AttemptRecovered("w0-0001", opened(1, bound_pico=5), START_NS, 6)
    JournalFiles(tmp_path, "keeper-0001").append(record)
    result = verify(tmp_path)
    assert kinds(result) == ["above bound"]
    assert result.sound


def test_findings_are_all_counted_and_not_all_listed(tmp_path: Path) -> None:
    count = FINDINGS_LISTED_MAX + 5
    JournalFiles(tmp_path).append(*(settled(call) for call in range(count)))
    result = verify(tmp_path)
    assert len(result.findings) == FINDINGS_LISTED_MAX
    assert result.counts == {"never opened": count}


def test_corrections_follow_from_what_was_owed(tmp_path: Path) -> None:
    JournalFiles(tmp_path).append(opened(1), settled(1, cost_pico=10))
    JournalFiles(tmp_path, "w1-0001").append(opened(2))
    keeper = JournalFiles(tmp_path, "keeper-0001")
    keeper.append(recovery(2, "w1-0001"), corrected(2, was="0.000005", now="0"))
    keeper.append(corrected(1, correction_id="later", at_ns=START_NS + 9, was="0.000000000007", now="0"))
    keeper.append(corrected(1, at_ns=START_NS + 8, was="0.00000000001", now="0.000000000007"))
    assert verify(tmp_path).findings == []


def test_corrections_that_fit_nothing_are_named(tmp_path: Path) -> None:
    JournalFiles(tmp_path).append(opened(1), settled(1, cost_pico=10))
    JournalFiles(tmp_path, "keeper-0001").append(corrected(1, was="0.00000000001"), corrected(2))
    JournalFiles(tmp_path, "keeper-0002").append(corrected(1, was="0.00000000001", attempt_id=""))
    JournalFiles(tmp_path, "keeper-0003").append(corrected(1, correction_id="x", was="1"))
    result = verify(tmp_path)
    assert sorted(kinds(result)) == ["corrected twice", "corrects nothing", "was differs"]
    assert [one.instance for one in result.findings if one.damage] == ["keeper-0002"]
