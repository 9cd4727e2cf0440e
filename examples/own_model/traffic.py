"""The messages of act two: what they are, what the replay answers, and sending them through the gateway."""

from __future__ import annotations

import csv
import json
import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

from openai import OpenAI

DATA = Path(__file__).resolve().parent.parent / "data"
MODEL = "gpt-4"
AT_ONCE = 4  # calls under way


class Messages(NamedTuple):
    """Texts in the order in which they are sent, and the intents that the prompt names."""

    bank: list[str]
    drifted: list[str]
    intents: list[str]


def record(path: Path) -> Messages:
    """Write the answers that the replay gives to ``path``, JSON lines; return the messages.

    To the bank's messages these are what GPT-4 answered. To the others the data set's own labels stand in for the teacher,
    because nobody recorded GPT-4 on them; the demo says so.
    """
    with (DATA / "banking77.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    bank = {row["text"]: row["gpt4"] for row in rows if row["gpt4"]}
    with (DATA / "clinc150.csv").open(newline="") as file:
        drifted = {row["text"]: row["gold"] for row in csv.DictReader(file) if row["text"] not in bank}
    with path.open("w") as out:
        for text, answer in {**bank, **drifted}.items():
            out.write(json.dumps({"text": text, MODEL: answer}) + "\n")
    order = random.Random(77)  # noqa: S311 - repeatable, not secret
    sent = Messages(list(bank), list(drifted), sorted({row["gold"] for row in rows}))
    order.shuffle(sent.bank)
    order.shuffle(sent.drifted)
    return sent


class Counts(NamedTuple):
    """What a client sees of its calls."""

    calls: int
    own: int
    spent: Decimal  # USD, from the answers' heads
    recent: tuple[bool, ...]  # for each call, in the order of answers: was it the own model?

    @property
    def each(self) -> Decimal:
        """Mean cost of a call that GPT-4 answered, USD."""
        return self.spent / max(1, self.calls - self.own)

    @property
    def all_paid(self) -> Decimal:
        """What all calls had cost, the own ones at the mean of the others."""
        return self.each * self.calls


class Stream:
    """Sends messages with the official client, several at once."""

    def __init__(self, base_url: str, key: str, intents: Sequence[str]) -> None:
        self._client = OpenAI(base_url=base_url, api_key=key, max_retries=3)
        self._system = f"Intents: {', '.join(intents)}. Answer with one of them, or a new name where none fits."
        self._lock = threading.Lock()
        self._answered: list[bool] = []
        self._spent = Decimal(0)

    def counts(self) -> Counts:
        with self._lock:
            answered = tuple(self._answered)
            return Counts(len(answered), sum(answered), self._spent, answered)

    def ask(self, text: str) -> None:
        raw = self._client.chat.completions.with_raw_response.create(
            model=MODEL,
            messages=[{"role": "system", "content": self._system}, {"role": "user", "content": text}],
            max_tokens=20,
            extra_headers={"x-upeti-feature": "support", "x-upeti-task": "intent"},
        )
        with self._lock:
            self._answered.append(raw.headers["x-upeti-served-by"].startswith("own/"))
            self._spent += Decimal(raw.headers["x-upeti-cost"])

    def send(self, texts: Sequence[str], per_s: float, until: Callable[[], bool] = lambda: False) -> int:
        """Send texts, at most ``per_s`` in a second, until they are over or ``until`` holds; return how many were sent.

        Raises what a call raised.
        """
        sent, begun_s = 0, time.monotonic()
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for part in (texts[begin : begin + AT_ONCE] for begin in range(0, len(texts), AT_ONCE)):
                if until():
                    break
                calls = [pool.submit(self.ask, text) for text in part]
                for call in calls:
                    call.result()
                sent += len(part)
                time.sleep(max(0.0, begun_s + sent / per_s - time.monotonic()))
        return sent

    def close(self) -> None:
        self._client.close()
