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
# Anthropic's `inference_geo: us`: a tenth more on everything. Other geographies and tiers make names such as "fast_us".
US_ONLY: Final = "us"
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


# Where the place of the work makes no price: none was asked for, or a model older than the choice answered.
_ANYWHERE: Final = frozenset({None, "global", "not_available"})


def asked_tier(service_tier: str | None, speed: str | None, geo: str | None = None) -> str | None:
    """Return the tier that a call asks for; None when it does not say. ``geo`` is Anthropic's `inference_geo`."""
    if speed is not None and speed != "standard":
        tier: str | None = speed
    else:
        tier = None if service_tier is None else _NAMED.get(service_tier, service_tier)
    if geo in _ANYWHERE:
        return tier
    return _within(geo, "" if tier == AUTO else tier)


def reported_tier(service_tier: str | None, speed: str | None, geo: str | None = None) -> str | None:
    """Return the tier that an answer says it was served at; None when it does not say."""
    if speed == FAST:
        tier: str | None = FAST
    elif service_tier is None or service_tier == AUTO:
        tier = None
    else:
        tier = _NAMED.get(service_tier, service_tier)
    return tier if geo in _ANYWHERE else _within(geo, tier)


def _within(geo: str | None, tier: str | None) -> str:
    return f"{tier}_{geo}" if tier else f"{geo}"
