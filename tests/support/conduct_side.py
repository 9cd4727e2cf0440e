"""Calls of an honest app and of a harvester, made up from a seed; and thresholds with windows small enough for a test."""

from __future__ import annotations

import json
import random
from typing import Any

import msgspec

from upeti.rights.conduct.thresholds import Thresholds, thresholds

WORDS = ("card", "money", "transfer", "account", "refund", "top-up", "pin", "statement", "rate", "fee", "app", "phone")


def small(calls: int) -> Thresholds:
    """Return the shipped thresholds with windows of ``calls``, and a past of two of them."""
    windows = msgspec.structs.replace(thresholds().windows, calls=calls, reference_calls=2 * calls)
    return msgspec.structs.replace(thresholds(), windows=windows)


def question(dice: random.Random) -> str:
    words = " ".join(dice.choices(WORDS, k=dice.randint(2, 9)))
    opening = dice.choice(["Why is my", "Where is the", "my", "Can I get a", "please help:"])
    return f"{opening} {words}{dice.choice(['?', '', '.'])}"


def task(dice: random.Random) -> str:
    listed = "\n".join(f"Task {place}: {' '.join(dice.choices(WORDS, k=dice.randint(4, 20)))}" for place in range(1, 9))
    return f"Come up with a series of tasks. Think step by step.\n{listed}\nTask 9:"


def body(text: str, system: str = "", **fields: Any) -> bytes:
    messages = [{"role": "system", "content": system}] * bool(system) + [{"role": "user", "content": text}]
    return json.dumps({"model": "m", "messages": messages, **fields}).encode()
