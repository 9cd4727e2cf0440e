"""A small generative model learns a task on this machine, is served on the OpenAI wire, and is asked as a candidate is."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from support.embedded_side import EmbeddedModel
from support.learning_side import banking
from support.shared_data import shared_data
from support.torch_side import demand_torch
from upeti.core.errors import ConfigError
from upeti.learning.answers import form_of_texts
from upeti.learning.asked import AskedModel, Said, confidence_of
from upeti.learning.generative import (
    GGUF_FILE,
    MERGED_FOLDER,
    RECORD_FILE,
    Message,
    Pair,
    Record,
    load_model,
    pairs_from_lines,
    train_generative,
)
from upeti.learning.train import TrainingError

SYSTEM = "Name the intent of the bank customer."
PAGE = Path(__file__).parents[2] / "docs" / "own-models-larger.md"
INTENTS = ("1", "8", "11", "32", "55")  # that are not easily mixed up: a small model, few rows, a slow machine
TAUGHT, ASKED = 180, 40


@cache
def questions() -> list[tuple[str, str]]:
    """Customers' texts with the intent that GPT-4 told, by its name."""
    lines = (shared_data("banking77-gpt4") / "labels.csv").read_text(encoding="utf-8").splitlines()[1:]
    names = {number: name.strip('"') for number, name in (line.split(",", 1) for line in lines)}
    _, rows = banking(labels=INTENTS)
    return [(row.text, names[row.values[0].removeprefix("intent_")]) for row in rows]


def pair(text: str, answer: str) -> Pair:
    return Pair((Message("system", SYSTEM), Message("user", text)), answer)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's own example, run on the packaged model."""
    demand_torch()
    place = tmp_path_factory.mktemp("l4")
    rows = [
        line([{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}], [choice(answer)])
        for text, answer in questions()[:TAUGHT]
    ]
    (place / "intents.jsonl").write_bytes(b"\n".join(rows))
    (example,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    subprocess.run([sys.executable, "-c", example], cwd=place, check=True)
    return place / "intents-l4"


def asked(model: str) -> tuple[Said, list[bytes]]:
    """Return what a served model says of texts that were not taught, and the bodies of the first five."""
    form = form_of_texts([answer for _, answer in questions()])
    with EmbeddedModel(model) as server:
        candidate = AskedModel(server.url, "any", form, SYSTEM, tokens_max=16)
        texts = [text for text, _ in questions()[TAUGHT : TAUGHT + ASKED]]
        return candidate.predict(texts), [candidate.ask(text) for text in texts[:5]]


def agreement(said: Said) -> float:
    teacher = [answer for _, answer in questions()[TAUGHT : TAUGHT + ASKED]]
    return float(np.mean([one == (other,) for one, other in zip(said.answers, teacher, strict=True)]))


@pytest.mark.slow
def test_what_is_served_answers_as_the_teacher_does(folder: Path) -> None:
    untrained, _ = asked("smollm2-135m")
    trained, bodies = asked(str(folder / GGUF_FILE))
    assert agreement(untrained) < 0.1
    assert agreement(trained) > agreement(untrained) + 0.4
    right = np.array(
        [one == (other,) for one, (_, other) in zip(trained.answers, questions()[TAUGHT : TAUGHT + ASKED], strict=True)]
    )
    assert right.all() or trained.confidence[right].mean() > trained.confidence[~right].mean(), (
        "surer where it is right"
    )

    # The folder for other servers holds the same model: GGUF's order of rows, its template and its tokenizer are right.
    import torch

    model, tokenizer = load_model(folder / MERGED_FOLDER)
    for (text, _), body in zip(questions()[TAUGHT : TAUGHT + 5], bodies, strict=True):
        messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}]
        ids = tokenizer.encode(tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))
        said = json.loads(body)
        first = said["choices"][0]["logprobs"]["content"][0]
        with torch.no_grad():
            scores = model(torch.tensor([ids])).logits[0, -1].log_softmax(0)
        assert said["usage"]["prompt_tokens"] == len(ids)
        assert float(scores[first["id"]]) == pytest.approx(first["logprob"], abs=0.15), "but for rounding to 8 bits"


@pytest.mark.slow
def test_the_record_says_what_was_made_of_what(folder: Path) -> None:
    record = msgspec.json.decode((folder / RECORD_FILE).read_bytes(), type=Record)
    assert (record.pairs, record.too_long, record.base) == (TAUGHT, 0, "smollm2-135m")
    assert record.losses[record.kept_epoch] == min(record.losses) < record.losses[0] / 4
    assert {GGUF_FILE, f"{MERGED_FOLDER}/model.safetensors", f"{MERGED_FOLDER}/config.json"} <= set(record.files)
    assert "quantization_config" not in json.loads((folder / MERGED_FOLDER / "config.json").read_text())
    with pytest.raises(TrainingError, match="is there already"):
        train_generative([pair("a", "b")], folder)


@pytest.mark.slow
def test_what_cannot_be_trained_is_refused_with_the_cure(tmp_path: Path) -> None:
    demand_torch()
    with pytest.raises(ConfigError, match=r"name one of smollm2-135m, or the path of a \.gguf file"):
        train_generative([], tmp_path / "new", base="gpt-5")
    with pytest.raises(ConfigError, match=r"no model\.safetensors"):
        train_generative([], tmp_path / "new", base=str(tmp_path))
    assert not (tmp_path / "new").exists()


def line(messages: list[dict[str, Any]], choices: list[dict[str, Any]], wire: str = "chat_completions") -> bytes:
    return json.dumps({"wire": wire, "request": {"messages": messages}, "answer": {"choices": choices}}).encode()


def choice(content: str | None, reason: str = "stop") -> dict[str, Any]:
    return {"message": {"role": "assistant", "content": content}, "finish_reason": reason}


def test_pairs_are_whole_answers_to_questions_in_text() -> None:
    user = {"role": "user", "content": "Where is my card?"}
    system = {"role": "system", "content": SYSTEM}
    image = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:x"}}]}
    pairs, left_out = pairs_from_lines(
        [
            line([system, user], [choice("card_arrival")]),
            line([system, user], [choice("another")]),
            line([user], [choice("card_arrival")]),
            line([user, image], [choice("card_arrival")]),
            line([user], [choice("card_ar", "length")]),
            line([user], [choice("a"), choice("b")]),
            line([user], [choice(None)]),
            line([user], [choice("a")], "messages"),
            b"{",
        ]
    )
    assert pairs == [
        pair("Where is my card?", "card_arrival"),
        Pair((Message("user", user["content"]),), "card_arrival"),
    ]
    assert sum(left_out.values()) == 7
    assert left_out["the question is there already"] == 1


def test_the_packaged_model_is_asked_as_a_candidate_is() -> None:
    form = form_of_texts(["card_arrival", "lost_card", "card_arrival"])
    with EmbeddedModel("smollm2-135m") as server:
        candidate = AskedModel(server.url, "any", form, tokens_max=4)
        body = candidate.ask("Say yes.")
        said = candidate.predict(["Say yes.", "Say no."])
    tokens = json.loads(body)["choices"][0]["logprobs"]["content"]
    assert confidence_of(body) == pytest.approx(float(np.prod([np.exp(one["logprob"]) for one in tokens])))
    assert said.confidence[0] == pytest.approx(confidence_of(body), rel=0.02)
    assert all(0 < one <= 1 for one in said.confidence)
    assert len(said.answers) == 2
    assert said.in_scope.all()
    assert all(one >= other for one, other in pairwise([1.0, float(said.confidence[0]), 0.0]))
