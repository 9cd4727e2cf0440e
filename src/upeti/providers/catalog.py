"""What each kind of provider is like, as data: address, authentication, wires, price part, unknown charges.

Rules: a new kind is a new row; no code elsewhere asks for a kind by name to know one of these facts. A host
that is not listed gets what is safe for servers that copied an older OpenAI API, and no prices.
"""

from __future__ import annotations

from typing import Final

import msgspec


class Auth(msgspec.Struct, frozen=True):
    """The header that carries the secret: ``header: prefix + secret``. An empty header: none is sent."""

    header: str
    prefix: str = ""


class UnknownCharge(msgspec.Struct, frozen=True):
    """An error answer after which the provider may charge without saying so."""

    status: int
    code: str = ""  # of the error object; "" = whatever it is


# 408 and 504 say that time ran out, not whether the work was done.
_TIMED_OUT: Final = (UnknownCharge(408), UnknownCharge(504))

# Chat completions depend on the host, and are not here.
_CAP_FIELDS: Final = {"responses": "max_output_tokens", "completions": "max_tokens", "messages": "max_tokens"}


class Host(msgspec.Struct, frozen=True):
    """What differs between hosts of one kind."""

    prices: str  # part of the price book; "" = none fits, the channel must name one
    chat_cap: str  # name of the output cap of chat completions


class Provider(msgspec.Struct, frozen=True):
    """One kind of channel."""

    kind: str
    base_url: str  # "" = the channel must give one, or needs none
    auth: Auth
    wires: frozenset[str]  # names of upeti.wire.wires; everything else is relayed as "other"
    other_hosts: Host  # for a host that is not in ``hosts``
    hosts: dict[str, Host] = msgspec.field(default_factory=dict)  # ".name" stands for all hosts below name
    bearer: Auth | None = None  # the way of a token that a directory service gives (Microsoft Entra)
    headers: tuple[tuple[str, str], ...] = ()  # sent unless the client sent its own
    unknown_charges: tuple[UnknownCharge, ...] = _TIMED_OUT
    keepalive_idle_ms_max: int | None = None  # the provider closes an idle connection soon after this
    # Own models with certificates: each is asked for its share of the calls and in a time of its own; it may leave a call to
    # the next candidate, and none of its errors is a client's business.
    defers: bool = False

    def host(self, name: str) -> Host:
        name = name.lower()
        listed = self.hosts.get(name) or self.hosts.get(name[name.find(".") :])
        return listed or self.other_hosts

    def cap_field(self, wire: str, host: str) -> str:
        """Return the name of the output cap to put into a body of ``wire``; "" where nothing is generated."""
        if wire == "chat_completions":
            return self.host(host).chat_cap
        return _CAP_FIELDS.get(wire, "")

    def may_charge(self, status: int, code: str = "") -> bool:
        """Tell whether an error answer leaves open what is owed: then the attempt is posted at its bound."""
        return any(at.status == status and at.code in ("", code) for at in self.unknown_charges)


_OPENAI_WIRES: Final = frozenset({"chat_completions", "responses", "completions", "embeddings"})

# OpenAI's reasoning models refuse the deprecated `max_tokens`; many compatible servers know no other.
_NEW_CAP: Final = "max_completion_tokens"
_OLD_CAP: Final = "max_tokens"

PROVIDERS: Final[dict[str, Provider]] = {
    provider.kind: provider
    for provider in (
        Provider(
            kind="openai_compatible",
            base_url="https://api.openai.com/v1",
            auth=Auth("Authorization", "Bearer "),
            wires=_OPENAI_WIRES,
            hosts={
                "api.openai.com": Host("openai", _NEW_CAP),
                # Regions charge 10 % more for models released since 2026-03-05 ("Data residency" in OpenAI's
                # API documentation, read 2026-11-23), so the list prices do not fit them.
                ".api.openai.com": Host("", _NEW_CAP),
            },
            other_hosts=Host("", _OLD_CAP),
        ),
        Provider(
            kind="azure",
            base_url="",
            auth=Auth("api-key"),
            bearer=Auth("Authorization", "Bearer "),
            wires=_OPENAI_WIRES,
            other_hosts=Host("azure", _NEW_CAP),
            # Charged when work was done, whatever the status: 400 for a content filter or long input, 408;
            # not 401 and 429 ("Plan to manage costs for Azure OpenAI", HTTP error responses and billing).
            unknown_charges=(
                UnknownCharge(400, "content_filter"),
                UnknownCharge(400, "context_length_exceeded"),
                *_TIMED_OUT,
            ),
        ),
        Provider(
            kind="anthropic",
            base_url="https://api.anthropic.com",
            auth=Auth("x-api-key"),
            wires=frozenset({"messages"}),
            hosts={"api.anthropic.com": Host("anthropic", _OLD_CAP)},
            other_hosts=Host("", _OLD_CAP),
            headers=(("anthropic-version", "2023-06-01"),),
        ),
        Provider(
            kind="embedded",
            base_url="",
            auth=Auth(""),
            wires=_OPENAI_WIRES,
            other_hosts=Host("local", _OLD_CAP),
            keepalive_idle_ms_max=4_000,  # llama.cpp says "Keep-Alive: timeout=5"
        ),
        Provider(
            kind="student",
            base_url="",
            auth=Auth(""),
            wires=frozenset({"chat_completions"}),
            other_hosts=Host("local", _OLD_CAP),
            defers=True,
        ),
    )
}
