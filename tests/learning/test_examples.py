"""Rows become examples: of real pairs through a built data set, of labels that were brought, of a CSV file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.shared_data import shared_data
from upeti.core.errors import ConfigError
from upeti.learning.answers import UNREADABLE, AnswerFormError
from upeti.learning.examples import Example, ExamplesError, from_csv, from_lines, in_calibration, last_user_text, split

KEY = b"task-1"


def line(text: str, answer: str, at: int = 0, **changes: object) -> bytes:
    request = {"model": "gpt", "messages": [{"role": "system", "content": "Sort."}, {"role": "user", "content": text}]}
    choice = {"index": 0, "message": {"role": "assistant", "content": answer}, "finish_reason": "stop"}
    row = {
        "pair_id": f"p{at}",
        "wire": "chat_completions",
        "captured": f"2026-11-01T00:00:{at:02}Z",
        "request": request,
        "answer": {"choices": [choice]},
    }
    return json.dumps(row | changes).encode() + b"\n"


def test_rows_of_a_data_set_become_examples_and_the_rest_is_counted() -> None:
    lines = [
        line("Where is my card?", "card", 3),
        line("Where  is my CARD?", "loan", 4),
        line("Lend me", "loan", 1),
        line("Hello", "card", 2, wire="messages"),
        line("", "card", 5),
        b"not a row\n",
        json.dumps({"own": True, "owner": "sales", "pair_id": "", "text": "A card, please", "label": "Card"}).encode(),
        json.dumps({"pair_id": "p9", "wire": "chat_completions", "request": {"input": "x"}, "answer": {}}).encode(),
    ]
    found = from_lines(lines)
    own, lend, card = found.rows
    assert (own.text, own.values, own.at_ns) == ("A card, please", ("card",), 0)
    assert (lend.id, lend.values) == ("p1", ("loan",))
    assert (card.id, card.values) == ("p3", ("card",)), "the earliest of a text stays"
    assert lend.at_ns + 2 * 10**9 == card.at_ns
    assert found.left_out == {
        "answers of the wire `messages` are not read": 1,
        "the line is no row of a data set": 1,
        "the request is not of the task's template": 1,
        "the text is there already": 1,
        "there is no text": 1,
    }


def test_an_answer_out_of_form_stays_and_agrees_with_nobody() -> None:
    answers = ['{"topic": "card"}'] * 9 + ["Sorry, I cannot say."]
    found = from_lines([line(f"text {number}", answer, number) for number, answer in enumerate(answers)])
    assert [row.values for row in found.rows] == [("card",)] * 9 + [UNREADABLE]


def test_a_text_of_several_parts_is_read_and_one_with_an_image_is_not() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert last_user_text(json.dumps({"messages": [{"role": "user", "content": parts}]}).encode()) == "a\nb"
    image = [*parts, {"type": "image_url", "image_url": {"url": "x"}}]
    assert last_user_text(json.dumps({"messages": [{"role": "user", "content": image}]}).encode()) is None
    assert last_user_text(b"{") is None
    assert last_user_text(b"\xff") is None


def test_a_csv_file_with_one_or_several_columns(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("text,label,urgent\nfirst,card,yes\nsecond,Loan,no\nthird,loan,no\nfourth,loan,no\n")
    assert [row.values for row in from_csv(path).rows] == [("card",), ("loan",), ("loan",), ("loan",)]
    several = from_csv(path, fields=("label", "urgent"))
    assert several.form.names == ("label", "urgent")
    assert several.rows[0].values == ("card", "yes")
    with pytest.raises(ConfigError, match="has no column `kind`"):
        from_csv(path, fields=("kind",))
    with pytest.raises(ConfigError, match="cannot be read"):
        from_csv(tmp_path / "none.csv")


def test_recorded_answers_of_a_paid_model_are_read_and_split_by_share() -> None:
    found = from_csv(shared_data("banking77-gpt4") / "test_llm.csv", fields=("gpt4",))
    assert found.form.kind == "number"
    training, calibration = split(found.rows, KEY, 0.3)
    assert len(training) + len(calibration) == len(found.rows) > 3_000
    assert abs(len(calibration) / len(found.rows) - 0.3) < 0.04
    assert split(reversed(found.rows), KEY, 0.3)[1][::-1] == calibration, "the order draws nothing"
    assert split(found.rows, b"task-2", 0.3)[1] != calibration


@given(st.text(st.characters(max_codepoint=127), min_size=1), st.floats(0, 1))
def test_writing_the_same_differently_never_changes_the_side(text: str, share: float) -> None:
    sides = {in_calibration(one, KEY, share) for one in (text, f" {text}\n", text.lower(), text.upper())}
    assert len(sides) == 1
    assert in_calibration(text, KEY, 1)
    assert not in_calibration(text, KEY, 0)
    row = Example("1", text, ("a",))
    assert sorted(map(len, split([row], KEY, share))) == [0, 1]


def test_nothing_left_says_why() -> None:
    with pytest.raises(ExamplesError, match="1 rows: the line is no row"):
        from_lines([b"x"])
    with pytest.raises(AnswerFormError, match="free text"):
        from_lines([line(f"text {n}", f"an essay {n}") for n in range(50)])
