from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from support.lineage_side import DAY_NS, DOCUMENT, START_NS, bodies, capture, consent, terms
from upeti.control import consents, datasets, exports, models, rights
from upeti.control.lineage import objections, trace
from upeti.control.signing import public_keys, verify
from upeti.control.store import Store, StoreError
from upeti.core.errors import ConfigError
from upeti.journal.acts import read_acts
from upeti.rights.manifest import Manifest
from upeti.rights.model_papers import About, Source, bill_of_materials, training_summary
from upeti.rights.stage import Stage, StageError
from upeti.rights.terms import Denial, Grant, Terms

OpenStore = Callable[[], Store]
NOW_NS = START_NS + 100 * DAY_NS


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "data")
    yield opened
    opened.close()


def prepared(store: Store, held: Terms, *, purpose: str = "classify_internal", count: int = 4) -> datasets.Dataset:
    if "acme" not in consents.in_force(store):
        consent(store)
    for number in range(count):
        capture(store, number)
    wanted = datasets.Wanted(name="topics", purpose=purpose)
    return datasets.build(store, held, bodies(store), wanted, by="legal")[0]


def register(store: Store, held: Terms, **changes: Any) -> models.Model:
    file = changes.pop("file", None)
    given = {
        "name": "topic-model",
        "version": "1",
        "purpose": "classify_internal",
        "datasets": ("topics",),
        "channel": "own",
        "model": "topic-model",
    }
    return models.register(store, held, models.Wanted(**(given | changes)), file=file, by="legal", why="asked for")


GRANT = Grant("g1", "strict", "classify_internal", "Strict", "e" * 64, "legal", "letter", 1)


def test_a_model_rests_on_its_data_and_is_found_from_both_ends(tmp_path: Path, open_store: OpenStore) -> None:
    store, held = open_store(), terms(tmp_path, grants=(GRANT,))
    consent(store)
    capture(store, 9, channel="strict")
    made = prepared(store, held)
    one = register(store, held)
    assert (one.stage, one.datasets) == (Stage.REGISTERED, (made.id,))
    down = trace(store, held, "topic-model")
    assert (down.kind, down.id, down.rows, down.erased_rows) == ("model", one.id, 5, 0)
    assert down.clauses == {"kind-1/1": 4, "strict-1/3": 1}
    assert down.grants == {"g1": 1}
    assert down.contracts == {"kind-1": 4, "strict-1": 1}
    for name, rows in (("g1", 1), ("strict-1/3", 1), ("kind-1", 4), ("req_0009", 1), ("req_0009-0", 1)):
        up = trace(store, held, name)
        assert ([each["id"] for each in up.models], up.rows) == ([one.id], rows), name
        assert up.datasets == [{"id": made.id, "purpose": "classify_internal", "rows": 5, "touched": rows}]
    assert trace(store, held, "kind-1").pairs == 4
    assert trace(store, held, made.id).models[0]["id"] == one.id
    with pytest.raises(StoreError, match="nothing here is named"):
        trace(store, held, "nobody")


