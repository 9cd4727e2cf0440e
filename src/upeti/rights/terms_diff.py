"""What changed between two texts of the same contract: what may no longer be done, and which words say so.

Rules: what counts is how the files read the clauses, the strictest one for each purpose; a purpose that no clause speaks
of is denied. Clauses are matched by the end of their id, which is the same in every version. Pure.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

import msgspec

from upeti.rights.permit import severity
from upeti.rights.terms import PURPOSE_MEANS, SERVE, Clause, Decision

_SENTENCE_END = re.compile(r"(?<=[.;:])\s+")


class PurposeChange(msgspec.Struct, frozen=True):
    """How the reading of a purpose changed."""

    purpose: str
    old: Decision
    new: Decision

    @property
    def narrower(self) -> bool:
        return severity(self.new) > severity(self.old)


class ClauseChange(msgspec.Struct, frozen=True):
    """How one clause changed; an id is "" where there is no such clause."""

    section: str
    old: str
    new: str
    words: tuple[str, ...]  # "- sentence", "+ sentence"; empty when only its reading or its duties changed


class TermsDiff(msgspec.Struct, frozen=True):
    purposes: tuple[PurposeChange, ...]
    clauses: tuple[ClauseChange, ...]
    duties_added: tuple[str, ...]
    duties_removed: tuple[str, ...]

    @property
    def lost(self) -> tuple[str, ...]:
        """Purposes that are read more strictly than before."""
        return tuple(one.purpose for one in self.purposes if one.narrower)


def diff(old: Sequence[Clause], new: Sequence[Clause]) -> TermsDiff:
    """Compare the clauses of two texts."""
    purposes = [
        PurposeChange(purpose, reading(old, purpose), reading(new, purpose))
        for purpose in PURPOSE_MEANS
        if purpose != SERVE
    ]
    old_duties, new_duties = _duties(old), _duties(new)
    return TermsDiff(
        tuple(one for one in purposes if one.old is not one.new),
        tuple(_clause_changes(old, new)),
        tuple(sorted(new_duties - old_duties)),
        tuple(sorted(old_duties - new_duties)),
    )


def reading(clauses: Iterable[Clause], purpose: str) -> Decision:
    """Return how files read a purpose: the strictest clause that speaks of it; denied where none does."""
    found = [clause.decisions[purpose] for clause in clauses if purpose in clause.decisions]
    return max(found, key=severity, default=Decision.DENY)


def _duties(clauses: Iterable[Clause]) -> set[str]:
    return {duty for clause in clauses for duty in clause.duties}


def _name(clause: Clause) -> str:
    return clause.id.rpartition("/")[2]


def _clause_changes(old: Sequence[Clause], new: Sequence[Clause]) -> Iterable[ClauseChange]:
    before, after = ({_name(clause): clause for clause in clauses} for clauses in (old, new))
    for name in (*before, *(name for name in after if name not in before)):
        was, now = before.get(name), after.get(name)
        words = tuple(_words(was.quote if was else "", now.quote if now else ""))
        same = was is not None and now is not None and (was.decisions, was.duties) == (now.decisions, now.duties)
        if words or not same:
            section = next((one.section for one in (now, was) if one is not None and one.section), name)
            yield ClauseChange(section, was.id if was else "", now.id if now else "", words)


def _words(old: str, new: str) -> Iterable[str]:
    lines = difflib.ndiff(_sentences(old), _sentences(new))
    return (line for line in lines if line.startswith(("- ", "+ ")))


def _sentences(text: str) -> list[str]:
    return [one for one in _SENTENCE_END.split(text) if one]
