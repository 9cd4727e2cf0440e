"""The promise over the whole pipe: an app changes nothing, and a part of its calls is answered by a model of one's own."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

from support.job_side import rows
from support.keeper_side import until
from support.own_model_world import Pipe, Said, pipe
from support.tasks_side import SYSTEM

ROWS = rows()
TAUGHT = ROWS[:280]
TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorial-own-model.md"
RAN = (
    "keep",
    "find",
    "promise",
    "learn",
    "look",
    "let in",
    "see",
    "go on",
    "take back",
)  # its first blocks of commands


def commands() -> dict[str, list[list[str]]]:
    """Return the tutorial's commands, as they stand, by step."""
    found = re.findall(r"^```sh\n(.*?)^```", TUTORIAL.read_text(), re.MULTILINE | re.DOTALL)
    return {step: [shlex.split(line)[1:] for line in text.splitlines()] for step, text in zip(RAN, found, strict=False)}


def test_the_tutorial_runs_an_app_changes_nothing_and_an_own_model_answers_where_it_is_sure(tmp_path: Path) -> None:
    steps = commands()
    with pipe(tmp_path) as app:

        def run(step: str) -> list[str]:
            held = [path.stem for path in (app.data_dir / "certificates").glob("crt_*.json")]
            return [
                app.upeti(*(re.sub(r"crt_[0-9a-f]+", "".join(held), word) for word in line)) for line in steps[step]
            ]

        app.keep(TAUGHT)
        assert "acme" in run("keep")[0]
        listed, shown = run("find")
        assert "sim/gpt-4" in listed
        assert SYSTEM in shown
        assert "intents is declared: calls with the tag intents" in run("promise")[0]
        first, again = run("learn")
        print(first)
        assert "1. built intents@1: 280 rows, 0 left out" in first
        assert "4. let it into the shadow" in first
        assert "Missing" not in first
        assert "Stopped: intents@1 is shadow; the next version" in again
        student, verified, status = run("look")
        assert "shadow" in student
        assert "rows give all that it states" in verified
        assert "intents@1 shadow" in status

        assert [line.split()[-1] for line in run("let in")] == ["canary_1.", "canary_10.", "canary_50.", "live."]
        until(lambda: own(app.ask(TAUGHT[0][0])), seconds=20, what="the student's first answer")
        until(lambda: own_tokens(app) > 0, seconds=20, what="its place in the bill")
        before = own_tokens(app)
        answers = [app.ask(text, stream=bool(number % 2)) for number, (text, _) in enumerate(ROWS[280:380])]
        by_student = [own(one) for one in answers]
        agrees = [one.text == said for one, (_, said) in zip(answers, ROWS[280:380], strict=True)]
        print(f"of 100 calls the student answers {sum(by_student)}, {sum(agrees)} as the teacher would")
        assert 30 < sum(by_student) < 100
        assert all(same for same, mine in zip(agrees, by_student, strict=True) if not mine)
        assert sum(agrees) >= 80  # promised are 90 of calls like these, with probability 0.99
        for stream in (0, 1):
            assert {own(one) for one in answers[stream::2]} == {True, False}
        assert all(one.tokens for one in answers)
        assert not own(app.ask(TAUGHT[0][0], system=f"{SYSTEM} In capitals.")), "another prompt is another task"

        used = sum(one.tokens for one in answers if own(one))
        until(lambda: own_tokens(app) - before == used, seconds=20, what="the bill of what the app was told it used")
        bill, saved = run("see")
        assert "own" in bill
        assert "intents" in saved
        acts = json.loads(app.upeti("journal", "acts", "--kind", "learning", "--json"))
        assert [(one["kind"], one["actor"]) for one in acts] == [("learning.ran", "head of support")]
        assert "runs every 7d, and after" in run("go on")[0]
        who = ("--by", "head of support", "--why", "soon")
        assert "`soon` is no span of time" in app.upeti("learn", "schedule", "intents", "--every", "soon", *who, code=2)
        back, off = run("take back")
        assert "rolled_back" in back
        assert "has no schedule any more" in off
        until(lambda: not own(app.ask(TAUGHT[0][0])), seconds=20, what="the teacher")


def own(said: Said) -> bool:
    return said.by == "own/intents"


def own_tokens(app: Pipe) -> int:
    """Return how many tokens the bill has of the student."""
    lines = json.loads(app.upeti("bill", "--by", "channel", "--json"))["lines"]
    return sum(line["input_tokens"] + line["output_tokens"] for line in lines if line["channel"] == "own")
