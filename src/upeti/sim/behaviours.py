"""How the fake provider behaves: words in a model's name or in the header ``x-sim``.

Rules: a model name is cut at ``-``, ``_``, ``.``, ``:``, ``/``, ``@`` and blanks; a piece that is one of
the words below, with or without a number behind it, counts; every other piece is only a name.
``gpt-4o-slow300-each`` waits 300 ms and then writes event by event. So a gateway's route chooses the
behaviour by its candidate's model. ``sigopenaiquota`` answers with the body that the row ``openai-quota`` of the table of
signals has as its example.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Final

from upeti.providers.signals import Signal, shipped

WORDS: Final[dict[str, str]] = {
    # how much
    "out": "outN: N output tokens, whatever cap was asked for",
    "in": "inN: N input tokens, whatever the body's length",
    "cached": "half of the input tokens were read from the cache",
    "reason": "half of the output tokens are reasoning",
    "biganswer": "biganswerN: an answer of N KiB (2048)",
    # when
    "slow": "slowN: the first byte after N ms (200), a stream's events N/10 ms apart",
    "drip": "dripN: a stream's events N ms apart (20)",
    "never": "accepts, reads, never answers",
    "stall": "stallN: falls silent after N events (half), the connection stays open",
    # how it is written
    "each": "one write per event",
    "split": "splitN: written in N pieces (8) cut at random bytes",
    "chunked": "a plain answer in chunks, without a content-length",
    "close": "connection: close, no content-length, ended by closing",
    "http10": "answers in HTTP/1.0, ended by closing",
    "drop": "closes the connection after a whole answer without having said so",
    "interim": "an interim answer (100) before the final one",
    "gzip": "content-encoding: gzip, asked for or not",
    "crlf": "a stream's lines end in CR LF",
    "ping": "comments and ping events between a stream's events",
    # what is said about usage
    "nousage": "no usage in the answer",
    "usageeach": "usage so far in every event of a stream",
    "trap": "the answer's text looks like usage and like the end of a stream",
    # what is said about the service tier; else the one that was asked for
    "aspriority": "served at the priority tier, whatever was asked for",
    "asflex": "served at the flex tier",
    "asstandard": "served at the standard tier",
    "notier": "the answer does not say its tier",
    "spillover": "a provisioned deployment was full: the standard one took the call over (Azure)",
    # what goes wrong
    "err": "errN: an error answer of status N in the wire's shape (429 with retry-after)",
    "quota": "429 insufficient_quota",
    "sig": "sigNAME: the error of a row of providers/facts/signals.toml, its id without dashes",
    "echo": "an error's message holds the key that the request carried",
    "parrot": "says back what was asked: an error's message the words, an answer the words backwards",
    "filtered": "a content filter ends the answer (finish_reason content_filter)",
    "cut": "cutN: a stream closed after N events (half)",
    "cutbody": "a plain answer closed before its content-length",
    "reset": "the connection is reset: before the answer, or with cut within it",
    "garbage": "answers what is not HTTP",
    "badjson": "200 with a body that is not JSON",
    "prose": "an answer in prose, though a JSON schema was asked for",
}

# Too short to mean anything without a number: ``sign-in`` is a name.
_NUMBERED: Final = frozenset({"in", "out", "err", "sig"})

_PIECE = re.compile(r"([a-z]+)(\d+)")
_BETWEEN = re.compile(r"[-_.:/@ ,]+")


@dataclass(frozen=True)
class Behaviour:
    """The words that were found, each with its number or None."""

    words: dict[str, int | None]
    signal: Signal | None = None  # of the word ``sig``

    def __contains__(self, word: str) -> bool:
        assert word in WORDS, word
        return word in self.words

    def number(self, word: str, default: int) -> int:
        """Return the number behind ``word``, or ``default`` when there is none."""
        found = self.words.get(word)
        return default if found is None else found


def behaviour_of(*texts: str) -> Behaviour:
    """Read the words out of model names, header values or plain lists of words."""
    words: dict[str, int | None] = {}
    signal = None
    for text in texts:
        for piece in _BETWEEN.split(text.lower()):
            if piece in WORDS and piece not in _NUMBERED:
                words[piece] = None
            elif piece.startswith("sig") and piece[3:] in _signals():
                words["sig"] = None
                signal = _signals()[piece[3:]]
            elif (match := _PIECE.fullmatch(piece)) and match[1] in WORDS:
                words[match[1]] = int(match[2])
    return Behaviour(words, signal)


@cache
def _signals() -> dict[str, Signal]:
    return {row.id.replace("-", ""): row for row in shipped().rows}
