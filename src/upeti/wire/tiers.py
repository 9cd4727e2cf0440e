"""Service tiers: what a call asks for, and what an answer says it was served at, as names of the price book.

Rules: the standard tier is "". A name that is not known stays as it is: it has a price only if somebody wrote one. What
an answer does not say is None, never the standard tier.
"""

from __future__ import annotations

from typing import Final

STANDARD: Final = ""
PRIORITY: Final = "priority"
FLEX: Final = "flex"
FAST: Final = "fast"  # Anthropic's `speed`
BATCH: Final = "batch"
PROVISIONED: Final = "provisioned"  # throughput that is paid by the hour; chosen by the channel, never by a call

AUTO: Final = "auto"  # asked for: whatever the provider's own settings say
# What `auto` can be served at: tiers that no call must ask for by name.
AUTO_REACH: Final = (STANDARD, PRIORITY, FLEX, "scale")

_NAMED: Final = {
    "default": STANDARD,
    "standard": STANDARD,
    "standard_only": STANDARD,
    # OpenAI renamed priority processing to fast mode on 2026-07-30; answers and prices say "priority" for both.
    "fast": PRIORITY,
}


def asked_tier(service_tier: str | None, speed: str | None) -> str | None:
    """Return the tier that a call asks for; None when it does not say."""
    if speed is not None and speed != "standard":
        return speed
    return None if service_tier is None else _NAMED.get(service_tier, service_tier)


def reported_tier(service_tier: str | None, speed: str | None) -> str | None:
    """Return the tier that an answer says it was served at; None when it does not say."""
    if speed == FAST:
        return FAST
    if service_tier is None or service_tier == AUTO:
        return None
    return _NAMED.get(service_tier, service_tier)
