"""Recorded answers are said again as they were recorded, and nothing else is ever said."""

from __future__ import annotations

import asyncio
import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import anthropic
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

import upeti.sim
from upeti.core.errors import ConfigError
from upeti.sim.behaviours import behaviour_of
from upeti.sim.http import Request
from upeti.sim.provider import SimProvider
from upeti.sim.replay import Latency, Recording, one_line, pattern_of, pieces, question_of, read_recording

ROOT = Path(upeti.sim.__file__).parents[3]
BANKING = ROOT / "examples" / "data" / "banking77.csv"
SNAPSHOTS = {"gpt-4-first": "gpt4", "gpt-4-second": "gpt4_other_prompt"}


@pytest.fixture(scope="module")
def banking() -> Recording:
    templates = ["What is the intent of this message?\n{text}\nAnswer with its name."]
    return read_recording(BANKING, "text", SNAPSHOTS, templates)


def asked(
    recording: Recording, text: str, model: str = "gpt-4-first", number: int = 1
) -> tuple[int, dict[str, object]]:
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": text}]}).encode()
    answer = recording(Request(b"", body, body, "POST", "/v1/chat/completions", [], number), behaviour_of())
    return answer.status, json.loads(answer.body)


async def test_the_clients_people_use_get_what_was_recorded(banking: Recording) -> None:
    with BANKING.open(newline="") as file:
        row = next(row for row in csv.DictReader(file) if row["gpt4"] != row["gpt4_other_prompt"])
    message = f"What is the intent of this message?\n\n  {row['text']}\nAnswer with its name."
    said = {"gpt-4-first": row["gpt4"], "gpt-4-second": row["gpt4_other_prompt"]}
    async with SimProvider(says=banking) as provider:
        client = openai.AsyncOpenAI(base_url=f"{provider.url}/v1", api_key="k", max_retries=0)
        for model, expected in said.items():
            plain = await client.chat.completions.create(model=model, messages=[{"role": "user", "content": message}])
            assert plain.choices[0].message.content == expected
            assert plain.usage is not None
            assert plain.usage.completion_tokens == max(1, len(expected) // 4)
            assert plain.usage.prompt_tokens == len(message.encode()) // 4
            stream = await client.chat.completions.create(
                model=model,
                messages=[{"role": "user", "content": message}],
                stream=True,
                stream_options={"include_usage": True},
            )
            parts = [part async for part in stream]
            assert "".join(part.choices[0].delta.content or "" for part in parts if part.choices) == expected
            assert parts[-1].usage == plain.usage
        response = await client.responses.create(model="gpt-4-first", instructions="Be brief.", input=message)
        assert response.output_text == row["gpt4"]
        async with anthropic.AsyncAnthropic(base_url=provider.url, api_key="k", max_retries=0) as other:
            claude = await other.messages.create(
                model="gpt-4-second", max_tokens=9, messages=[{"role": "user", "content": message}]
            )
        assert claude.content[0].type == "text"
        assert claude.content[0].text == row["gpt4_other_prompt"]
        assert [one.id for one in (await client.models.list()).data] == list(SNAPSHOTS)
        with pytest.raises(openai.NotFoundError, match="No answer of gpt-4-first to this text was recorded"):
            await client.chat.completions.create(
                model="gpt-4-first",
                messages=[{"role": "user", "content": message.replace(row["text"], "Never asked.")}],
            )
        await client.close()


def test_every_recorded_answer_comes_back(banking: Recording) -> None:
    with BANKING.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["gpt4"]]
    for row in rows[::40]:
        status, body = asked(banking, f"What is the intent of this message? {row['text']} Answer with its name.")
        assert (status, body["choices"][0]["message"]["content"]) == (200, row["gpt4"])  # type: ignore[index]
    assert len(rows) == 3080


def test_what_is_not_there_is_said_to_be_missing(banking: Recording) -> None:
    assert asked(banking, "How do I locate my card?") == (404, _missing("has no text where the recording"))
    status, body = asked(banking, "anything", model="gpt-5")
    assert (status, body["error"]["code"]) == (404, "model_not_found")  # type: ignore[index]
    assert "only of: gpt-4-first, gpt-4-second" in body["error"]["message"]  # type: ignore[index]


def _missing(words: str) -> object:
    class Has:
        def __eq__(self, other: object) -> bool:
            return isinstance(other, dict) and words in other["error"]["message"]

        def __repr__(self) -> str:
            return f"an error that says {words!r}"

    return Has()