def test_a_revoked_grant_quarantines_what_rests_on_it_and_only_that(tmp_path: Path, store: Store) -> None:
    held = terms(tmp_path, grants=(GRANT,))
    consent(store)
    capture(store, 9, channel="strict")
    prepared(store, held)
    with_grant = register(store, held)
    datasets.build(
        store,
        held,
        bodies(store),
        datasets.Wanted(name="kind-only", purpose="classify_internal", channel="kind"),
        by="legal",
    )
    without = register(store, held, name="other", datasets=("kind-only",), model="other")
    assert models.quarantine_touched(store, held, NOW_NS) == []
    revoked = terms(tmp_path, grants=(msgspec.structs.replace(GRANT, revoked_ns=5),))
    (touched,) = models.quarantine_touched(store, revoked, NOW_NS)
    assert (touched.id, touched.stage) == (with_grant.id, Stage.QUARANTINED)
    assert "1 rows of topics@1 hang on strict-1/3" in touched.stage_why
    assert models.not_served(store) == {"own": {"topic-model": touched.stage_act}}
    assert models.quarantine_touched(store, revoked, NOW_NS) == [], "once"
    (done,) = [each for each in read_acts(store.data_dir) if each.kind == "models.right_lost"]
    assert (done.actor, done.subject, done.act_id) == (models.RULE, with_grant.id, touched.stage_act)
    assert models.model(store, "other").stage is Stage.REGISTERED
    assert without.id != with_grant.id
    with pytest.raises(ConfigError, match="stays quarantined"):
        models.release(store, revoked, with_grant.id, by="legal", why="please")
    # Trained again without the touched rows: the next version, under the same name at the channel.
    datasets.build(store, revoked, bodies(store), datasets.wanted_again(datasets.dataset(store, "topics")), by="legal")
    assert datasets.dataset(store, "topics").rows == 4
    register(store, revoked, version="2", datasets=("topics@2",))
    assert models.not_served(store) == {}
    # … or the right comes back.
    assert models.release(store, held, "topic-model@1", by="legal", why="a new letter").stage is Stage.REGISTERED


@pytest.mark.parametrize("how", ["denial", "consent", "contract"])
def test_whatever_takes_the_right_away_quarantines(tmp_path: Path, store: Store, how: str) -> None:
    held = terms(tmp_path)
    prepared(store, held)
    register(store, held)
    if how == "denial":
        held = terms(tmp_path, denials=(Denial("d", "kind", "classify_internal", "legal", "no", 1),))
    elif how == "consent":
        consents.withdraw(store, "acme", by="legal", why="letter")
    else:
        held = terms(tmp_path, bindings=())
    assert len(models.quarantine_touched(store, held, NOW_NS)) == 1


def test_a_right_that_covers_a_part_of_the_time_is_looked_at_row_by_row(tmp_path: Path, store: Store) -> None:
    held = terms(tmp_path)
    made = prepared(store, held, count=6)
    consent_of = consents.in_force(store)
    (binding, _) = held.bindings
    until_ns = START_NS + 4 * DAY_NS
    ended = terms(tmp_path, bindings=(type(binding)("b", "kind", "kind-1", 0, until_ns),))
    (found,) = objections(store, ended, consent_of, made.id, "classify_internal", NOW_NS)
    assert (found.rows, found.what) == (2, "kind-1")
    # The end falls between two captures, and no row is touched by it.
    after = terms(tmp_path, bindings=(type(binding)("b", "kind", "kind-1", 0, START_NS + 5 * DAY_NS + 1),))
    assert objections(store, after, consent_of, made.id, "classify_internal", NOW_NS) == []


def test_duties_are_kept_or_it_is_refused_with_the_cure(tmp_path: Path, store: Store) -> None:
    held = terms(tmp_path)
    prepared(store, held, purpose="classify_distributed")
    given_on = {"purpose": "classify_distributed", "distributed": True}
    with pytest.raises(ConfigError, match=r"name begin with Kind.*--notice"):
        register(store, held, **given_on)
    one = register(store, held, **given_on, name="Kind-topics", notices=("Built with Kind",))
    assert one.duties == ("name_prefix:Kind", "notice:Built with Kind")
    with pytest.raises(ConfigError, match="--purpose classify_distributed"):
        register(store, held, distributed=True)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"purpose": "general_model"}, "may not be trained for general_model"),
        ({"purpose": "serve"}, "no purpose of a model"),
        ({"datasets": ("nothing",)}, "no data set"),
        ({"model": ""}, "--channel and --model"),
        ({"file": Path("/nowhere.onnx")}, "cannot be read"),
        ({"name": "a@b"}, "without @"),
    ],
)
def test_what_cannot_be_registered(tmp_path: Path, store: Store, changes: dict[str, Any], said: str) -> None:
    held = terms(tmp_path)
    prepared(store, held)
    with pytest.raises((ConfigError, StoreError), match=said):
        register(store, held, **changes)
    assert models.all_models(store) == []


