"""Planted canaries: what was sent through a real Upeti, and into what it wrote and said afterwards it must not have come.

Texts of calls are in erasable bodies of the tenant that consented, in a data set that was built of them, and nowhere
else. Secrets of providers, keys of clients and ids of end users are nowhere.
"""

from __future__ import annotations

import base64
import gzip
import http.client
import io
import json
import re
import sqlite3
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from support.canaries import canaries_in, find_canaries, forms_of
from support.capture_side import capturing, consent, kept
from support.keeper_side import until
from support.upeti_process import KEY, UpetiProcess, sim_provider
from upeti.cli.main import main
from upeti.journal.events_store import project_closed_segments

KEY_2 = "upeti-second-key-of-the-canaries"
SECRETS = {
    "provider secret": "binturong/secret-of-the-environment",  # no maker's prefix gives it away
    "stored secret": "binturong-secret-that-is-stored",
    "key of acme": KEY,
    "key of beta": KEY_2,
    "key of nobody": "upeti-key-that-nobody-gave-out",
}
TEXTS = {"words of acme": "kapibara asks for acme", "words of beta": "kapibara asks for beta"}
ANSWERS = {name.replace("words", "answer"): text[::-1] for name, text in TEXTS.items()}  # `parrot` turns them around
USERS = {"user": "wombat-4711", "user of the header": "wombat-4712"}
OF_ACME = {"words of acme", "answer of acme"}

CHANNEL = """
[[channel]]
name = "{name}"
kind = "openai_compatible"
base_url = "http://127.0.0.1:{port}/v1"
api_key = "{secret}"
prices = "sim"

[[route]]
name = "{name}"
candidate = [{{ channel = "{name}", model = "{model}" }}]
"""
# What each provider does: it echoes the key, and what was asked.
ODD = {
    "dead": "err401-echo-parrot",
    "denied": "err403-echo-parrot",
    "wrong": "err400-echo-parrot",
    "broken": "err500-echo-parrot",
    "missing": "err404-echo-parrot",
    "busy": "err429-echo-parrot",
    "packed": "err401-echo-parrot-gzip",
    "unknown": "err418-echo-parrot",
    "signed": "sigazureabuseblock",
    "garbled": "garbage",
    "gone": "reset",
}
BY = ("--by", "head of legal", "--why", "rehearsal")
# What an operator looks at, and makes of what was kept.
COMMANDS = (
    ("calls", "--json"),
    ("bill", "--json"),
    ("capture", "status", "--json"),
    ("capture", "list", "--json"),
    ("keys", "list", "--json"),
    ("secrets", "list"),
    ("rights", "list", "--json"),
    ("channels", "list", "--json"),
    ("incidents", "list", "--json"),
    ("conduct", "list", "--json"),
    ("conduct", "status", "--json"),
    ("dataset", "build", "topics", "--purpose", "classify_internal", "--by", "head of legal", "--json"),
    ("dataset", "list", "--json"),
    ("dataset", "show", "topics", "--json"),
    (
        "models",
        "register",
        "topics",
        "--version",
        "1",
        "--dataset",
        "topics",
        "--purpose",
        "classify_internal",
        *BY,
        "--json",
    ),
    ("models", "show", "topics", "--json"),
    ("lineage", "topics", "--json"),
    ("drill", "cut", "sim", "--shadow", *BY, "--json"),
    ("drill", "list", "--json"),
    ("exit-plan", "show", "--json"),
    ("journal", "verify"),
)


