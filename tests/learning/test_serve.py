"""Students on the wire: who is answered, who is left to the next candidate and why, in batches and while they are swapped."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.tiny_students import FORM, TEMPLATE, TinyFile, TinyStudent, load, messages, tiny_folder, tiny_served
from upeti.core.config_learning import Learning
from upeti.learning import answers
from upeti.learning.ladder import Ladder
from upeti.learning.serve import Connection, Students
from upeti.learning.served import First, Served
from upeti.learning.template import Template
from upeti.wire.deferral import Reason

HOUR_NS = 3600 * 10**9


class Running:
    """A process' students in the test's own loop."""

    def __init__(self, students: Students, url: str) -> None:
        self.students = students
        self.url = url
        self.http = httpx.AsyncClient(base_url=url, timeout=10)
        self.refused: list[str] = []
        self.failed: list[str] = []

    async def ask(self, text: str = "refund please", model: str = "own-1", **fields: Any) -> httpx.Response:
        body = {"model": model, "messages": messages(text), **fields}
        return await self.http.post("/v1/chat/completions", json=body)

    async def deferred(self, text: str = "refund please", **fields: Any) -> str:
        """Return why a call was left."""
        answer = await self.ask(text, **fields)
        assert answer.status_code == 422, answer.text
        assert answer.json()["error"]["code"] == "deferred"
        return answer.headers["x-upeti-deferred"]

    def student(self, model: str = "own-1") -> TinyStudent:
        student = self.students.by_model[model].student
        assert isinstance(student, TinyStudent)
        return student


@asynccontextmanager
async def running(*served: Served, **settings: Any) -> AsyncIterator[Running]:
    executor = ThreadPoolExecutor(4)
    connections: set[Connection] = set()
    found: Running
    students = Students(
        load,
        Learning(**settings),
        executor,
        refused=lambda one, error: found.refused.append(one.model),
        failed=lambda one, error: found.failed.append(one.model),
    )
    server = await asyncio.get_running_loop().create_server(lambda: Connection(students, connections), "127.0.0.1", 0)
    found = Running(students, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    await students.take(served)
    try:
        yield found
    finally:
        await found.http.aclose()
        server.close()
        executor.shutdown()


async def test_what_it_is_sure_of_is_answered_and_the_rest_is_left_with_a_reason(tmp_path: Path) -> None:
    async with running(tiny_served(tmp_path)) as served:
        answer = await served.ask("refund please")
        assert answer.status_code == 200
        assert answer.json()["choices"][0]["message"]["content"] == "refund"
        assert answer.json()["model"] == "own-1"
        assert answers.read_answer(FORM, answer.content) == ("refund",)
        assert await served.deferred("refund unsure") == "not_sure"
        assert await served.deferred("refund unlike") == "out_of_scope"
        assert await served.deferred(model="own-2") == "not_ready"
        (status,) = served.students.status().values()
        assert (status["state"], status["answered"]) == ("ready", 1)
        assert status["deferred"] == {"not_sure": 1, "out_of_scope": 1}


async def test_what_is_unlike_its_texts_is_answered_where_nobody_asks_for_that(tmp_path: Path) -> None:
    async with running(tiny_served(tmp_path, out_of_scope=False)) as served:
        assert (await served.ask("refund unlike")).status_code == 200


@pytest.mark.parametrize(("threshold", "status"), [(0.9, 200), (0.9 + 1e-9, 422), (0.0, 200), (1.1, 422)])
async def test_it_answers_from_its_threshold_on(tmp_path: Path, threshold: float, status: int) -> None:
    async with running(tiny_served(tmp_path, threshold=threshold)) as served:
        assert (await served.ask()).status_code == status


async def test_a_promise_that_is_over_is_not_kept_up(tmp_path: Path) -> None:
    now_ns = time.time_ns()
    lapsed = tiny_served(tmp_path / "1", lapses_ns=now_ns - 1)
    lasting = tiny_served(tmp_path / "2", "own-2", lapses_ns=now_ns + HOUR_NS)
    async with running(lapsed, lasting) as served:
        assert await served.deferred() == "lapsed"
        assert (await served.ask(model="own-2")).status_code == 200
        served.students.stop("own-2", "the audit gave the alarm")
        assert await served.deferred(model="own-2") == "stopped"
        assert served.students.status()["own-2"]["why"] == "the audit gave the alarm"


IMAGE = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,xx"}}]
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 2},
        {"logprobs": True},
        {"logprobs": True, "top_logprobs": 3},
        {"tools": [TOOL]},
        {"functions": [TOOL["function"]]},
        {"response_format": {"type": "json_object"}},
        {"modalities": ["text", "audio"], "audio": {"voice": "x", "format": "wav"}},
        {"web_search_options": {}},
        {"messages": [{"role": "user", "content": IMAGE}]},
        {"messages": [*messages("refund please"), {"role": "assistant", "tool_calls": [CALL]}]},
        {"max_tokens": 1},
        {"max_completion_tokens": 1},
        {"stop": ["fun"]},
        {"stop": "fun"},
        {"messages": "no list"},
        {"messages": []},
        {"messages": [7]},
    ],
)
async def test_what_no_student_does_is_left(tmp_path: Path, fields: dict[str, Any]) -> None:
    async with running(tiny_served(tmp_path)) as served:
        assert await served.deferred(**fields) == "cannot"


async def test_what_says_the_usual_is_answered(tmp_path: Path) -> None:
    usual = {"n": 1, "logprobs": False, "temperature": 0, "max_tokens": 2, "stop": ["\n"], "user": "u", "tools": None}
    parts = [{"role": "system", "content": messages("")[0]["content"]}]
    parts.append({"role": "user", "content": [{"type": "text", "text": "refund please"}]})
    async with running(tiny_served(tmp_path)) as served:
        assert (await served.ask(**usual)).status_code == 200
        assert (await served.ask(messages=parts)).status_code == 200


async def test_another_prompt_is_another_task(tmp_path: Path) -> None:
    async with running(tiny_served(tmp_path)) as served:
        for others in (
            [{"role": "system", "content": "Name the mood of the message."}, messages("x")[1]],
            [messages("x")[1]],
            [*messages("x"), {"role": "assistant", "content": "y"}, messages("z")[1]],
        ):
            assert await served.deferred(messages=others) == "other_template"
    slots = Template(("user",), (("Text: ", "\nIntent:"),))
    async with running(tiny_served(tmp_path, template=slots)) as served:
        answer = await served.ask(messages=[{"role": "user", "content": "Text: refund please\nIntent:"}])
        assert answer.json()["choices"][0]["message"]["content"] == "refund"


async def test_the_official_client_reads_plain_and_streamed_answers(tmp_path: Path) -> None:
    async with running(tiny_served(tmp_path)) as served:
        client = openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0)
        whole = await client.chat.completions.create(model="own-1", messages=messages("refund please"))
        assert whole.choices[0].message.content == "refund"
        assert whole.usage is not None
        assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens > 0
        stream = await client.chat.completions.create(
            model="own-1", messages=messages("refund please"), stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "refund"
        assert chunks[-1].usage == whole.usage
        assert [model.id async for model in client.models.list()] == ["own-1"]
        with pytest.raises(openai.UnprocessableEntityError):
            await client.chat.completions.create(model="own-1", messages=messages("refund unsure"), stream=True)
        await client.close()


async def test_what_is_no_call(tmp_path: Path) -> None:
    async with running(tiny_served(tmp_path)) as served:
        assert (await served.http.get("/health")).json()["students"]["own-1"]["state"] == "ready"
        for path, method, content, status in (
            ("/v1/chat/completions", "POST", b"{", 400),
            ("/v1/chat/completions", "POST", b"[]", 400),
            ("/v1/chat/completions", "POST", b"[" * 100_000, 400),
            ("/v1/chat/completions", "POST", b'{"model":"\xff"}', 400),
            ("/v1/chat/completions", "GET", b"", 405),
            ("/v1/embeddings", "POST", b"{}", 404),
        ):
            answer = await served.http.request(method, path, content=content)
            assert (answer.status_code, bool(answer.json()["error"]["message"])) == (status, True)
        reader, writer = await asyncio.open_connection("127.0.0.1", int(served.url.rpartition(":")[2]))
        writer.write(b"this is no HTTP\r\n\r\n")
        assert await reader.read() == b""
        assert (await served.ask()).status_code == 200


async def test_requests_that_come_together_on_one_connection_are_answered_in_order(tmp_path: Path) -> None:
    async with running(tiny_served(tmp_path, text_ms=3)) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(served.url.rpartition(":")[2]))
        bodies = [json.dumps({"model": "own-1", "messages": messages(f"label{n} x")}).encode() for n in range(5)]
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n"
        for number, body in enumerate(bodies):
            last = b"connection: close\r\n" if number == 4 else b""
            writer.write(head % len(body) + last + b"\r\n" + body)
        said = (await reader.read()).decode()
        places = [said.index(f'"content":"label{number}"') for number in range(5)]
        assert places == sorted(places)
        writer.close()


# -- batches -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text_ms", [0.0, 3.0])
async def test_calls_that_come_together_are_predicted_together(tmp_path: Path, text_ms: float) -> None:
    async with running(tiny_served(tmp_path, text_ms=text_ms), batch_max=16, answer_within_ms=10_000) as served:
        student = served.student()
        student.sizes.clear()
        found = await asyncio.gather(*(served.ask(f"label{number} x") for number in range(60)))
        said = [answer.json()["choices"][0]["message"]["content"] for answer in found]
        assert said == [f"label{number}" for number in range(60)]
        assert sum(student.sizes) == 60
        assert max(student.sizes) <= 16
        assert len(student.sizes) < 60


async def test_a_batch_may_wait_for_others(tmp_path: Path) -> None:
    async with running(tiny_served(tmp_path), batch_wait_ms=100) as served:
        student = served.student()
        student.sizes.clear()
        await asyncio.gather(*(served.ask(f"label{number} x") for number in range(8)))
        assert student.sizes == [8]


async def test_what_cannot_be_answered_in_time_is_left_at_once(tmp_path: Path) -> None:
    async with running(tiny_served(tmp_path, text_ms=20), answer_within_ms=250, batch_max=4) as served:
        found = await asyncio.gather(*(served.ask(f"label{number} x") for number in range(60)))
        reasons = [answer.headers.get("x-upeti-deferred") for answer in found]
        assert reasons.count("busy") + reasons.count(None) == 60
        assert reasons.count("busy") > 20
        assert reasons.count(None) >= 4
        assert (await served.ask()).status_code == 200
    async with running(tiny_served(tmp_path, text_ms=20), queue_max=1, answer_within_ms=10_000) as served:
        found = await asyncio.gather(*(served.ask(f"label{number} x") for number in range(12)))
        assert "busy" in [answer.headers.get("x-upeti-deferred") for answer in found]


async def test_who_has_left_is_not_predicted(tmp_path: Path) -> None:
    async with running(tiny_served(tmp_path, text_ms=30), answer_within_ms=10_000, batch_max=1) as served:
        student = served.student()
        student.sizes.clear()
        asking = [asyncio.ensure_future(served.ask(f"label{number} x")) for number in range(10)]
        await asyncio.sleep(0.05)
        for one in asking[3:]:
            one.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        assert (await served.ask()).status_code == 200
        assert sum(student.sizes) < 9


async def test_a_student_that_raises_leaves_the_call_and_goes_on(tmp_path: Path) -> None:
    for text_ms in (0.0, 3.0):
        async with running(tiny_served(tmp_path, text_ms=text_ms)) as served:
            assert await served.deferred("broken") == "not_ready"
            assert served.failed == ["own-1"]
            assert (await served.ask()).status_code == 200


# -- swaps -------------------------------------------------------------------------------------------------------------


async def test_a_swap_drops_no_call_and_each_is_answered_by_one_student_or_the_next(tmp_path: Path) -> None:
    first = tiny_served(tmp_path / "a", mark="-a", text_ms=2)
    second = tiny_served(tmp_path / "b", mark="-b", text_ms=2)
    async with running(first, answer_within_ms=10_000) as served:
        said: list[str] = []
        stop = False

        async def caller(number: int) -> None:
            while not stop:
                answer = await served.ask(f"label{number} x")
                assert answer.status_code == 200
                said.append(answer.json()["choices"][0]["message"]["content"])

        callers = [asyncio.ensure_future(caller(number)) for number in range(8)]
        for wanted in (second, first, second):
            count = len(said)
            while len(said) < count + 40:
                await asyncio.sleep(0.005)
            await served.students.take([wanted])
        count = len(said)
        while len(said) < count + 40:
            await asyncio.sleep(0.005)
        stop = True
        await asyncio.gather(*callers)
    assert {one[-2:] for one in said} == {"-a", "-b"}
    assert said[0].endswith("-a")
    assert said[-1].endswith("-b")


async def test_a_folder_that_was_touched_is_refused_and_the_others_go_on(tmp_path: Path) -> None:
    first, second = tiny_served(tmp_path / "a", "own-1"), tiny_served(tmp_path / "b", "own-2")
    with (tmp_path / "a" / "tiny.json").open("ab") as file:
        file.write(b" ")
    async with running(first, second) as served:
        assert served.refused == ["own-1"]
        assert await served.deferred() == "not_ready"
        assert (await served.ask(model="own-2")).status_code == 200
        status = served.students.status()
        assert status["own-1"]["state"] == "refused"
        assert "not what was certified" in status["own-1"]["why"]
        # Brought back, it is served.
        await served.students.take([tiny_served(tmp_path / "a", "own-1"), second])
        assert (await served.ask()).status_code == 200
        # Who is no longer named is gone.
        await served.students.take([second])
        assert await served.deferred() == "not_ready"


async def test_another_threshold_loads_nothing(tmp_path: Path) -> None:
    async with running(tiny_served(tmp_path)) as served:
        before = served.student()
        await served.students.take([tiny_served(tmp_path, threshold=0.95)])
        assert served.student() is before
        assert await served.deferred() == "not_sure"


async def test_a_certificate_of_some_answers_lets_it_give_no_other(tmp_path: Path) -> None:
    async with running(tiny_served(tmp_path, only=(("refund",),))) as served:
        assert (await served.ask("refund please")).status_code == 200
        assert await served.deferred("invoice please") == "not_sure"


# -- ladders -----------------------------------------------------------------------------------------------------------


def ladder(folder: Path, sure: float = 0.8, text_ms: float = 5.0, **changes: Any) -> Served:
    first = First(str(folder / "first"), tiny_folder(folder / "first", mark="-first"), sure)
    return tiny_served(folder / "then", mark="-then", text_ms=text_ms, first=first, threshold=0.3, **changes)


async def test_the_quick_one_says_what_it_is_sure_of_and_never_waits_for_the_other(tmp_path: Path) -> None:
    async with running(ladder(tmp_path, text_ms=200), answer_within_ms=10_000) as served:
        slow = asyncio.ensure_future(served.ask("refund unsure"))
        quick = [(await served.ask(f"label{number} x")).json() for number in range(5)]
        assert not slow.done()
        assert {one["choices"][0]["message"]["content"][-6:] for one in quick} == {"-first"}
        assert (await slow).json()["choices"][0]["message"]["content"] == "refund-then"
        assert await served.deferred("refund unlike") == "out_of_scope"
        steps = served.students.status()["own-1"]["steps"]
        assert [step["texts"] for step in steps] == [7, 2]


@given(
    st.lists(st.sampled_from(["refund x", "refund unsure", "refund unlike", "x"])), st.sampled_from([0.0, 0.4, 0.8, 1])
)
def test_a_ladder_says_of_a_text_the_same_in_every_batch(texts: list[str], sure: float) -> None:
    both = Ladder(TinyStudent(TinyFile("-first")), TinyStudent(TinyFile("-then")), sure)
    whole = both.predict(texts)
    each = [both.predict([text]) for text in texts]
    assert whole.answers == [one.answers[0] for one in each]
    assert whole.confidence == [one.confidence[0] for one in each]
    assert whole.in_scope == [one.in_scope[0] for one in each]


def test_the_two_of_a_ladder_answer_in_one_form() -> None:
    other = TinyStudent(TinyFile())
    other.form = msgspec.structs.replace(FORM, prefix="Label: ")
    with pytest.raises(ValueError, match="different forms"):
        Ladder(TinyStudent(TinyFile()), other, 0.5)


async def test_whoever_audits_is_told_of_answers_alone(tmp_path: Path) -> None:
    async with running(tiny_served(tmp_path)) as served:
        told: list[tuple[str, bytes, answers.Values]] = []
        served.students.on_answer = lambda one, body, predicted: told.append((one.model, body, predicted.values))
        await served.ask()
        await served.deferred("refund unsure")
        ((model, body, values),) = told
        assert (model, values, json.loads(body)["messages"]) == ("own-1", ("refund",), messages("refund please"))


def test_every_reason_can_be_said() -> None:
    from upeti.learning import serve

    assert set(serve._DEFERRED) == set(serve._DEFERRED_LINES) == set(Reason)
    assert TEMPLATE.slots == 1