def test_stages_go_only_their_ways(tmp_path: Path, store: Store) -> None:
    held = terms(tmp_path)
    prepared(store, held)
    register(store, held)
    with pytest.raises(StageError, match="cannot be released"):
        models.release(store, held, "topic-model", by="legal", why="why not")
    assert models.retire(store, "topic-model", by="legal", why="replaced").stage is Stage.RETIRED
    assert list(models.not_served(store)) == ["own"]
    with pytest.raises(StageError, match="from there: none"):
        models.retire(store, "topic-model", by="legal", why="again")


def papers(store: Store, one: models.Model) -> tuple[About, list[Source]]:
    about = About(**{name: getattr(one, name) for name in About.__struct_fields__})
    found = datasets.datasets_of_names(store, one.datasets)
    return about, [Source(datasets.manifest_of(each), each.manifest_sha256) for each in found]


def test_the_bill_of_materials_fits_its_schema(tmp_path: Path, store: Store) -> None:
    held = terms(tmp_path)
    made = prepared(store, held)
    weights = tmp_path / "topic.onnx"
    weights.write_bytes(b"weights")
    one = register(store, held, file=weights, base_model="SmolLM2-135M", notices=("ours",))
    bom = bill_of_materials(*papers(store, one), "0.1.0")
    assert JsonStrictValidator(SchemaVersion.V1_7).validate_str(bom.decode()) is None
    parsed = json.loads(bom)
    assert parsed["specVersion"] == "1.7"
    (data,) = parsed["components"]
    assert data["hashes"] == [{"alg": "SHA-256", "content": made.manifest_sha256}]
    assert {"name": "upeti:clause", "value": "kind-1/1: 4 rows"} in data["properties"]
    assert parsed["metadata"]["component"]["hashes"][0]["content"] == one.file_sha256
    assert bill_of_materials(*papers(store, one), "0.1.0") == bom, "the same model has the same bill"
    broken = json.loads(bom) | {"components": [{"type": "nonsense"}]}
    assert JsonStrictValidator(SchemaVersion.V1_7).validate_str(json.dumps(broken)) is not None


def test_the_summary_says_what_lineage_knows_and_leaves_the_rest_open(tmp_path: Path, store: Store) -> None:
    held = terms(tmp_path)
    prepared(store, held)
    about, sources = papers(store, register(store, held))
    text = training_summary(about, sources, {clause.id: clause.quote for clause in held.clauses})
    assert "Draft" in text
    assert "You may sort with what we answer" in text
    assert "| kind-1 | 4 |" in text
    assert "to be filled in by a person" in text


def test_what_goes_with_a_model_when_it_leaves(tmp_path: Path, store: Store) -> None:
    held = terms(tmp_path)
    made = prepared(store, held)
    weights = tmp_path / "topic.onnx"
    weights.write_bytes(b"weights")
    one = register(store, held, file=weights, notices=("Built with Kind",))
    bom = bill_of_materials(*papers(store, one), "0.1.0")
    out = tmp_path / "out"
    exports.export(store, one, {"bom.cdx.json": bom}, out, weights)
    assert {path.name for path in out.iterdir()} == {
        "bom.cdx.json",
        "bom.dsse.json",
        "NOTICE",
        "topic.onnx",
        f"{made.id}.statement.dsse.json",
    }
    keys = public_keys(store.data_dir)
    assert verify((out / "bom.dsse.json").read_bytes(), keys).payload == bom
    assert verify((out / f"{made.id}.statement.dsse.json").read_bytes(), keys)
    weights.write_bytes(b"others")
    with pytest.raises(ConfigError, match="not the file"):
        exports.export(store, one, {"bom.cdx.json": bom}, tmp_path / "second", weights)


def test_a_manifest_can_be_read_back(tmp_path: Path, store: Store) -> None:
    made = prepared(store, terms(tmp_path))
    assert isinstance(datasets.manifest_of(made), Manifest)
    assert rights.checked_document(DOCUMENT.name, DOCUMENT.data) == DOCUMENT
