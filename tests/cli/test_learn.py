"""The promise over the whole pipe: an app changes nothing, and a part of its calls is answered by a model of one's own."""

from __future__ import annotations

import json
from pathlib import Path

from support.job_side import rows
from support.keeper_side import until
from support.own_model_world import Pipe, Said, pipe
from support.tasks_side import SYSTEM

WHO = ("--by", "head of support", "--why", "asked all day")
ROWS = rows()
TAUGHT = ROWS[:240]


def test_an_app_changes_nothing_and_is_answered_by_an_own_model_where_that_is_sure(tmp_path: Path) -> None:
    with pipe(tmp_path) as app:
        app.keep(TAUGHT)
        (seen,) = [one for one in json.loads(app.upeti("tasks", "list", "--json")) if one["name"] == "intents"]
        assert (seen["calls"], seen["form"]["kind"], seen["model"]) == (240, "label", "gpt-4")
        app.upeti("tasks", "declare", "intents", "--tag", "intents", "--alpha", "0.1", "--delta", "0.1", *WHO)
        said = app.upeti("learn", "run", "intents", *WHO)
        print(said)
        assert "1. built intents@1: 240 rows, 0 left out" in said
        assert "4. let it into the shadow" in said
        assert "Missing" not in said
        assert "Stopped: intents@1 is shadow; the next version" in app.upeti("learn", "run", "intents", *WHO)

        for _ in range(4):
            app.upeti("students", "promote", "intents", *WHO)
        until(lambda: own(app.ask(TAUGHT[0][0])), seconds=20, what="the student's first answer")
        before = answered(app)
        answers = [app.ask(text, stream=bool(number % 2)) for number, (text, _) in enumerate(ROWS[240:340])]
        by_student = [own(one) for one in answers]
        agrees = [one.text == said for one, (_, said) in zip(answers, ROWS[240:340], strict=True)]
        print(f"of 100 calls the student answers {sum(by_student)}, {sum(agrees)} as the teacher would")
        assert 30 < sum(by_student) < 100
        assert all(same for same, mine in zip(agrees, by_student, strict=True) if not mine)
        assert sum(agrees) >= 80  # promised are 90 of calls like these, with probability 0.9
        for stream in (0, 1):
            assert {own(one) for one in answers[stream::2]} == {True, False}
        assert all(one.tokens for one in answers)
        assert not own(app.ask(TAUGHT[0][0], system=f"{SYSTEM} In capitals.")), "another prompt is another task"

        until(lambda: answered(app) - before == sum(by_student), seconds=20, what="the bill")
        assert "own" in app.upeti("bill", "--by", "channel,model")
        status = json.loads(app.upeti("learn", "status", "--json"))[0]
        assert status["students"] == {"intents@1": "live"}
        assert [one["outcome"] for one in status["runs"]] == ["shadow"]
        acts = json.loads(app.upeti("journal", "acts", "--kind", "learning", "--json"))
        assert [(one["kind"], one["actor"]) for one in acts] == [("learning.ran", "head of support")]

        app.upeti("students", "roll-back", "intents", *WHO)
        until(lambda: not own(app.ask(TAUGHT[0][0])), seconds=20, what="the teacher")
        assert "runs every 7d, and after" in app.upeti("learn", "schedule", "intents", "--every", "7d", *WHO)
        assert "`soon` is no span of time" in app.upeti("learn", "schedule", "intents", "--every", "soon", *WHO, code=2)
        assert "has no schedule any more" in app.upeti("learn", "schedule", "intents", "--off", *WHO)


def own(said: Said) -> bool:
    return said.by == "own/intents"


def answered(app: Pipe) -> int:
    """Return how many calls the student answered, as the bill has it: what it left to the teacher has no usage."""
    lines = json.loads(app.upeti("bill", "--by", "channel", "--json"))["lines"]
    return sum(line["attempts"] - line["unmetered"] for line in lines if line["channel"] == "own")
