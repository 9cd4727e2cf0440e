"""Which names of models mean the same model on two sides of a reconciliation."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

_DATE: Final = re.compile(r"[-@](\d{4}-\d{2}-\d{2}|\d{8}|\d{4}|latest)$")


def same_models(theirs: Collection[str], ours: Collection[str]) -> dict[str, str]:
    """Return every name of either side → the name that both are compared under.

    Equal names are one model. Of the rest a name without a date and the names with one are, as long as one of the two
    sides leaves the date out: "gpt-4o" is whichever dated one the provider billed, but two different dates are two models.
    """
    names = {name: name for name in (*theirs, *ours)}
    left_theirs = {name for name in theirs if name not in ours}
    left_ours = {name for name in ours if name not in theirs}
    for base in sorted({undated(name) for name in left_theirs}):
        their_names = {name for name in left_theirs if undated(name) == base}
        our_names = {name for name in left_ours if undated(name) == base}
        together: set[str] = set()
        for name in our_names:
            if not _has_date(name):
                together |= their_names | {name}
        for name in their_names:
            if not _has_date(name):
                together |= our_names | {name}
        shown = sorted(together & our_names)
        if shown:
            names.update(dict.fromkeys(together, shown[0]))
    return names


def undated(name: str) -> str:
    return _DATE.sub("", name.lower()).replace("gpt-35", "gpt-3.5")


def _has_date(name: str) -> bool:
    return _DATE.search(name.lower()) is not None
