"""Who stands behind a channel: whose service it is, who runs the machines, who sends the bill.

Facts about providers, by the kind of channel and the host that it talks to (read 2026-11-23). A host that is not listed
is named by itself: that is true, and says where to look.
"""

from __future__ import annotations

from typing import Final

from upeti.money.focus.export import Party

_OPENAI: Final = Party("OpenAI API", "OpenAI", "OpenAI", "OpenAI")
_AZURE: Final = Party("Azure OpenAI", "Microsoft", "Microsoft", "Microsoft")
_ANTHROPIC: Final = Party("Claude API", "Anthropic", "Anthropic", "Anthropic")
_OWN: Final = Party("Own models", "Own", "Own", "Own")

_BY_KIND: Final = {"azure": _AZURE, "embedded": _OWN}
_BY_HOST: Final = {"api.openai.com": _OPENAI, ".api.openai.com": _OPENAI, "api.anthropic.com": _ANTHROPIC}
_DEFAULT_HOSTS: Final = {"openai_compatible": "api.openai.com", "anthropic": "api.anthropic.com"}


def party_of(kind: str, host: str) -> Party:
    """Return who stands behind a channel. ``host`` "" is the kind's own."""
    host = host.lower() or _DEFAULT_HOSTS.get(kind, "")
    known = _BY_KIND.get(kind) or _BY_HOST.get(host) or _BY_HOST.get(host[host.find(".") :])
    return known or unknown_party(host or kind)


def unknown_party(name: str) -> Party:
    """Return the party of which no more than a name is known."""
    return Party(name, name, name, name)
