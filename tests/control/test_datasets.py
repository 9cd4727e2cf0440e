from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import mlcroissant
import msgspec
import pytest

from support import terms_side
from support.lineage_side import DAY_NS, START_NS, bodies, capture, consent, terms
from upeti.control import consents, datasets, pairs
from upeti.control.signing import public_keys, verify
from upeti.control.store import Store, StoreError
from upeti.core.errors import ConfigError
from upeti.rights.permit import permit
from upeti.rights.terms import Denial, Terms
from upeti.sim.rights_auditor import Complaint, audit_rows

OpenStore = Callable[[], Store]
NOW_NS = START_NS + 100 * DAY_NS


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "data")
    yield opened
    opened.close()


def build(store: Store, held: Terms, **changes: Any) -> tuple[datasets.Dataset, Any]:
    wanted = datasets.Wanted(**({"name": "topics", "purpose": "classify_internal"} | changes))
    return datasets.build(store, held, bodies(store), wanted, by="legal")


def rows_of(made: datasets.Dataset) -> list[dict[str, Any]]:
    return [json.loads(line) for line in datasets.lines_of(made)]


def audit(
    store: Store, held: Terms, made: datasets.Dataset, rows: list[dict[str, Any]] | None = None
) -> list[Complaint]:
    known = {one.pair_id: msgspec.structs.asdict(one) for one in pairs.find(store, erased=None)}
    standing = [msgspec.structs.asdict(one) for one in consents.all_consents(store)]
    return audit_rows(held, rows_of(made) if rows is None else rows, known, standing, made.purpose, NOW_NS)


def mixed(store: Store) -> None:
    """Six pairs: what may be used, another contract's, another tenant's, one erased."""
    consent(store)
    for number in range(3):
        capture(store, number)
    capture(store, 3, channel="strict")
    capture(store, 4, tenant="beta")
    gone = capture(store, 5)
    bodies(store).erase(gone.request_digest)  # as when erasing was broken off


def test_only_what_is_permitted_is_there_and_the_rest_is_named_with_its_clause(
    tmp_path: Path, open_store: OpenStore
) -> None:
    store, held = open_store(), terms(tmp_path)
    mixed(store)
    made, manifest = build(store, held)
    assert [row["pair_id"] for row in rows_of(made)] == ["req_0000-0", "req_0001-0", "req_0002-0"]
    assert {(one.reason, one.clause, one.rows) for one in manifest.left_out} == {
        ("deny", "strict-1/3", 1),
        ("consent", "", 1),
        ("erased", "", 1),
    }
    assert "You must not train on what we answer." in {one.quote for one in manifest.left_out}
    assert manifest.by_clause == {"kind-1/1": 3}
    assert manifest.duties == ("name_prefix:Kind", "notice:Built with Kind")
    assert datasets.check(store, made) == []
    assert audit(store, held, made) == []
    row = rows_of(made)[0]
    assert row["request"]["messages"][0]["content"] == "question 0"
    assert (row["contract"], row["clause"], row["consent"]) == (
        "kind-1",
        "kind-1/1",
        consents.in_force(store)["acme"].id,
    )


def test_a_row_that_bypassed_the_decision_is_found(tmp_path: Path, store: Store) -> None:
    held = terms(tmp_path)
    mixed(store)
    made, _ = build(store, held)
    rows = rows_of(made)
    planted = [
        {
            **rows[0],
            "pair_id": "req_0003-0",
            "call_id": "req_0003",
            "channel": "strict",
            "contract": "strict-1",
        },  # forbidden
        {**rows[0], "pair_id": "req_0003-0", "call_id": "req_0003"},  # … and it lies about where it is from
        {**rows[0], "pair_id": "req_0004-0", "call_id": "req_0004", "tenant": "beta"},  # never consented
        {**rows[0], "pair_id": "req_9999-0"},  # from nowhere
    ]
    found = audit(store, held, made, [*rows, *planted])
    assert {one.line for one in found} == {4, 5, 6, 7}
    said = {one.line: [] for one in found}
    for one in found:
        said[one.line].append(one.what)
    assert said[4] == ["its contract says deny to classify_internal"]
    assert said[5][0] == "it says another channel and contract than the pair"
    assert said[6] == ["its tenant has no consent in force to classify_internal"]
    assert "no such pair" in said[7][0]
    # In the file itself it is also seen by the signature.
    with (Path(made.directory) / "rows.jsonl").open("a") as file:
        file.write(json.dumps(planted[0]) + "\n")
    assert datasets.check(store, made) == ["rows.jsonl was changed since it was built"]


