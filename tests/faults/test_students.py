"""Faults of own models: a real gateway, the students' process and the official client; whatever happens to the process, a
call is answered by somebody, in time, and nothing is owed for what was not answered.
"""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
import uvloop

from support.gateway_side import Books, candidate, channel, route, serving, snapshot, until
from support.gateway_side import Served as Gateway
from support.learning_side import CARD, banking, trained
from support.students_process import StudentsProcess
from support.tiny_students import TEMPLATE, messages, tiny_served
from upeti.gateway.latch import Latch, Scope, State, Subject
from upeti.gateway.snapshot import ShareView
from upeti.learning.ladder import Ladder
from upeti.learning.served import First, Served
from upeti.learning.train import keep
from upeti.money.price import Price
from upeti.sim.provider import SimProvider

FREE = {"*": (Price("local", "USD", 0, {"input": 0, "output": 0}),)}
MODELS = ("own-1", "own-2", "own-3")
SERVICE = "upeti.control.students_service"  # with students as training makes them


def pytest_asyncio_loop_factories(config: Any, item: Any) -> dict[str, Any]:
    return {"uvloop": uvloop.new_event_loop}


class Scene:
    """A gateway with a route for each student, the same teacher behind all of them."""

    def __init__(self, served: Gateway, students: StudentsProcess, client: openai.AsyncOpenAI) -> None:
        self.served = served
        self.students = students
        self.client = client

    async def ask(self, text: str = "refund please", route: str = "own-1", **fields: Any) -> tuple[str, str]:
        """Return who answered, and what."""
        raw = await self.client.chat.completions.with_raw_response.create(
            model=route, messages=messages(text), **fields
        )
        answer = raw.parse()
        return raw.headers["x-upeti-served-by"].partition("/")[0], answer.choices[0].message.content or ""

    async def stream(self, text: str = "refund please") -> str:
        chunks = await self.client.chat.completions.create(model="own-1", messages=messages(text), stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in chunks if chunk.choices])


@pytest.fixture
async def provider() -> AsyncIterator[SimProvider]:
    async with SimProvider() as teacher:
        yield teacher


@pytest.fixture
def started() -> Iterator[list[StudentsProcess]]:
    processes: list[StudentsProcess] = []
    yield processes
    for process in processes:
        process.end()


@asynccontextmanager
async def scene(
    folder: Path,
    started: list[StudentsProcess],
    teacher: SimProvider,
    *served: Served,
    within_ms: int = 500,
    module: str = "support.tiny_students",
    **changes: Any,
) -> AsyncIterator[Scene]:
    students = StudentsProcess(folder / "students", *served, module=module, answer_within_ms=within_ms)
    started.append(students)
    await asyncio.to_thread(students.start)
    channels = [
        channel("own", students.port, "student", path="/v1", answer_within_ms=within_ms),
        channel("teacher", teacher),
    ]
    routes = [
        route(model, candidate("own", model, prices=FREE), candidate("teacher", "gpt", order=1), deadline_ms=5_000)
        for model in MODELS
    ]
    shares = {"own": {model: ShareView(1_000_000) for model in MODELS}}
    async with serving(folder / "gateway", snapshot(channels, routes, **({"shares": shares} | changes))) as gateway:
        client = gateway.openai()
        yield Scene(gateway, students, client)
        await client.close()


def ended(books: Books) -> Counter[tuple[str, str]]:
    channels = {(one.call, one.attempt): one.channel for one in books.opened}
    assert not [one for one in books.settled if channels[one.call, one.attempt] == "own" and one.cost_pico]
    return Counter((channels[one.call, one.attempt], one.ended) for one in books.settled)


async def test_answers_of_several_students_and_deferrals_to_their_teacher(
    tmp_path: Path, started: list[StudentsProcess], provider: SimProvider
) -> None:
    served = [tiny_served(tmp_path / model, model, mark=f"-{model}") for model in MODELS]
    async with scene(tmp_path, started, provider, *served) as here:
        for model in MODELS:
            assert await here.ask(route=model) == ("own", f"refund-{model}")
        assert await here.stream() == "refund-own-1"
        assert (await here.ask("refund unsure"))[0] == "teacher"
        assert (await here.ask(n=2))[0] == "teacher"
        assert await here.stream("refund unsure")
        assert provider.seen == 3
    assert ended(here.served.books()) == {("own", "answered"): 4, ("own", "deferred"): 3, ("teacher", "answered"): 3}


