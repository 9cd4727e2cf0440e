"""A provider's usage report → disjoint meters.

Rules: what was not reported is absent; a report that contradicts itself (more cached than read) is unknown as a
whole, ``None``, never repaired. OpenAI's input includes cached and audio tokens and its output includes
reasoning; Anthropic's input excludes what was read from or written to the cache.
"""

from __future__ import annotations

import msgspec

from upeti.core import meters as m
from upeti.core.meters import Meters
from upeti.wire.tiers import reported_tier


class CacheWriteDetails(msgspec.Struct):
    ttl_12h_tokens: int | None = None


class InputDetails(msgspec.Struct):
    cached_tokens: int | None = None
    audio_tokens: int | None = None
    cache_write_tokens: int | None = None  # OpenAI, from GPT-5.6 on
    cache_write_tokens_details: CacheWriteDetails | None = None


class OutputDetails(msgspec.Struct):
    reasoning_tokens: int | None = None
    audio_tokens: int | None = None
    image_tokens: int | None = None


class CacheCreation(msgspec.Struct):
    ephemeral_5m_input_tokens: int | None = None
    ephemeral_1h_input_tokens: int | None = None


class Usage(msgspec.Struct):
    """The union of the usage objects of all wires; which fields are there tells the wire."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: InputDetails | None = None
    completion_tokens_details: OutputDetails | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    input_tokens_details: InputDetails | None = None
    output_tokens_details: OutputDetails | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_creation: CacheCreation | None = None
    seconds: float | None = None  # audio transcription billed by time
    service_tier: str | None = None  # Anthropic's is here; OpenAI's stands beside the usage and is put here
    speed: str | None = None  # Anthropic's
    inference_geo: str | None = None  # Anthropic's

    @property
    def tier(self) -> str | None:
        """The service tier that the answer says it was served at; None when it does not say."""
        return reported_tier(self.service_tier, self.speed, self.inference_geo)


class Metered(msgspec.Struct):
    """The part of an answer, or of a stream's event, that says what it used, and at which tier."""

    usage: Usage | None = None
    service_tier: str | None = None

    def used(self) -> Usage | None:
        """Return the usage with the tier that stands beside it."""
        if self.usage is not None and self.service_tier is not None:
            self.usage.service_tier = self.service_tier
        return self.usage


# No attempt counts four billion of anything: such a report is garbage, and its cost would not fit a record.
_QUANTITY_MAX = 1 << 32

_answer = msgspec.json.Decoder(Metered)


def usage_of_answer(body: bytes) -> Usage | None:
    """Return the usage object of a plain JSON answer, or None when there is none that can be read."""
    try:
        return _answer.decode(body).used()
    except (msgspec.MsgspecError, RecursionError):
        return None


def openai_meters(usage: Usage) -> Meters | None:
    """Meters of chat completions, completions, embeddings, responses, images and audio."""
    details: InputDetails | None
    out_details: OutputDetails | None
    if usage.prompt_tokens is not None:
        read, written = usage.prompt_tokens, usage.completion_tokens
        details, out_details = usage.prompt_tokens_details, usage.completion_tokens_details
    elif usage.input_tokens is not None:
        read, written = usage.input_tokens, usage.output_tokens
        details, out_details = usage.input_tokens_details, usage.output_tokens_details
    elif usage.seconds is not None and usage.seconds >= 0:
        # OpenAI bills whole seconds, rounded up ("usage.type": "duration").
        return _consistent({m.AUDIO_SECONDS: -int(-usage.seconds // 1)})
    else:
        return None
    meters = {m.INPUT: read}
    if details is not None:
        # Image tokens stay where they are: they cost what text does, and may be among the cached ones.
        if details.cached_tokens:
            meters[m.INPUT_CACHED] = details.cached_tokens
            meters[m.INPUT] -= details.cached_tokens
        if details.audio_tokens:
            meters[m.INPUT_AUDIO] = details.audio_tokens
            meters[m.INPUT] -= details.audio_tokens
        if details.cache_write_tokens:
            _add_cache_writes(meters, details)
    if written is not None:
        meters[m.OUTPUT] = written
        if out_details is not None:
            for name, part in (
                (m.OUTPUT_REASONING, out_details.reasoning_tokens),
                (m.OUTPUT_AUDIO, out_details.audio_tokens),
                (m.OUTPUT_IMAGE, out_details.image_tokens),
            ):
                if part:
                    meters[name] = part
                    meters[m.OUTPUT] -= part
    return _consistent(meters)


def _add_cache_writes(meters: Meters, details: InputDetails) -> None:
    written = details.cache_write_tokens or 0
    lasting = details.cache_write_tokens_details.ttl_12h_tokens or 0 if details.cache_write_tokens_details else 0
    meters[m.INPUT] -= written
    if lasting:
        meters[m.INPUT_CACHE_WRITE_12H] = lasting
    if written - lasting:
        meters[m.INPUT_CACHE_WRITE] = written - lasting


def anthropic_meters(usage: Usage) -> Meters | None:
    """Meters of Anthropic messages. Output includes thinking, which has no price of its own."""
    if usage.input_tokens is None:
        return None
    meters = {m.INPUT: usage.input_tokens}
    if usage.output_tokens is not None:
        meters[m.OUTPUT] = usage.output_tokens
    if usage.cache_read_input_tokens:
        meters[m.INPUT_CACHED] = usage.cache_read_input_tokens
    written = usage.cache_creation_input_tokens or 0
    one_hour = usage.cache_creation.ephemeral_1h_input_tokens or 0 if usage.cache_creation else 0
    if one_hour:
        meters[m.INPUT_CACHE_WRITE_1H] = one_hour
    if written - one_hour:
        meters[m.INPUT_CACHE_WRITE_5M] = written - one_hour
    return _consistent(meters)


def merge(earlier: Usage | None, later: Usage) -> Usage:
    """Anthropic's stream reports are cumulative: what the later one names replaces the earlier figure."""
    if earlier is None:
        return later
    for name in Usage.__struct_fields__:
        value = getattr(later, name)
        if value is not None:
            setattr(earlier, name, value)
    return earlier


def _consistent(meters: Meters) -> Meters | None:
    for quantity in meters.values():
        if not 0 <= quantity <= _QUANTITY_MAX:
            return None
    return meters
