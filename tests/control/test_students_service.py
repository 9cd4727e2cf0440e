"""The students' process under `upeti serve`: started with the first channel that needs it, and again when it has died."""

from __future__ import annotations

import json
import os
import signal
import urllib.request
from pathlib import Path
from typing import Any

from support.keeper_side import until
from support.learning_side import CARD, banking, trained
from support.tiny_students import TEMPLATE, messages
from support.upeti_process import CONFIG, UpetiProcess, upeti_process
from upeti.gateway import snapshot
from upeti.learning import served as served_file
from upeti.learning.served import STATUS_FILE, Served
from upeti.learning.train import keep

OWN = CONFIG.replace(
    "[[route]]\n",
    '[[channel]]\nname = "own"\nkind = "student"\n\n'
    '[[route]]\nname = "intents"\n'
    'candidate = [{{ channel = "own", model = "intents-1" }}, {{ channel = "sim", model = "m" }}]\n\n[[route]]\n',
    1,
)


def status(upeti: UpetiProcess) -> dict[str, Any]:
    try:
        told: dict[str, Any] = json.loads((upeti.data_dir / "run" / STATUS_FILE).read_bytes())
    except FileNotFoundError:
        return {}
    return told


def answers(port: int) -> bool:
    """Whether the process listens and has its student."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as said:
            students = json.loads(said.read())["students"]
    except OSError:
        return False
    return [one["state"] for one in students.values()] == ["ready"]


def asked(port: int, text: str) -> str:
    """Ask the students' process itself, as a worker does."""
    body = json.dumps({"model": "intents-1", "messages": messages(text)}).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/chat/completions", data=body)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.loads(answer.read())["choices"][0]["message"]["content"]


def test_it_is_started_answers_what_it_is_given_and_comes_back_on_the_same_port(tmp_path: Path) -> None:
    made = trained("l1")
    served = Served(
        model="intents-1",
        folder=str(tmp_path / "l1"),
        sha256=keep(made, tmp_path / "l1"),
        task="intents",
        template=TEMPLATE,
        threshold=0.0,
        out_of_scope=False,
    )
    text = banking(labels=CARD)[1][250].text
    ((label,),) = made.student.predict([text]).answers
    with upeti_process(tmp_path, OWN) as upeti:
        upeti.start()
        first = until(lambda: status(upeti).get("pid"), seconds=20, what="the students' process")
        port = snapshot.read(upeti.data_dir / "run" / "snapshot.msgpack").channels["own"].port
        served_file.write(upeti.data_dir / "run", [served])
        until(lambda: answers(port), seconds=20, what="the student")
        assert asked(port, text) == label
        # Nothing in the state lets it in: no call is sent to it.
        code, body = upeti.call("intents")
        assert (code, body["model"]) == (200, "m")
        os.kill(first, signal.SIGKILL)
        assert upeti.call("intents")[0] == 200
        until(lambda: status(upeti)["pid"] != first, seconds=20, what="another process")
        until(lambda: answers(port), seconds=20, what="the student")
        assert asked(port, text) == label
        assert upeti.stop() == 0
        assert not [one for one in upeti.events() if one["level"] == "error"], upeti.err()
        assert [one["event"] for one in upeti.events() if one["event"] == "students_ended"] == ["students_ended"]


def test_nothing_is_started_where_nobody_has_own_models_or_they_are_turned_off(tmp_path: Path) -> None:
    off = OWN.replace("[money]", "[learning]\nenabled = false\n\n[money]")
    with upeti_process(tmp_path, off) as upeti:
        upeti.start()
        assert upeti.call("intents")[0] == 200
        assert status(upeti) == {}
        upeti.config.write_text(upeti.config.read_text().replace("enabled = false", "enabled = true"))
        until(lambda: status(upeti).get("pid"), seconds=20, what="the students' process")
        assert upeti.stop() == 0