async def test_one_that_is_killed_within_a_call_leaves_it_to_the_teacher_and_comes_back(
    tmp_path: Path, started: list[StudentsProcess], provider: SimProvider
) -> None:
    served = tiny_served(tmp_path / "a", text_ms=400)
    async with scene(tmp_path, started, provider, served, within_ms=4_000) as here:
        asking = [asyncio.ensure_future(here.ask(f"label{number} x")) for number in range(4)]
        pool = here.served.gateway.view.channels["own"].pool
        await until(lambda: pool.open_connections == 4, what="the calls")
        here.students.signal(signal.SIGKILL)
        assert [who for who, _ in await asyncio.gather(*asking)] == ["teacher"] * 4
        assert (await here.ask())[0] == "teacher"  # nobody listens
        await asyncio.to_thread(here.students.start)
        here.served.gateway.view.channels["own"].breaker.succeeded()  # its pause is over
        assert await here.ask() == ("own", "refund")
    assert ended(here.served.books())["own", "answered"] == 1
    assert ended(here.served.books())["own", "lost"] == 4


async def test_one_that_hangs_is_passed_over_and_goes_on_later(
    tmp_path: Path, started: list[StudentsProcess], provider: SimProvider
) -> None:
    async with scene(tmp_path, started, provider, tiny_served(tmp_path / "a"), within_ms=150) as here:
        assert await here.ask() == ("own", "refund")
        here.students.signal(signal.SIGSTOP)
        assert [who for who, _ in await asyncio.gather(*(here.ask() for _ in range(3)))] == ["teacher"] * 3
        here.students.signal(signal.SIGCONT)
        assert await here.ask() == ("own", "refund")
    assert ended(here.served.books()) == {
        ("own", "answered"): 2,
        ("own", "timed_out"): 3,
        ("teacher", "answered"): 3,
    }


async def test_a_corrupt_file_is_refused_and_the_other_students_go_on(
    tmp_path: Path, started: list[StudentsProcess], provider: SimProvider
) -> None:
    served = [tiny_served(tmp_path / model, model) for model in MODELS]
    (tmp_path / "own-2" / "tiny.json").write_bytes(b"\0" * 20)
    async with scene(tmp_path, started, provider, *served) as here:
        assert [(await here.ask(route=model))[0] for model in MODELS] == ["own", "teacher", "own"]
        (said,) = [one for one in here.students.events() if one["event"] == "student_refused"]
        assert (said["level"], said["model"]) == ("error", "own-2")
        assert "train and certify anew" in said["message"]
        assert here.students.status()["own-2"]["state"] == "refused"
        # A list that nobody can read changes nothing.
        (here.students.run / "students.json").write_bytes(b"{")
        await until(lambda: "students_refused" in {one["event"] for one in here.students.events()}, what="its log")
        assert (await here.ask())[0] == "own"


async def test_a_trained_student_answers_defers_and_is_refused_when_a_byte_of_it_changed(
    tmp_path: Path, started: list[StudentsProcess], provider: SimProvider
) -> None:
    made = trained("l1")
    served = []
    for model in MODELS[:2]:
        digest = keep(made, tmp_path / model)
        served.append(
            Served(
                model=model,
                folder=str(tmp_path / model),
                sha256=digest,
                task="intents",
                template=TEMPLATE,
                threshold=0.6,
            )
        )
    weights = tmp_path / "own-2" / "weights.safetensors"
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    texts = [row.text for row in banking(labels=CARD)[1][250:290]]
    said = made.student.predict(texts)
    async with scene(tmp_path, started, provider, *served, module=SERVICE, within_ms=4_000) as here:
        found = await asyncio.gather(*(here.ask(text) for text in texts))
        for (who, label), values, confidence, in_scope in zip(
            found, said.answers, said.confidence, said.in_scope, strict=True
        ):
            sure = in_scope and confidence >= 0.6
            assert who == ("own" if sure else "teacher")
            assert not sure or (label,) == values
        assert {who for who, _ in found} == {"own", "teacher"}
        assert (await here.ask("zxq vvkk jjpp 8841"))[0] == "teacher"
        both = {"not_sure", "out_of_scope"}
        await until(lambda: here.students.status()["own-1"]["deferred"].keys() == both, what="its status")
        assert (await here.ask(texts[0], route="own-2"))[0] == "teacher"
        assert "weights.safetensors was changed" in here.students.status()["own-2"]["why"]


