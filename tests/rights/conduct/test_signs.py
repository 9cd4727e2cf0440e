"""Each sign by itself, and that one kind alone is never evidence."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

from upeti.rights.conduct.reading import Mark, Shape
from upeti.rights.conduct.signs import (
    SIGNS,
    Context,
    Note,
    Sign,
    contradictions,
    few_repeats,
    flat_hours,
    leaving,
    many_keys,
    signs,
    together,
)
from upeti.rights.conduct.thresholds import thresholds

HOUR_NS = 3600 * 10**9
SHAPE = Shape(9, 0, 0, 0, 1, 4, 7)
LIMITS = thresholds()


def note(number: int = 0, **changes: Any) -> Note:
    usual: dict[str, Any] = {"at_ns": number, "call": f"{number}", "tenant": "acme", "key": "k1", "shape": SHAPE}
    return Note(**(usual | {"marks": 0, "prompt": number} | changes))


def at_hours(rate: Any, calls: int = 3000) -> list[Note]:
    """Calls over ten days whose rate by the hour is ``rate``."""
    dice = random.Random(4)
    weights = [rate(hour) for hour in range(24)]
    days, hours = range(10), range(24)
    times = [
        (dice.choice(days) * 24 + dice.choices(hours, weights)[0]) * HOUR_NS + dice.randrange(HOUR_NS)
        for _ in range(calls)
    ]
    return [note(at_ns=at_ns) for at_ns in sorted(times)]


def fired(notes: list[Note], **context: Any) -> set[str]:
    return {sign.name for sign in signs(notes, Context(**context), LIMITS) if sign.fires}


@pytest.mark.parametrize(
    ("mark", "name"),
    [
        (Mark.REASONING, "reasoning"),
        (Mark.LONG_OUTPUT, "long_output"),
        (Mark.CHOICES, "choices"),
        (Mark.GENERATION, "generation"),
    ],
)
def test_marks_fire_above_their_share(mark: Mark, name: str) -> None:
    usual = [note(number, marks=int(Mark.END_USER), prompt=number // 2) for number in range(100)]
    limit = LIMITS.signs.what[name].above
    assert limit is not None
    many = math.floor(limit * 100) + 1
    marked = [note(number, marks=int(Mark.END_USER | mark), prompt=number // 2) for number in range(many)]
    assert fired(usual) == set()
    assert fired([*marked, *usual[many:]]) == {name}
    assert fired([*marked[1:], *usual[many - 1 :]]) == set()


def test_no_end_users() -> None:
    assert "no_end_users" in fired([note(number) for number in range(50)])
    named = [note(number, marks=int(Mark.END_USER)) for number in range(2)]
    assert "no_end_users" not in fired([*named, *(note(number) for number in range(2, 50))])


def test_repeats_count_earlier_windows_too() -> None:
    notes = [note(number, prompt=number) for number in range(100)]
    assert few_repeats(notes, Context()) == 0
    assert few_repeats(notes, Context(seen=frozenset(range(30)))) == 0.3
    assert few_repeats([*notes, *notes], Context()) == 0.5


def test_flat_hours_are_told_from_a_day_of_people() -> None:
    assert flat_hours(at_hours(lambda hour: 1), Context()) < 0.04
    assert flat_hours(at_hours(lambda hour: 1 + 0.5 * math.sin(hour / 24 * 2 * math.pi)), Context()) > 0.08
    assert flat_hours(at_hours(lambda hour: 9 <= hour < 18), Context()) > 1
    assert flat_hours([note(number) for number in range(100)], Context()) == 1


def test_many_keys_with_one_template() -> None:
    spread = [note(number, key=f"k{number % 50}", links=(7,)) for number in range(1000)]
    assert many_keys(spread, Context()) == 1
    one_large = [note(number, key="k0" if number % 4 else f"k{number % 50}", links=(7,)) for number in range(1000)]
    assert many_keys(one_large, Context()) == 0
    assert many_keys([note(number, key=f"k{number}", links=(number,)) for number in range(1000)], Context()) == 0
    assert many_keys([note(number) for number in range(9)], Context()) == 0


def test_pairs_taken_out_of_the_store() -> None:
    assert leaving([note()] * 10, Context(pairs_taken=6)) == 0.6


def test_a_batch_job_is_no_evidence_and_neither_is_a_writer() -> None:
    """All signs of how, and one of what; all signs of what, and one of how."""

    def made(how: int, what: int) -> list[Sign]:
        counts = {"how": how, "what": what}
        return [Sign(f"{kind}{place}", kind, 1, place < counts[kind], "") for kind in counts for place in range(5)]

    assert not together(made(4, 1), LIMITS)
    assert not together(made(1, 5), LIMITS)
    assert not together(made(0, 0), LIMITS)
    assert together(made(2, 2), LIMITS)


def test_a_declared_purpose_is_held_against_what_is_done() -> None:
    found = [Sign("generation", "what", 0.4, True, "share"), Sign("reasoning", "what", 0.1, False, "share")]
    assert contradictions("customer_support", found, LIMITS) == {
        "generation": {"value": 0.4, "limit": 0.05, "what": "share"}
    }
    assert contradictions("evaluation", found, LIMITS) == {}
    assert contradictions("", found, LIMITS) == {}


def test_every_limit_is_of_a_sign_and_every_sign_has_one() -> None:
    assert set(SIGNS) == {*LIMITS.signs.how, *LIMITS.signs.what}
    assert all(
        (limit.above is None) != (limit.below is None)
        for limit in (*LIMITS.signs.how.values(), *LIMITS.signs.what.values())
    )
    assert all(name in SIGNS for expected in LIMITS.purposes.values() for name in expected)
    assert LIMITS.drift.p_max <= 0.003
