"""The names of OpenTelemetry's GenAI conventions, as data, one row per version.

Backends are built for one version or another, and the conventions are still in development: names were changed and
added. A name that a version does not have is "" and is not sent. Read 2026-11-23 from the conventions' releases 1.36.0,
1.37.0 and 1.41.1; from 1.42 on they are kept in a repository of their own.
"""

from __future__ import annotations

from typing import Final

import msgspec

from upeti.core import meters as m


class Names(msgspec.Struct, frozen=True):
    """What differs between versions; names that all have are written where they are used."""

    version: str
    provider: str
    cache_read: str = ""
    cache_creation: str = ""
    reasoning: str = ""
    stream: str = ""
    first_chunk: str = ""  # an attribute, seconds


VERSIONS: Final = {
    names.version: names
    for names in (
        Names("1.36", provider="gen_ai.system"),
        Names("1.37", provider="gen_ai.provider.name"),
        Names(
            "1.41",
            provider="gen_ai.provider.name",
            cache_read="gen_ai.usage.cache_read.input_tokens",
            cache_creation="gen_ai.usage.cache_creation.input_tokens",
            reasoning="gen_ai.usage.reasoning.output_tokens",
            stream="gen_ai.request.stream",
            first_chunk="gen_ai.response.time_to_first_chunk",
        ),
    )
}

# gen_ai.operation.name by the API that was called; any other API is named as it is.
OPERATIONS: Final = {
    "chat_completions": "chat",
    "responses": "chat",
    "messages": "chat",
    "completions": "text_completion",
}

# The provider by the kind of channel, or by the host behind an OpenAI-compatible one. The conventions ask for the
# flavour of the API where the provider is not known: server.address says who it is.
_BY_KIND: Final = {
    "azure": "azure.ai.openai",
    "anthropic": "anthropic",
    "embedded": "upeti.embedded",
    "student": "upeti.student",
}
_BY_HOST: Final = {
    "api.openai.com": "openai",
    "api.deepseek.com": "deepseek",
    "api.groq.com": "groq",
    "api.mistral.ai": "mistral_ai",
    "api.perplexity.ai": "perplexity",
    "api.x.ai": "xai",
}
_FLAVOUR: Final = "openai"

# Explicit bucket boundaries that the conventions ask for.
TOKEN_BUCKETS: Final = tuple(4**power for power in range(14))
SECOND_BUCKETS: Final = tuple(round(0.01 * 2**power, 2) for power in range(14))

CACHE_WRITES: Final = (m.INPUT_CACHE_WRITE, m.INPUT_CACHE_WRITE_12H, m.INPUT_CACHE_WRITE_5M, m.INPUT_CACHE_WRITE_1H)


def provider_of(kind: str, host: str) -> str:
    """Return gen_ai.provider.name of a channel."""
    return _BY_KIND.get(kind) or _BY_HOST.get(host.lower(), _FLAVOUR)
