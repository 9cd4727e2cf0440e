"""The plan of a call: which candidates, in which order. Pure: health and randomness are passed in.

Lower order first; among equals, drawn by weight without replacement (weight 0 comes last: it only takes failovers). What
is not usable now (an open breaker) goes to the end, in the same order: never out of the plan.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar


class Ranked(Protocol):
    @property
    def order(self) -> int: ...

    @property
    def weight(self) -> int: ...


C = TypeVar("C", bound=Ranked)


def plan(candidates: Sequence[C], usable: Callable[[C], bool], draw: Callable[[], float]) -> Sequence[C]:
    """Return the candidates in the order in which they are to be tried. ``draw`` gives numbers in [0, 1)."""
    if len(candidates) == 1:
        return candidates
    ordered: list[C] = []
    for order in sorted({candidate.order for candidate in candidates}):
        ordered += _weighted([candidate for candidate in candidates if candidate.order == order], draw)
    return [c for c in ordered if usable(c)] + [c for c in ordered if not usable(c)]


def _weighted(equals: list[C], draw: Callable[[], float]) -> list[C]:
    left = list(equals)
    ordered = []
    while left:
        total = sum(candidate.weight for candidate in left)
        at = draw() * total
        chosen = left[-1]
        for candidate in left:
            at -= candidate.weight
            if at < 0:
                chosen = candidate
                break
        else:
            chosen = left[0]  # all weights 0: as in the file
        left.remove(chosen)
        ordered.append(chosen)
    return ordered