@dataclass
class Scene:
    """An Upeti that has had all of it, and what everybody was told."""

    upeti: UpetiProcess
    canaries: dict[str, str]
    answers: list[tuple[str, str]] = field(default_factory=list)  # to clients: (what was asked, all that came)
    said: list[tuple[str, str]] = field(default_factory=list)  # to operators


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("leaks")
    with pytest.MonkeyPatch.context() as patch, sim_provider(folder / "provider.log") as port:
        patch.setenv("UPETI_TEST_KEY_2", KEY_2)
        patch.setenv("UPETI_CANARY", SECRETS["provider secret"])
        upeti = capturing(folder, port)
        text = upeti.config.read_text().replace('prices = "sim"', 'prices = "sim"\napi_key = "env:UPETI_CANARY"', 1)
        for number, (name, model) in enumerate(ODD.items()):
            secret = ("env:UPETI_CANARY", "stored:canary")[number % 2]
            text += CHANNEL.format(name=name, port=port, secret=secret, model=model)
        text += "\n[conduct]\nenabled = true\n"
        upeti.config.write_text(text)
        patch.setattr("sys.stdin", io.StringIO(SECRETS["stored secret"]))
        said = [command(upeti, "secrets", "set", "canary")]
        consent(upeti.data_dir, "acme")
        made = json.loads(command(upeti, "keys", "create", "--tenant", "beta", "--json")[1])["key"]
        canaries = SECRETS | TEXTS | ANSWERS | USERS | {"key that was made": made}
        scene = Scene(upeti, canaries, said=said)
        upeti.start()
        try:
            _be_called(scene, made)
            _look_around(scene)
        finally:
            assert upeti.stop() == 0
        project_closed_segments(upeti.data_dir)  # as the keeper does now and then
        scene.said += [command(upeti, *words) for words in COMMANDS]
        incidents = json.loads(dict(scene.said)["incidents list --json"])
        scene.said += [command(upeti, "incidents", "show", one["id"], "--json") for one in incidents]
        yield scene


def command(upeti: UpetiProcess, *words: str, code: int = 0) -> tuple[str, str]:
    """Run a command here, which is quicker than a process; return its words and all that it said."""
    printed = io.StringIO()
    ended = 0
    with redirect_stdout(printed), redirect_stderr(printed):
        try:
            main([*words, "--config", str(upeti.config)])
        except SystemExit as end:
            ended = int(end.code or 0)
    assert ended == code, (words, printed.getvalue())
    return " ".join(words), printed.getvalue()


def ask(scene: Scene, path: str, body: bytes, *, key: str = KEY, **headers: str) -> int:
    """Make one call; keep all that its client was told."""
    given = {"authorization": f"Bearer {key}", "content-type": "application/json", **headers}
    request = urllib.request.Request(scene.upeti.gateway + path, data=body, headers=given)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            status, told = answer.status, f"{answer.headers}\n".encode() + _all_of(answer)
    except urllib.error.HTTPError as error:
        status, packed = error.code, error.read()
        packed = gzip.decompress(packed) if error.headers.get("content-encoding") == "gzip" else packed
        told = f"{error.headers}\n".encode() + packed
    scene.answers.append((f"{path} {body[:60]!r}", told.decode("utf-8", "replace")))
    return status


def _all_of(answer: Any) -> bytes:
    try:
        return bytes(answer.read())
    except http.client.IncompleteRead as error:  # cut off: what came until then
        return error.partial


def question(model: str, tenant: str, *, stream: bool = False, user: str = USERS["user"]) -> bytes:
    message = {"role": "user", "content": TEXTS[f"words of {tenant}"]}
    return json.dumps({"model": model, "messages": [message], "user": user, "stream": stream, "max_tokens": 4}).encode()


