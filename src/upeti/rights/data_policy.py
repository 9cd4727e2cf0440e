"""Where a caller's data may go: by region, by how long the provider keeps it, by channel.

Rules: a policy holds for every call that has all that its selectors name; of several all hold. What is not known of a
channel does not meet a policy that asks for it. Pure: the same at the first choice and when failing over.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec


class DataPolicy(msgspec.Struct, frozen=True):
    """One policy. Empty selectors fit every call; empty conditions ask for nothing."""

    name: str
    tenant: str = ""
    project: str = ""
    key: str = ""
    feature: str = ""
    regions: frozenset[str] = frozenset()
    retention_days_max: int | None = None
    channels_denied: frozenset[str] = frozenset()

    def concerns(self, tenant: str, project: str, key: str, feature: str) -> bool:
        wanted = (self.tenant, self.project, self.key, self.feature)
        return all(not one or one == part for one, part in zip(wanted, (tenant, project, key, feature), strict=True))

    def objection(self, channel: str, region: str, retention_days: int | None) -> str:
        """Return why a channel does not fit; "" when it does."""
        if channel in self.channels_denied:
            return "it is denied by name"
        if self.regions and region not in self.regions:
            return f"its region is {region}" if region else "its region is not known"
        if self.retention_days_max is not None:
            if retention_days is None:
                return "nobody knows how long it keeps data"
            if retention_days > self.retention_days_max:
                return f"it keeps data for {retention_days} days"
        return ""


def objection(
    policies: Iterable[DataPolicy], channel: str, region: str, retention_days: int | None
) -> tuple[DataPolicy, str] | None:
    """Return the first policy that a channel does not fit, and why; None when it may be used."""
    for policy in policies:
        why = policy.objection(channel, region, retention_days)
        if why:
            return policy, why
    return None
