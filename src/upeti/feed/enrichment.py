"""What models understood of an item: tags, quality, safety, embedding, with who said so and what it cost.

Rules: an enrichment is never changed; a changed text or prompt makes a new version. Its cost is exact decimal text, what
the gateway said of the calls that made it, tries that gave nothing included. Safety fails closed: only the word "safe"
of a readable answer is safe.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Safety(StrEnum):
    SAFE = "safe"
    UNSAFE = "unsafe"
    UNKNOWN = "unknown"  # nobody could say: treated as unsafe wherever safety is asked for


class Source(StrEnum):
    """Which group of features it is, by who made it."""

    PAID = "enrichment_paid"
    STUDENT = "enrichment_student"


class Provenance(msgspec.Struct, frozen=True):
    """Where an enrichment comes from; ``call_id`` is the gateway's, the one that is in the journal."""

    call_id: str
    channel: str
    model: str
    prompt_version: str


class Enrichment(msgspec.Struct, frozen=True):
    """One version of what is known of one item."""

    item: str
    version: str  # of content, prompt and source
    tags: tuple[str, ...]
    quality: float | None  # 0 to 1; None: unknown
    safety: Safety
    embedding: tuple[float, ...] | None
    provenance: Provenance
    cost: str  # decimal text
    currency: str
    at_ns: int
    source: Source = Source.PAID


def is_safe(enrichment: Enrichment | None) -> bool:
    """Tell whether an item may be shown where safety is asked for."""
    return enrichment is not None and enrichment.safety is Safety.SAFE
