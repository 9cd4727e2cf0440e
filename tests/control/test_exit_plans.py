"""The exit plan in the state, on SQLite and PostgreSQL, and as a page."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from outlook.test_drill import candidate, world
from upeti.control.exit_plan_page import html
from upeti.control.exit_plans import exit_plan, remove, said_of, set_alternative
from upeti.control.store import Store
from upeti.core.config import Config
from upeti.core.errors import ConfigError
from upeti.journal.acts import read_acts
from upeti.outlook.exit_plan import Said

OpenStore = Callable[[], Store]


def wanted(**changes: Any) -> Said:
    fields = {"id": "", "route": "m", "alternative": "in-house", "months": "3.0", "cost": "100", "currency": "EUR"}
    return Said(
        **fields | {"owner": "head of platforms", "by": "head of legal", "why": "weights", "at_ns": 0} | changes
    )


def test_what_is_said_again_takes_the_earlier_ones_place_and_is_an_act(open_store: OpenStore) -> None:
    store = open_store()
    first = set_alternative(store, ["m"], wanted())
    second = set_alternative(store, ["m"], wanted(months="2"))
    set_alternative(store, ["m"], wanted(alternative="another"))
    assert (first.months, second.months) == ("3", "2")
    assert sorted((one.alternative, one.months) for one in said_of(store, "m")) == [("another", "3"), ("in-house", "2")]
    remove(store, second.id, by="head of legal", why="no more")
    assert [one.alternative for one in said_of(store)] == ["another"]
    acts = [act for act in read_acts(store.data_dir) if act.kind.startswith("exit_plan.")]
    assert [act.kind for act in acts] == ["exit_plan.set"] * 3 + ["exit_plan.removed"]
    assert json.loads(acts[0].detail)["record"]["cost"] == "100"
    with pytest.raises(ConfigError, match="no alternative"):
        remove(store, second.id, by="head of legal", why="again")


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"route": "gone"}, "no route"),
        ({"alternative": " "}, "has a name"),
        ({"currency": ""}, "has a currency"),
        ({"months": "soon"}, "number of months"),
        ({"months": "-1"}, "number of months"),
        ({"cost": "-1"}, "below zero"),
        ({"cost": "1e-13"}, "decimals"),
        ({"by": ""}, "name of a person"),
    ],
)
def test_what_makes_no_sense_is_refused_and_no_act(tmp_path: Any, changes: dict[str, Any], what: str) -> None:
    store = Store(tmp_path)
    with pytest.raises(ConfigError, match=what):
        set_alternative(store, ["m"], wanted(**changes))
    assert not list(read_acts(tmp_path))
    store.close()


def test_the_register_has_every_route_and_a_page(open_store: OpenStore) -> None:
    store = open_store()
    set_alternative(store, ["m"], wanted(alternative="<b>bold</b>"))
    plan = exit_plan(store, Config(), world(candidate("b", 1)))
    assert [one["route"] for one in plan["routes"]] == ["m"]
    assert plan["leaves_with_us"]["pairs"] == 0
    assert plan["routes"][0]["leaving"]["cost"] == {"EUR": "100"}
    page = html(plan)
    assert "&lt;b&gt;bold" in page
    assert "no drill has looked at it yet" in page
