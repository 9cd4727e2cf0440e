"""The file of calibration rows: one form, one digest, every damage noticed."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.certify_side import row_lists
from upeti.learning import calibration
from upeti.learning.calibration import Row, RowsError


@given(row_lists(), st.randoms(use_true_random=False))
def test_rows_come_back_and_their_order_does_not_matter(rows: list[Row], random) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)
    data = calibration.encode(shuffled)
    assert data == calibration.encode(rows)
    assert sorted(calibration.decode(data), key=lambda row: row.id) == sorted(rows, key=lambda row: row.id)
    assert calibration.digest(rows) == calibration.digest(calibration.decode(data))


@given(row_lists(min_size=1), st.data())
def test_any_changed_row_changes_the_digest(rows: list[Row], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(rows) - 1))
    row = rows[place]
    changed = data.draw(
        st.sampled_from(
            [
                msgspec.structs.replace(row, student=(*row.student, "x")),
                msgspec.structs.replace(row, teacher=("another",)),
                msgspec.structs.replace(row, in_scope=not row.in_scope),
                msgspec.structs.replace(row, confidence=1 - row.confidence if row.confidence != 0.5 else 0.51),
            ]
        )
    )
    assert calibration.digest([*rows[:place], changed, *rows[place + 1 :]]) != calibration.digest(rows)
    assert calibration.digest([*rows[:place], *rows[place + 1 :]]) != calibration.digest(rows)


def test_what_is_no_row_is_named_by_its_line() -> None:
    good = calibration.encode([Row("a", 0.5, ("x",), ("y",))])
    for bad in (b'{"id":"b"}', b"\xff", good.replace(b"0.5", b"1.5"), good.replace(b'"a"', b'""')):
        with pytest.raises(RowsError, match="line 2"):
            calibration.decode(good + bad)
    with pytest.raises(RowsError, match="two rows have the id a"):
        calibration.digest([Row("a", 0.5, ("x",), ("y",)), Row("a", 0.6, ("x",), ("y",))])
    for nothing in (float("nan"), 1.01, -0.1):
        with pytest.raises(RowsError, match="row a has the confidence"):
            calibration.encode([Row("a", nothing, ("x",), ("y",))])