def _be_called(scene: Scene, made: str) -> None:
    chat = "/v1/chat/completions"
    named = {"x-upeti-user": USERS["user of the header"], "x-upeti-feature": "search"}
    data_dir = scene.upeti.data_dir

    def kept_of(feature: str) -> bool:
        assert ask(scene, chat, question("m-parrot", "acme"), **{"x-upeti-feature": feature}) == 200
        return bool(kept(data_dir, feature=feature))

    until(lambda: kept_of("first"), seconds=30, what="the first pair")
    calls: list[tuple[str, bytes, str, dict[str, str]]] = []
    for tenant, key in (("acme", KEY), ("beta", KEY_2)):
        words = TEXTS[f"words of {tenant}"]
        for model in ("m-parrot", "m-parrot-cut3-each", "m-parrot-cutbody", "m-parrot-badjson", *ODD):
            calls += [(chat, question(model, tenant, stream=stream), key, named) for stream in (False, True)]
        calls += [
            (chat, f'{{"model": "m", "messages": "{words}'.encode(), key, named),
            (chat, json.dumps({"messages": [words]}).encode(), key, named),
            (f"/v1/no/such/path?q={quote_plus(words)}", words.encode(), key, {}),
            ("/v1/completions", json.dumps({"model": "m-parrot", "prompt": words}).encode(), key, {}),
            ("/v1/responses", json.dumps({"model": "m-parrot", "input": words}).encode(), key, {}),
        ]
    calls += [
        (chat, question("m-parrot", "beta"), made, named),
        (chat, question("m-parrot", "acme"), SECRETS["key of nobody"], named),
        (chat, question("m-parrot", "acme"), SECRETS["provider secret"], named),
        (f"{chat}?api-key={SECRETS['key of nobody']}", question("m", "acme"), KEY, named),
    ]
    with ThreadPoolExecutor(24) as pool:  # many of them are tried again after a pause
        statuses = list(pool.map(lambda call: ask(scene, call[0], call[1], key=call[2], **call[3]), calls))
    assert {200, 400, 401, 500, 502, 503} <= set(statuses)
    until(lambda: kept_of("last"), seconds=10, what="the last pair")


def _look_around(scene: Scene) -> None:
    """Read everything that the control API lists, and its metrics; as a client, too."""
    upeti = scene.upeti
    token = (upeti.data_dir / "run" / "admin-token").read_text().strip()

    def get(path: str, bearer: str) -> tuple[int, str]:
        request = urllib.request.Request(upeti.control + path, headers={"authorization": f"Bearer {bearer}"})
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    paths = json.loads(get("/openapi.json", token)[1])["paths"]
    lists = [
        path
        for path, methods in paths.items()
        if "get" in methods
        and "{" not in path
        and not any(one.get("required") for one in methods["get"].get("parameters", ()))
    ]
    assert {"/metrics", "/v1/keys", "/v1/capture/pairs", "/v1/status"} <= set(lists)
    for path in (*lists, "/v1/capture/pairs?tenant=beta", "/v1/capture/pairs?tenant=acme&limit=1000"):
        status, told = get(path, token)
        assert status in (200, 503), (path, told)
        scene.said.append((path, told))
        if path.startswith("/v1/"):  # a client's key opens nothing here, its own tenant's either
            assert get(path, KEY_2)[0] == 401


def test_texts_are_in_bodies_of_who_consented_and_secrets_nowhere(scene: Scene) -> None:
    found = find_canaries(scene.upeti.folder, scene.canaries, leave_out={"provider.log"})
    bodies = [place for place in found if re.fullmatch(r"data/bodies/[0-9a-f]{2}/[0-9a-f]{64}\.zst", place.file)]
    rows = [place for place in found if place.file == "data/datasets/topics/1/rows.jsonl"]
    assert {place.canary for place in bodies} == {place.canary for place in rows} == OF_ACME
    assert all(place.within in ("plain", "zstd") for place in bodies)
    assert [place for place in found if place not in bodies + rows] == []


def test_what_was_searched_holds_what_it_should(scene: Scene) -> None:
    """Nothing is found in what was not written: each kind of file is there, and says what happened."""
    there = {"acme": "acme", "channel": "denied", "feature": "search"}
    places = find_canaries(scene.upeti.data_dir, there)
    kinds = {(re.sub(r"/.*", "", place.file), place.canary) for place in places}
    assert {("events", "channel"), ("captured", "feature"), ("journal", "channel"), ("acts", "acme")} <= kinds
    assert any(place.file.startswith("state") and place.within.startswith("table pairs") for place in places)
    assert "channel" in canaries_in(scene.upeti.err(), there)


