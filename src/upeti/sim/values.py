"""Values that the fake provider's answers are made of. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

CREATED_S: Final = 1_790_000_000  # a fixed moment: answers are the same in every run

# Two, three and four bytes in UTF-8 among them: a relay that cuts text anywhere shows it here.
TOKENS: Final = ("Halo ", "dunia, ", "café ", "漢字 ", "🙂 ", "harga ", "naik. ")
UNKNOWN_FIELD: Final = {"kept": [1, 2.50, None], "why": "no client knows this field"}


def dumps(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


@dataclass(frozen=True)
class Usage:
    """Tokens of one answer; ``cached`` is part of ``input``, ``reasoning`` part of ``output``."""

    input: int
    output: int
    cached: int = 0
    reasoning: int = 0

    def meters(self, *, split_reasoning: bool = True) -> dict[str, int]:
        reasoning = self.reasoning if split_reasoning else 0
        found = {"input": self.input - self.cached, "output": self.output - reasoning}
        if self.cached:
            found["input_cached"] = self.cached
        if reasoning:
            found["output_reasoning"] = reasoning
        return found

    def upto(self, output: int) -> Usage:
        """Usage when only ``output`` tokens have been made so far."""
        return Usage(self.input, min(output, self.output), self.cached, min(output, self.reasoning))

    def chat(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self.input,
            "completion_tokens": self.output,
            "total_tokens": self.input + self.output,
            "prompt_tokens_details": {"cached_tokens": self.cached, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": self.reasoning, "audio_tokens": 0},
        }

    def responses(self) -> dict[str, Any]:
        return {
            "input_tokens": self.input,
            "input_tokens_details": {"cached_tokens": self.cached},
            "output_tokens": self.output,
            "output_tokens_details": {"reasoning_tokens": self.reasoning},
            "total_tokens": self.input + self.output,
        }

    def anthropic(self) -> dict[str, Any]:
        return {
            "input_tokens": self.input - self.cached,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": self.cached,
            "output_tokens": self.output,
        }


@dataclass(frozen=True)
class Event:
    """One server-sent event and what the provider bills once it has been made."""

    data: bytes
    billed: dict[str, int]


@dataclass(frozen=True)
class Answer:
    """A plain answer (``body``) or a stream (``events``). ``billed`` None: nothing is owed."""

    status: int
    body: bytes = b""
    events: tuple[Event, ...] | None = None
    billed: dict[str, int] | None = None
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()
    wait_s: float = 0.0  # before the first byte
