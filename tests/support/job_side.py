"""Lines of a data set with recorded answers of GPT-4 to bank customers, and jobs about them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from support.tasks_side import answer, banking, request
from upeti.learning.answers import form_of_texts
from upeti.learning.job import Source, Train
from upeti.learning.template import read_prompt, template_of

# Eight intents that are told apart well enough by few rows.
INTENTS = (
    "card_arrival",
    "exchange_rate",
    "terminate_account",
    "age_limit",
    "lost_or_stolen_card",
    "change_pin",
    "top_up_limits",
    "verify_my_identity",
)


def rows(labels: Iterable[str] = INTENTS) -> list[tuple[str, str]]:
    """Return texts and what GPT-4 said, of some intents, mixed as in traffic."""
    wanted = set(labels)
    found = [(text, said) for text, said in banking(10_000) if not wanted or said in wanted]
    return [found[number * 997 % len(found)] for number in range(len(found))]


def line(number: int, text: str, said: str, **changes: Any) -> bytes:
    row = {
        "pair_id": f"pair-{number}",
        "channel": "sim",
        "model": "gpt-4",
        "feature": "desk",
        "task": "intents",
        "wire": "chat_completions",
        "captured": "2026-11-02T10:00:00Z",
        "request": request(text),
        "answer": answer(said),
    }
    return json.dumps(row | changes).encode() + b"\n"


def own_line(text: str, label: str) -> bytes:
    return (
        json.dumps({"own": True, "owner": "head of support", "pair_id": "", "text": text, "label": label}).encode()
        + b"\n"
    )


def lines(some: Iterable[tuple[str, str]], **changes: Any) -> bytes:
    return b"".join(line(number, text, said, **changes) for number, (text, said) in enumerate(some))


def source(**changes: Any) -> Source:
    """What the task of these lines is."""
    some = rows()
    prompts = [read_prompt(json.dumps(request(text)).encode()) for text, _ in some[:100]]
    fields: dict[str, Any] = {
        "template": template_of([one for one in prompts if one is not None]),
        "form": form_of_texts(said for _, said in some),
        "channel": "sim",
        "model": "gpt-4",
        "tag": "intents",
        "key": b"intents",
    }
    return Source(**(fields | changes))


def train_job(data: bytes, **changes: Any) -> Train:
    return Train(**({"source": source(), "rows": data, "level": "l1"} | changes))
