"""The control API's part for students: where each stands, and letting them in or taking them out.

Students are trained, registered and certified on the machine that has the rows, by command.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, HTTPException

from upeti.control import models, rollout, students
from upeti.control.api_parts import Authorize, Bearer, Keeper, Signed, refusals
from upeti.control.students import Student
from upeti.rights.stage import StageError

_MOVES: dict[str, tuple[Callable[..., Student], str]] = {
    "promote": (rollout.promote, "Let a student into the next stage"),
    "demote": (rollout.demote, "Bring a student back by one stage"),
    "roll-back": (rollout.roll_back, "Take a student out at once"),
    "readmit": (rollout.readmit, "Let a student that was rolled back begin again in the shadow"),
}


def add_students(app: FastAPI, keeper: Keeper, authorize: Authorize) -> None:
    """Add the routes below ``/v1/students``."""

    @app.get("/v1/students", summary="Students with their stage, certificate and audits")
    def list_students(credentials: Bearer) -> list[dict[str, Any]]:
        authorize(credentials)
        return [_shown(one) for one in students.all_students(keeper.store)]

    @app.get("/v1/students/{name}", summary="One student, and why it does not answer")
    def show_student(name: str, credentials: Bearer) -> dict[str, Any]:
        authorize(credentials)
        with refusals():
            return _shown(students.student(keeper.store, name))

    @app.post("/v1/students/{name}/retire", summary="Take a student out of use for good")
    def retire_student(name: str, signed: Signed, credentials: Bearer) -> dict[str, Any]:
        def move(store: Any, name: str, **who: str) -> Student:
            one = students.student(store, name)
            models.retire(store, one.model.id, **who)
            return students.student(store, one.model.id)

        return _moved(move, name, signed, credentials)

    def add_move(word: str, move: Callable[..., Student], summary: str) -> None:
        @app.post(f"/v1/students/{{name}}/{word}", summary=summary)
        def move_student(name: str, signed: Signed, credentials: Bearer) -> dict[str, Any]:
            return _moved(move, name, signed, credentials)

    for word, (move, summary) in _MOVES.items():
        add_move(word, move, summary)

    def _moved(move: Callable[..., Student], name: str, signed: Signed, credentials: Bearer) -> dict[str, Any]:
        authorize(credentials)
        with refusals():
            try:
                one = move(keeper.store, name, by=signed.by, why=signed.why)
            except StageError as error:
                raise HTTPException(409, str(error)) from None
        keeper.refresh()
        return _shown(one)

    def _shown(one: Student) -> dict[str, Any]:
        # scipy takes its time: only who asks for students waits for it.
        from upeti.control.students_view import shown

        return shown(one, keeper.config.learning, time.time_ns())