async def test_a_trained_ladder_says_what_its_two_students_say(
    tmp_path: Path, started: list[StudentsProcess], provider: SimProvider
) -> None:
    l1, l2 = trained("l1"), trained("l2")
    first = First(str(tmp_path / "l1"), keep(l1, tmp_path / "l1"), 0.7)
    served = Served(
        model="own-1",
        folder=str(tmp_path / "l2"),
        sha256=keep(l2, tmp_path / "l2"),
        task="intents",
        template=TEMPLATE,
        threshold=0.5,
        first=first,
    )
    texts = [row.text for row in banking(labels=CARD)[1][250:274]]
    said = Ladder(l1.student, l2.student, 0.7).predict(texts)
    async with scene(tmp_path, started, provider, served, module=SERVICE, within_ms=10_000) as here:
        found = await asyncio.gather(*(here.ask(text) for text in texts))
        for (who, label), values, confidence, in_scope in zip(
            found, said.answers, said.confidence, said.in_scope, strict=True
        ):
            sure = in_scope and confidence >= 0.5
            assert who == ("own" if sure else "teacher")
            assert not sure or (label,) == values
        await until(lambda: here.students.status()["own-1"]["steps"][1]["texts"], what="its status")
        quick, slow = here.students.status()["own-1"]["steps"]
        assert quick["texts"] > slow["texts"]


async def test_a_swap_under_load_drops_no_call(
    tmp_path: Path, started: list[StudentsProcess], provider: SimProvider
) -> None:
    first, second = (tiny_served(tmp_path / mark, mark=f"-{mark}", text_ms=2) for mark in "ab")
    async with scene(tmp_path, started, provider, first, within_ms=4_000) as here:
        said: list[tuple[str, str]] = []
        stop = False

        async def caller(number: int) -> None:
            while not stop:
                said.append(await here.ask(f"label{number} x"))

        async def more() -> None:
            count = len(said)
            await until(lambda: len(said) > count + 30, what="calls", seconds=10)

        callers = [asyncio.ensure_future(caller(number)) for number in range(6)]
        for wanted in (second, first, second):
            await more()
            here.students.take(wanted)
            mark = wanted.folder[-1]
            await until(lambda at=mark: said[-1][1].endswith(f"-{at}"), what="the other student", seconds=10)
        await more()
        stop = True
        await asyncio.gather(*callers)
    assert {who for who, _ in said} == {"own"}
    assert not provider.seen


async def test_when_it_is_told_to_end_it_finishes_what_it_has_begun(
    tmp_path: Path, started: list[StudentsProcess], provider: SimProvider
) -> None:
    served = tiny_served(tmp_path / "a", text_ms=150)
    async with scene(tmp_path, started, provider, served, within_ms=4_000) as here:
        asking = [asyncio.ensure_future(here.ask(f"label{number} x")) for number in range(3)]
        pool = here.served.gateway.view.channels["own"].pool
        await until(lambda: pool.open_connections == 3, what="the calls")
        await asyncio.sleep(0.05)
        await asyncio.to_thread(here.students.signal, signal.SIGTERM)
        assert sorted(await asyncio.gather(*asking)) == [("own", f"label{number}") for number in range(3)]


async def test_when_the_teacher_is_cut_off_what_the_student_is_sure_of_is_answered(
    tmp_path: Path, started: list[StudentsProcess], provider: SimProvider
) -> None:
    cut = Latch(Subject(Scope.CHANNEL, "teacher"), State.LATCHED, 1, "inc_1", "account_cut", "the account is cut off")
    async with scene(tmp_path, started, provider, tiny_served(tmp_path / "a"), latches=(cut,)) as here:
        assert await here.ask() == ("own", "refund")
        with pytest.raises(openai.InternalServerError) as caught:
            await here.ask("refund unsure")
        assert (caught.value.status_code, caught.value.code) == (503, "student_deferred")
        assert "inc_1" in str(caught.value)
    assert not provider.seen