def test_logs_lists_and_metrics_say_nothing_of_it(scene: Scene) -> None:
    shown = [told for what, told in scene.said if what.startswith("incidents show")]
    assert len(shown) >= 3
    assert any("Wrong, with [hidden] asking" in told for told in shown), "an excerpt is there, without what it repeated"
    leaks = [(what, found) for what, told in scene.said if (found := canaries_in(told, scene.canaries))]
    assert leaks == []


def test_clients_are_told_no_secret(scene: Scene) -> None:
    secrets = {name: text for name, text in scene.canaries.items() if name not in TEXTS | ANSWERS | USERS}
    leaks = [(what, found) for what, told in scene.answers if (found := canaries_in(told, secrets))]
    assert leaks == []
    told = "".join(told for _, told in scene.answers)
    assert "Wrong, with [hidden] asking 'kapibara" in told, "the provider's words come through, without the key"


def test_a_tenant_gets_nothing_of_anothers(scene: Scene) -> None:
    """Each is answered with his own words; a body that is said to be another's does not open."""
    for what, told in scene.answers:
        if "kapibara" in what:
            other = "beta" if TEXTS["words of acme"] in what else "acme"
            assert (
                canaries_in(told, {"words": TEXTS[f"words of {other}"], "answer": ANSWERS[f"answer of {other}"]}) == []
            )
    upeti = scene.upeti
    assert json.loads(command(upeti, "capture", "list", "--tenant", "beta", "--json")[1]) == []
    pair = kept(upeti.data_dir, tenant="acme", feature="first")[0].pair_id
    assert TEXTS["words of acme"] in command(upeti, "capture", "show", pair)[1]
    with sqlite3.connect(next(upeti.data_dir.glob("state*.sqlite3"))) as state:
        state.execute("UPDATE pairs SET tenant = 'beta' WHERE pair_id = ?", (pair,))
    told = command(upeti, "capture", "show", pair, code=2)[1]
    assert "is not what was kept" in told
    assert canaries_in(told, scene.canaries) == []


# -- the search itself
# -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["quokka-1", "a/b quokka+c", "quokka"])
def test_a_leak_is_found_wherever_it_is(tmp_path: Path, text: str) -> None:
    packed = zstandard.ZstdCompressor().compress(json.dumps({"q": f"said {text}."}).encode())
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "plain.log").write_text(f"level=info said={text}\n")
    (tmp_path / "body.zst").write_bytes(packed)
    (tmp_path / "body.gz").write_bytes(gzip.compress(packed))
    pq.write_table(pa.table({"n": [1, 2], "said": ["no", f"so {text}"]}), tmp_path / "t.parquet", compression="zstd")
    database = sqlite3.connect(tmp_path / "state.db")
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("CREATE TABLE told (id INTEGER, body BLOB)")
    database.execute("INSERT INTO told VALUES (1, ?)", (packed,))
    database.commit()  # it is open: the row is in the WAL alone
    (tmp_path / "clean.txt").write_text("nothing")
    try:
        found = {(place.file, place.within) for place in find_canaries(tmp_path, {"it": text}) if place.canary == "it"}
    finally:
        database.close()
    assert found >= {
        ("deep/plain.log", "plain"),
        ("body.zst", "zstd"),
        ("body.gz", "gzip zstd"),
        ("t.parquet", "column said"),
        ("state.db", "table told zstd"),
    }
    assert "clean.txt" not in {file for file, _ in found}
    assert find_canaries(tmp_path, {"it": text + "-not"}) == []


@pytest.mark.parametrize("before", [b"", b"1", b"12", b"123"])
def test_other_ways_to_write_it_are_known(before: bytes) -> None:
    text = "a/b quokka-9"
    for data in (
        base64.b64encode(before + text.encode() + b" and more"),
        base64.urlsafe_b64encode(before + text.encode()),
        before + text.encode().hex().encode(),
        before + json.dumps(text).replace("/", "\\/").encode(),
        before + quote_plus(text).encode(),
    ):
        assert any(form in data for form in forms_of(text)), data