def test_json_lines_carry_their_own_counts_and_answers_that_are_no_text(tmp_path: Path) -> None:
    file = tmp_path / "recorded.jsonl"
    rows = [
        {"q": "one  two", "a": {"label": "x"}, "input_tokens": 120, "output_tokens": 7, "latency_ms": 250},
        {"q": "one two", "a": "again", "a_latency_ms": 0},
        {"q": "three", "a": None},
    ]
    file.write_text("\n".join(json.dumps(row) for row in rows))
    recording = read_recording(file, "q", {"m": "a"})
    status, body = asked(recording, " one two ", "m", number=2)
    assert (status, body["choices"][0]["message"]["content"]) == (200, '{"label": "x"}')  # type: ignore[index]
    assert body["usage"]["prompt_tokens"] == 120  # type: ignore[index]
    assert body["usage"]["completion_tokens"] == 7  # type: ignore[index]
    status, body = asked(recording, "one two", "m", number=3)
    assert body["choices"][0]["message"]["content"] == "again"  # type: ignore[index]
    assert asked(recording, "three", "m")[0] == 404
    raw = json.dumps({"model": "m", "messages": [{"role": "user", "content": "one two"}]}).encode()
    request = Request(b"", raw, raw, "POST", "/v1/chat/completions", [], 2)
    assert recording(request, behaviour_of()).wait_s == 0.25
    assert recording(request, behaviour_of("err503")).status == 503


def test_times_are_drawn_the_same_again() -> None:
    times = [Latency(300, 0.4, seed=7).seconds(number) for number in range(400)]
    assert times == [Latency(300, 0.4, seed=7).seconds(number) for number in range(400)]
    assert 0.25 < sorted(times)[200] < 0.36
    assert Latency().seconds(1) == 0


def test_a_file_that_is_no_recording_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("text,gpt4\nhello,x\n")
    with pytest.raises(ConfigError, match="no field 'gpt5', only text, gpt4"):
        read_recording(file, "text", {"m": "gpt5"})
    with pytest.raises(ConfigError, match="at least one model"):
        read_recording(file, "text", {})
    with pytest.raises(ConfigError, match=r"\{text\} once"):
        read_recording(file, "text", {"m": "gpt4"}, templates=["Intent?"])
    lines = tmp_path / "a.jsonl"
    lines.write_text("[1]\n")
    with pytest.raises(ConfigError, match="cannot be read as a recording"):
        read_recording(lines, "text", {"m": "gpt4"})
    with pytest.raises(ConfigError, match="cannot be read as a recording"):
        read_recording(tmp_path / "nowhere.csv", "text", {"m": "gpt4"})


def test_several_templates_are_tried_in_their_order() -> None:
    recording = read_recording(BANKING, "text", {"m": "gpt4"}, ["Intent of {text}", "{text}"])
    for message in ("Intent of How do I locate my card?", "How do I locate my card?"):
        assert asked(recording, message, "m")[0] == 200
    status, body = asked(recording, "Intent of nothing", "m")
    assert (status, "was recorded: 'nothing'" in body["error"]["message"]) == (404, True)  # type: ignore[index]


@given(before=st.text(max_size=20), text=st.text(min_size=1, max_size=30), behind=st.text(max_size=20))
def test_a_pattern_gives_back_the_text_that_was_put_in(before: str, text: str, behind: str) -> None:
    template = f"{before.replace('{', '')} {{text}} {behind.replace('{', '')}"
    message = one_line(template.replace("{text}", text))
    if one_line(text):
        found = pattern_of(template).fullmatch(message)
        assert found is not None
        assert found[1] == one_line(text)


@given(text=st.text(max_size=50), count=st.integers(1, 20))
def test_pieces_are_the_text(text: str, count: int) -> None:
    assert "".join(pieces(text, count)) == text
    assert len(pieces(text, count)) == count


def test_the_question_is_the_users_last_message_on_every_wire() -> None:
    turns = [
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "well"},
        {"role": "user", "content": [{"type": "text", "text": "the "}, {"type": "text", "text": "last"}]},
    ]
    assert question_of({"messages": turns}) == question_of({"input": turns}) == "the last"
    assert question_of({"input": "asked"}) == question_of({"prompt": "asked"}) == "asked"
    assert question_of({"messages": []}) is question_of({"prompt": ["a"]}) is None


async def test_the_command_serves_a_recording_until_it_is_stopped() -> None:
    command = [sys.executable, "-m", "upeti.cli.main", "simulate", "replay", str(BANKING), "--answers", "gpt-4=gpt4"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as process:
        assert process.stdout is not None
        ready = json.loads(await asyncio.to_thread(process.stdout.readline))
        client = openai.AsyncOpenAI(base_url=f"{ready['url']}/v1", api_key="k", max_retries=0)
        made = await client.chat.completions.create(
            model="gpt-4", messages=[{"role": "user", "content": "How do I locate my card?"}]
        )
        await client.close()
        process.send_signal(signal.SIGINT)
        assert made.choices[0].message.content == "card_arrival"
        assert await asyncio.to_thread(process.wait, 10) == 0