def test_papers_say_the_same_and_are_signed(tmp_path: Path, store: Store) -> None:
    mixed(store)
    made, manifest = build(store, terms(tmp_path))
    place = Path(made.directory)
    signed = verify((place / "statement.dsse.json").read_bytes(), public_keys(store.data_dir))
    statement = json.loads(signed.payload)
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert {one["name"] for one in statement["subject"]} == {"rows.jsonl", "manifest.json", "croissant.json"}
    assert statement["predicate"]["rows_sha256"] == manifest.rows_sha256
    croissant = json.loads((place / "croissant.json").read_text())
    assert croissant["@type"] == "sc:Dataset"
    assert croissant["distribution"][0]["sha256"] == datasets.file_sha256(place / "rows.jsonl")
    (place / "manifest.json").write_text("{}")
    assert datasets.check(store, made) == ["manifest.json was changed since it was built"]


def test_the_makers_of_croissant_read_the_description_and_the_rows_by_it(tmp_path: Path, store: Store) -> None:
    mixed(store)
    made, _ = build(store, terms(tmp_path))
    described = mlcroissant.Dataset(Path(made.directory) / "croissant.json")
    assert described.metadata.ctx.issues.errors == set()
    records = list(described.records("rows"))
    assert [one["rows/pair_id"].decode() for one in records] == [row["pair_id"] for row in rows_of(made)]


def test_a_withdrawn_consent_and_a_denial_leave_nothing(tmp_path: Path, store: Store) -> None:
    mixed(store)
    denied = terms(tmp_path, denials=(Denial("d", "kind", "classify_internal", "legal", "no more", 1),))
    assert build(store, denied)[1].rows == 0
    consents.withdraw(store, "acme", by="legal", why="letter")
    assert build(store, terms(tmp_path))[1].rows == 0


def test_built_again_it_is_the_next_version_without_what_is_gone(tmp_path: Path, store: Store) -> None:
    held = terms(tmp_path)
    mixed(store)
    first, _ = build(store, held, task="topic")
    pairs.erase(store, bodies(store), tenant="acme", pair_id="req_0001-0", by="legal", why="asked for")
    again, manifest = datasets.build(store, held, bodies(store), datasets.wanted_again(first), by="legal")
    assert (again.id, again.rows) == ("topics@2", 2)
    assert manifest.filters == {"task": "topic"}
    assert [one.what for one in audit(store, held, first)] == ["the pair was erased"]


def test_labels_of_ones_own_are_rows_from_no_provider(tmp_path: Path, store: Store) -> None:
    path = tmp_path / "labels.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["text", "label"], ["where is my card", "card"]])
    with pytest.raises(ConfigError, match="labels-owner"):
        build(store, terms(tmp_path), labels=str(path))
    made, manifest = build(store, terms(tmp_path), labels=str(path), labels_owner="legal")
    assert (manifest.rows, manifest.own_rows) == (1, 1)
    assert audit(store, terms(tmp_path), made) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "../x"}, "no name"),
        ({"purpose": "serve"}, "no purpose"),
        ({"purpose": "fun"}, "no purpose"),
        ({"labels": "/nowhere.csv", "labels_owner": "legal"}, "cannot be read"),
    ],
)
def test_a_wrong_word_is_said(tmp_path: Path, store: Store, changes: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build(store, terms(tmp_path), **changes)
    assert datasets.all_datasets(store) == []
    with pytest.raises(StoreError, match="no data set"):
        datasets.dataset(store, "topics")


@pytest.mark.parametrize("seed", range(4))
def test_no_row_without_an_allow(tmp_path: Path, store: Store, seed: int) -> None:
    """Whatever the terms and wherever pairs are from: what is in the data set is permitted, and nothing else is left out."""
    random = Random(seed)
    origins = [terms_side._origin(random, number) for number in range(60)]
    for tenant in {origin.tenant for origin in origins}:
        consent(store, tenant, purposes=tuple(terms_side.SOME_PURPOSES[1:]))
    for number, origin in enumerate(origins):
        where = {"contract": origin.contract, "model": origin.model, "at_ns": origin.at_ns}
        capture(store, number, origin.channel, origin.tenant, **where)
    allowed_in_all = 0
    for number in range(8):
        world, purpose = terms_side.a_world(random), random.choice(terms_side.SOME_PURPOSES[1:])
        made, _ = build(store, world, name=f"world{number}", purpose=purpose)
        allowed = {
            number for number, origin in enumerate(origins) if permit(world, origin, purpose, made.built_ns).allowed
        }
        assert {int(row["call_id"].removeprefix("req_")) for row in rows_of(made)} == allowed
        assert audit(store, world, made) == []
        allowed_in_all += len(allowed)
    assert allowed_in_all, "worlds in which nothing is ever allowed prove nothing"
