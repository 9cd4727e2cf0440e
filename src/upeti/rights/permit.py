"""The one decision: may an answer of this channel be used for this purpose?

Rules: what is not granted is denied; an unknown purpose is denied. In this version a channel grants purposes by name
(``ChannelView.purposes``: serving only, unless the operator says more); clauses with quotes and dates take that place.
"""

from __future__ import annotations

from collections.abc import Set
from typing import Final

SERVE: Final = "serve"

PURPOSES: Final = frozenset(
    {
        SERVE,
        "store",
        "evaluate",
        "classify_internal",
        "classify_distributed",
        "embed",
        "rerank",
        "task_generative",
        "general_model",
        "tune_at_provider",
        "resell",
    }
)


def permit(granted: Set[str], purpose: str) -> bool:
    """Return whether ``purpose`` is allowed where ``granted`` is what the channel grants."""
    return purpose in PURPOSES and purpose in granted
