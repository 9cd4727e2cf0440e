"""The card says what the report says, in Markdown and in plots that are the same each time."""

from __future__ import annotations

from xml.etree import ElementTree

import msgspec
import pytest

from support.learning_side import trained
from upeti.learning.card import CARD_FILE, card
from upeti.learning.train import OfAnswer, Trained

PLOTS = ["calibration.svg", "learning-curve.svg", "risk-coverage.svg"]


def test_a_card_has_the_figures_of_the_report_and_shows_every_plot() -> None:
    files = card(trained(), name="Cards")
    assert sorted(files) == ["calibration.svg", CARD_FILE, *PLOTS[1:]]
    text = files[CARD_FILE].decode()
    report = trained().report
    assert text.startswith("# Cards\n")
    assert f"| agrees with its teacher | {report.agreement:.1%} of the rows" in text
    assert f"| 5% | {report.coverage(0.05):.1%} |" in text
    for one in report.answers:
        assert f"| {one.values[0]} | {one.rows} |" in text
    for name in PLOTS:
        assert f"]({name})" in text
        root = ElementTree.fromstring(files[name])
        texts = {"".join(element.itertext()).strip() for element in root.iter("{http://www.w3.org/2000/svg}text")}
        assert "100%" in texts
    assert card(trained(), name="Cards") == files


@pytest.mark.parametrize("agrees", [True, False])
def test_a_student_that_is_always_right_or_never_is_drawn_too(agrees: bool) -> None:
    report = msgspec.structs.replace(trained().report, agrees=(agrees,) * 250, agreement=float(agrees))
    assert set(card(Trained(trained().student, report))) == {CARD_FILE, *PLOTS}


def test_an_answer_cannot_break_the_table() -> None:
    odd = OfAnswer(("a|b\n<c>", "[d](e)", "x" * 99), 3, 1, 0)
    report = msgspec.structs.replace(trained().report, answers=(odd,) * 101)
    text = card(Trained(trained().student, report))[CARD_FILE].decode()
    (row, *_) = [line for line in text.splitlines() if line.startswith("| a\\")]
    assert row.startswith("| a\\|b &lt;c> · \\[d](e) · xxx")
    assert row.endswith("… | 3 | 33% | never said |")
    assert "| 1 more | | | |" in text
