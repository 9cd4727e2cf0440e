"""The impression log: what was appended is there, once, whatever is killed or turned into Parquet meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from upeti.feed.impressions import Impression, ImpressionError, ImpressionLog, days

DAY_NS = 86_400 * 10**9


def row(number: int, **changes: object) -> Impression:
    values: dict[str, object] = {
        "impression_id": f"i{number}",
        "request_id": f"r{number // 10}",
        "at_ns": number,
        "user": f"u{number % 3}",
        "item": f"film {number}",
        "rank": number % 10,
        "sources": ("popular", "als"),
        "arm": "paid",
        "experiment": "one",
        "propensity": 0.5,
        "score": 1.25,
        "features": {"popularity": 3.0},
        "enrichment_version": "v1",
        "context": {"surface": "home"},
    }
    return Impression(**{**values, **changes})  # type: ignore[arg-type]


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    log = ImpressionLog(tmp_path)
    rows = [row(number) for number in range(30)]
    log.append(rows[:10])
    log.append([])
    log.append(rows[10:])
    assert log.read() == rows  # from the segment that is being written
    log.roll()
    assert log.project() == 1
    assert log.read() == rows  # from Parquet
    assert log.read(5, 8) == rows[5:8]
    assert log.read(experiment="other") == []


def test_a_segment_under_a_living_writer_is_not_projected(tmp_path: Path) -> None:
    writer, reader = ImpressionLog(tmp_path), ImpressionLog(tmp_path)
    writer.append([row(1)])
    assert reader.project() == 0
    writer.append([row(2)])
    assert reader.read() == [row(1), row(2)]


def test_a_projector_killed_between_its_two_steps_counts_nothing_twice(tmp_path: Path) -> None:
    log = ImpressionLog(tmp_path)
    log.append([row(1)])
    log.roll()
    (segment,) = (tmp_path / "impressions").glob("*.upi")
    kept = segment.read_bytes()
    log.project()
    segment.write_bytes(kept)  # as if it had not come to removing it
    assert log.read() == [row(1)]
    assert log.project() == 1
    assert log.read() == [row(1)]


def test_nothing_acknowledged_is_lost_when_the_writer_is_killed(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from feed_rows import row\n"
        "from upeti.feed.impressions import ImpressionLog\n"
        "log = ImpressionLog(Path(sys.argv[1]))\n"
        "for number in range(10**6):\n"
        "    log.append([row(number), row(number + 10**7)]); print(number, flush=True)\n"
    )
    (tmp_path / "feed_rows.py").write_text(Path(__file__).read_text())
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        while int(process.stdout.readline()) < 200:
            pass
        process.send_signal(signal.SIGKILL)
        acknowledged = int((process.stdout.read().split() or ["200"])[-1])
    (segment,) = (tmp_path / "impressions").glob("*.upi")
    with segment.open("ab") as file:
        file.write(segment.read_bytes()[:37])  # and a block that it was killed in
    log = ImpressionLog(tmp_path)
    assert log.project() == 1
    numbers = [int(one.impression_id[1:]) for one in log.read()]
    assert len(numbers) == len(set(numbers))
    assert set(range(acknowledged + 1)) <= set(numbers)


def test_a_user_is_erased_everywhere(tmp_path: Path) -> None:
    log = ImpressionLog(tmp_path)
    log.append([row(number) for number in range(9)])
    log.roll()
    log.project()
    log.append([row(number) for number in range(9, 12)])
    assert log.erase("u1") == 4
    assert {one.user for one in log.read()} == {"u0", "u2"}
    assert not any(b"u1" in path.read_bytes() for path in tmp_path.rglob("*.upi"))


def test_a_user_is_not_erased_under_another_writer(tmp_path: Path) -> None:
    other, log = ImpressionLog(tmp_path), ImpressionLog(tmp_path)
    other.append([row(1)])
    with pytest.raises(ImpressionError, match="another process"):
        log.erase("u1")


@pytest.mark.parametrize(
    "changes",
    [{"propensity": 0.0}, {"propensity": float("nan")}, {"propensity": 1.5}, {"rank": -1}, {"user": ""}, {"item": ""}],
)
def test_rows_that_would_spoil_an_estimate_are_refused_all_together(tmp_path: Path, changes: dict[str, object]) -> None:
    log = ImpressionLog(tmp_path)
    with pytest.raises(ImpressionError):
        log.append([row(1), row(2, **changes)])
    assert log.read() == []


def test_a_feature_that_is_no_number_is_unknown(tmp_path: Path) -> None:
    log = ImpressionLog(tmp_path)
    log.append([row(1, features={"a": float("nan"), "b": 2.0, "c": float("inf")}, score=float("nan"))])
    (found,) = log.read()
    assert found.features == {"b": 2.0}
    assert found.score == 0.0


def test_days_are_those_of_utc() -> None:
    rows = [row(1, at_ns=5), row(2, at_ns=DAY_NS - 1), row(3, at_ns=DAY_NS), row(4, at_ns=4 * DAY_NS)]
    assert [(day, len(of_day)) for day, of_day in days(rows)] == [(0, 2), (1, 1), (4, 1)]
    assert list(days([])) == []
