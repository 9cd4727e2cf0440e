"""Recorded answers of a paid model as examples, and students trained on some of them."""

from __future__ import annotations

import csv
from functools import cache
from zlib import crc32

from support.shared_data import shared_data
from upeti.learning.answers import AnswerForm, form_of_texts
from upeti.learning.examples import Example
from upeti.learning.student import Level
from upeti.learning.train import Trained, train

CARD = ("11", "12", "13", "14", "15", "40", "41", "43")  # intents that are often mixed up


@cache
def banking(file: str = "test_llm", labels: tuple[str, ...] = ()) -> tuple[AnswerForm, tuple[Example, ...]]:
    """Return the form and GPT-4's answers to bank customers; only those of ``labels``, if any are given."""
    with (shared_data("banking77-gpt4") / f"{file}.csv").open(newline="", encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if not labels or row["gpt4"] in labels]
    rows.sort(key=lambda row: crc32(row["text"].encode()))  # the file is in the order of its intents
    named = [f"intent_{row['gpt4']}" for row in rows]
    examples = [
        Example(f"{file}-{number}", row["text"], (label,))
        for number, (row, label) in enumerate(zip(rows, named, strict=True))
    ]
    return form_of_texts(named), tuple(examples)


@cache
def trained(level: Level = "l1") -> Trained:
    """Return a student of eight intents, trained on the first 250 rows; the others are there to be predicted."""
    form, rows = banking(labels=CARD)
    return train(rows[:250], form, level=level)
