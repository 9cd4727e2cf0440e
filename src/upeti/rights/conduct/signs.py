"""Signs of harvesting in a window of calls, each a small function of what was noted; and behaviour against a declared purpose.

Rules: a sign is a number and a limit, told apart by whether it is of *how* calls are made or of *what* they ask for. An
honest batch job makes calls the way a harvester does, and an honest writer asks for long texts: only both kinds together
are evidence. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence, Set
from typing import Any, Final

import msgspec

from upeti.rights.conduct.reading import Mark, Shape
from upeti.rights.conduct.thresholds import Thresholds

_HOUR_NS: Final = 3600 * 10**9
_HOURS: Final = 24
KEY_SHARE_SMALL: Final = 0.1  # a key with more of the calls than this does not "stay small"


class Note(msgspec.Struct, frozen=True, array_like=True):
    """What is kept of one call: numbers, and digests under a salt that stays here."""

    at_ns: int
    call: str  # digest of its id, for the evidence
    tenant: str
    key: str
    shape: Shape
    marks: int
    prompt: int  # digest of what varies, to count repeats
    links: tuple[int, ...] = ()  # digests of constant beginnings


class Sign(msgspec.Struct, frozen=True):
    """One sign in one window."""

    name: str
    kind: str  # how, what
    value: float
    fires: bool
    what: str


class Context(msgspec.Struct, frozen=True):
    """What a window alone does not show."""

    seen: Set[int] = frozenset()  # prompts of earlier windows
    pairs_taken: int = 0  # captured pairs that went into data sets for training meanwhile
    keys_min: int = 10


def no_end_users(notes: Sequence[Note], context: Context) -> float:
    return 1 - _share(notes, Mark.END_USER)


def few_repeats(notes: Sequence[Note], context: Context) -> float:
    """Share of calls whose prompt came before, in this window or an earlier one."""
    seen: set[int] = set()
    repeats = 0
    for note in notes:
        repeats += note.prompt in seen or note.prompt in context.seen
        seen.add(note.prompt)
    return repeats / len(notes)


def flat_hours(notes: Sequence[Note], context: Context) -> float:
    """Squared coefficient of variation of the calls an hour over the hours of the day, less what chance adds.

    A window of less than two days says nothing of the day's rhythm: then it is 1.
    """
    times = [note.at_ns for note in notes]
    if max(times) - min(times) < 2 * _HOURS * _HOUR_NS:
        return 1.0
    counts = Counter(at_ns // _HOUR_NS % _HOURS for at_ns in times)
    mean = len(notes) / _HOURS
    chi_square = sum((counts.get(hour, 0) - mean) ** 2 for hour in range(_HOURS)) / mean
    return max(0.0, (chi_square - (_HOURS - 1)) / len(notes))


def many_keys(notes: Sequence[Note], context: Context) -> float:
    """Share of calls with the commonest constant beginning; 0 unless many keys have it and each stays small."""
    links = Counter(link for note in notes for link in set(note.links))
    if not links:
        return 0.0
    link, calls = links.most_common(1)[0]
    keys = Counter(note.key for note in notes if link in note.links)
    small = max(keys.values()) <= KEY_SHARE_SMALL * len(notes)
    return calls / len(notes) if small and len(keys) >= context.keys_min else 0.0


def reasoning(notes: Sequence[Note], context: Context) -> float:
    return _share(notes, Mark.REASONING)


def long_output(notes: Sequence[Note], context: Context) -> float:
    return _share(notes, Mark.LONG_OUTPUT)


def choices(notes: Sequence[Note], context: Context) -> float:
    return _share(notes, Mark.CHOICES)


def generation(notes: Sequence[Note], context: Context) -> float:
    return _share(notes, Mark.GENERATION)


def leaving(notes: Sequence[Note], context: Context) -> float:
    return context.pairs_taken / len(notes)


SIGNS: Final[dict[str, Callable[[Sequence[Note], Context], float]]] = {
    "no_end_users": no_end_users,
    "few_repeats": few_repeats,
    "flat_hours": flat_hours,
    "many_keys": many_keys,
    "reasoning": reasoning,
    "long_output": long_output,
    "choices": choices,
    "generation": generation,
    "leaving": leaving,
}


def signs(notes: Sequence[Note], context: Context, limits: Thresholds) -> list[Sign]:
    """Return every sign of a window that has at least one call, those that do not fire too."""
    found = []
    for kind, named in (("how", limits.signs.how), ("what", limits.signs.what)):
        for name, limit in named.items():
            value = SIGNS[name](notes, context)
            found.append(Sign(name, kind, round(value, 4), limit.fires(value), limit.what))
    return found


def together(found: Sequence[Sign], limits: Thresholds) -> bool:
    """Whether signs of both kinds are there, so that they are evidence."""
    fired = Counter(sign.kind for sign in found if sign.fires)
    return fired["how"] >= limits.signs.needed.how and fired["what"] >= limits.signs.needed.what


def contradictions(purpose: str, found: Sequence[Sign], limits: Thresholds) -> dict[str, Any]:
    """Return the signs above what the declared purpose looks like, with value and limit; {} for none declared."""
    expected = limits.purposes.get(purpose, {})
    return {
        sign.name: {"value": sign.value, "limit": expected[sign.name], "what": sign.what}
        for sign in found
        if sign.name in expected and sign.value > expected[sign.name]
    }


def _share(notes: Sequence[Note], mark: Mark) -> float:
    return sum(bool(note.marks & mark) for note in notes) / len(notes)
