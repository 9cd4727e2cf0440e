"""The control API's part for lineage: data sets, models and what hangs together; releasing and retiring a model.

Data sets are built and models registered on the machine that has the bodies and the weights, by command.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, HTTPException

from upeti.control import datasets, models
from upeti.control.api_parts import Authorize, Bearer, Keeper, Signed, refusals, shown
from upeti.control.lineage import trace
from upeti.control.rights import terms_in_force
from upeti.rights.stage import StageError


def add_lineage(app: FastAPI, keeper: Keeper, authorize: Authorize) -> None:
    """Add the routes below ``/v1/datasets``, ``/v1/models`` and ``/v1/lineage``."""

    @app.get("/v1/datasets", summary="All versions of all data sets")
    def list_datasets(credentials: Bearer) -> list[dict[str, Any]]:
        authorize(credentials)
        return [shown(one) for one in datasets.all_datasets(keeper.store)]

    @app.get("/v1/models", summary="Own models with their stage")
    def list_models(credentials: Bearer) -> list[dict[str, Any]]:
        authorize(credentials)
        return [shown(one) for one in models.all_models(keeper.store)]

    @app.get("/v1/models/{name:path}", summary="A model and what stands against it now")
    def show_model(name: str, credentials: Bearer) -> dict[str, Any]:
        authorize(credentials)
        with refusals():
            one = models.model(keeper.store, name)
            terms = terms_in_force(keeper.store, keeper.config)
            against = models.standing_against(keeper.store, terms, one, time.time_ns())
        return {**shown(one), "against": [shown(each) for each in against]}

    @app.post("/v1/models/{name:path}/release", summary="Let a quarantined model serve again")
    def release_model(name: str, signed: Signed, credentials: Bearer) -> dict[str, Any]:
        authorize(credentials)
        with refusals():
            terms = terms_in_force(keeper.store, keeper.config)
            return _moved(lambda: models.release(keeper.store, terms, name, by=signed.by, why=signed.why))

    @app.post("/v1/models/{name:path}/retire", summary="Take a model out of use for good")
    def retire_model(name: str, signed: Signed, credentials: Bearer) -> dict[str, Any]:
        authorize(credentials)
        with refusals():
            return _moved(lambda: models.retire(keeper.store, name, by=signed.by, why=signed.why))

    @app.get("/v1/lineage/{name:path}", summary="What a model rests on, and what a clause, a grant or a call touches")
    def show_lineage(name: str, credentials: Bearer) -> dict[str, Any]:
        authorize(credentials)
        with refusals():
            return shown(trace(keeper.store, terms_in_force(keeper.store, keeper.config), name))

    def _moved(move: Callable[[], models.Model]) -> dict[str, Any]:
        try:
            one = move()
        except StageError as error:
            raise HTTPException(409, str(error)) from None
        keeper.refresh()
        return shown(one)
