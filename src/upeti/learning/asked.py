"""A generative model as a candidate: what it answers to a task's texts, and how sure it is by its own log-probabilities.

Confidence is the probability that the model gives its whole answer: the product over its tokens, the closing one included. So
it is 1 where no other continuation was thinkable, and falls with every token that had an alternative. It is no calibrated
probability of being right; a certificate needs none, only an order. Any server on the OpenAI wire will do (the embedded
one, vLLM, a paid sibling), as long as it tells log-probabilities.
"""

from __future__ import annotations

import http.client
import math
from collections.abc import Sequence
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import msgspec
import numpy as np
from numpy.typing import NDArray

from upeti.core.errors import UpetiError
from upeti.learning.answers import UNREADABLE, AnswerForm, Values, read_answer

_WAIT_S: Final = 120


class AskedError(UpetiError):
    """A server did not answer, or without log-probabilities. The message names the cure."""


class Said(NamedTuple):
    """What was answered to n texts: the shape of a student's prediction. ``in_scope`` is True throughout: it cannot tell."""

    answers: list[Values]
    confidence: NDArray[np.float32]
    in_scope: NDArray[np.bool_]


class _Token(msgspec.Struct):
    logprob: float


class _LogProbabilities(msgspec.Struct):
    content: list[_Token]


class _Choice(msgspec.Struct):
    logprobs: _LogProbabilities | None = None


class _Body(msgspec.Struct):
    choices: list[_Choice]


_decoder = msgspec.json.Decoder(_Body)


def confidence_of(body: bytes) -> float:
    """Return the probability of a ``chat.completions`` body's answer. Raises ``AskedError`` where it is not told."""
    try:
        found = _decoder.decode(body).choices
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise AskedError(f"what the server answered is no chat completion ({error}): is its address right?") from None
    if len(found) != 1 or found[0].logprobs is None or not found[0].logprobs.content:
        raise AskedError("the server tells no log-probabilities, so nobody knows how sure it is: take one that does")
    return min(1.0, math.exp(sum(token.logprob for token in found[0].logprobs.content)))


class AskedModel:
    """A model at an address of the OpenAI wire, asked with the messages of a task. One call at a time; not for two threads."""

    def __init__(
        self, base_url: str, model: str, form: AnswerForm, system: str = "", *, tokens_max: int = 64, api_key: str = ""
    ) -> None:
        """``base_url`` ends in ``/v1``; ``system`` is the system message that the task's prompts have, if any."""
        self.form = form
        self._address = urlsplit(base_url)
        self._model = model
        self._system = system
        self._tokens_max = tokens_max
        self._headers = {"content-type": "application/json"}
        if api_key:
            self._headers["authorization"] = f"Bearer {api_key}"

    def predict(self, texts: Sequence[str]) -> Said:
        """Return the answer to each text. One that is not of the form counts as unreadable. Raises ``AskedError``."""
        bodies = [self.ask(text) for text in texts]
        answers = [read_answer(self.form, body) or UNREADABLE for body in bodies]
        sure = np.array([confidence_of(body) for body in bodies], np.float32)
        return Said(answers, sure, np.ones(len(texts), np.bool_))

    def ask(self, text: str) -> bytes:
        """Return the body that the server answers to one text, at temperature 0."""
        messages = [{"role": "system", "content": self._system}] if self._system else []
        asked: dict[str, Any] = {
            "model": self._model,
            "messages": [*messages, {"role": "user", "content": text}],
            "temperature": 0,
            "max_tokens": self._tokens_max,
            "logprobs": True,
        }
        kind = http.client.HTTPSConnection if self._address.scheme == "https" else http.client.HTTPConnection
        connection = kind(self._address.hostname or "", self._address.port, timeout=_WAIT_S)
        try:
            path = f"{self._address.path.rstrip('/')}/chat/completions"
            connection.request("POST", path, msgspec.json.encode(asked), self._headers)
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise AskedError(f"{self._address.geturl()} does not answer ({error}): is the server running?") from None
        finally:
            connection.close()
        if answer.status != http.client.OK:
            raise AskedError(
                f"{self._address.geturl()} answered {answer.status}: {body[:200].decode(errors='replace')}"
            )
        return body
