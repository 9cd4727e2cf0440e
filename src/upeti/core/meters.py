"""Names of the meters: disjoint counted quantities of one attempt.

A meter counts what no other meter counts, so a cost is a plain sum of quantity × price. Providers
report overlapping figures (OpenAI's prompt tokens include the cached ones, Anthropic's do not); each
wire module turns what it reads into these. A meter that was not reported is absent, not zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

INPUT: Final = "input"
INPUT_CACHED: Final = "input_cached"
# Written to a cache whose life the caller does not choose (OpenAI, 30 minutes), or for twelve hours.
INPUT_CACHE_WRITE: Final = "input_cache_write"
INPUT_CACHE_WRITE_12H: Final = "input_cache_write_12h"
INPUT_CACHE_WRITE_5M: Final = "input_cache_write_5m"
INPUT_CACHE_WRITE_1H: Final = "input_cache_write_1h"
INPUT_AUDIO: Final = "input_audio"
INPUT_IMAGE: Final = "input_image"
OUTPUT: Final = "output"
OUTPUT_REASONING: Final = "output_reasoning"
OUTPUT_AUDIO: Final = "output_audio"
OUTPUT_IMAGE: Final = "output_image"
AUDIO_SECONDS: Final = "audio_seconds"

INPUT_METERS: Final = (
    INPUT,
    INPUT_CACHED,
    INPUT_CACHE_WRITE,
    INPUT_CACHE_WRITE_12H,
    INPUT_CACHE_WRITE_5M,
    INPUT_CACHE_WRITE_1H,
    INPUT_AUDIO,
    INPUT_IMAGE,
)
OUTPUT_METERS: Final = (OUTPUT, OUTPUT_REASONING, OUTPUT_AUDIO, OUTPUT_IMAGE)
ALL_METERS: Final = (*INPUT_METERS, *OUTPUT_METERS, AUDIO_SECONDS)

Meters = dict[str, int]


def tokens_of(meters: Mapping[str, int]) -> int:
    """Return the tokens of all meters together."""
    return sum(quantity for name, quantity in meters.items() if name != AUDIO_SECONDS)
