"""Channels and routes as a configuration file names them, for reports that must come out also while it is edited."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit


class Seen(NamedTuple):
    """A channel, as far as the file says; "" for what it does not."""

    kind: str = ""
    host: str = ""
    part: str = ""  # of the price book
    zone: str = ""
    account: str = ""  # on the provider's bill


def channels_in(values: Mapping[str, Any]) -> dict[str, Seen]:
    """Return name → channel from what the file says, unchecked."""
    from upeti.providers.catalog import PROVIDERS

    found = {}
    for channel in _tables(values, "channel"):
        kind = str(channel.get("kind", ""))
        provider = PROVIDERS.get(kind)
        url = str(channel.get("base_url") or (provider.base_url if provider else ""))
        host = urlsplit(url).hostname or ""
        part = str(channel.get("prices") or (provider.host(host).prices if provider else ""))
        found[str(channel.get("name", ""))] = Seen(
            kind, host, part, str(channel.get("zone", "")), str(channel.get("account", ""))
        )
    return found


def routes_in(values: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return route → channels of its candidates."""
    return {
        str(route.get("name", "")): [str(one.get("channel", "")) for one in _tables(route, "candidate")]
        for route in _tables(values, "route")
    }


def _tables(values: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    found = values.get(name, [])
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
