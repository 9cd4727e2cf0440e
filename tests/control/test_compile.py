"""From configuration, state and price book to the snapshot: everything a worker will know."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from upeti.control.compile import Compiled, Placement, State, compile_snapshot, watched_files
from upeti.control.config_file import parse
from upeti.control.keys import KeyRow, audit_key
from upeti.control.seal import seal
from upeti.core.errors import ConfigError
from upeti.gateway.snapshot import Caller, SecretRef, ShareView, decode, encode
from upeti.money.budget_terms import BudgetTerms, key_terms
from upeti.money.price_book import PriceBook
from upeti.providers.sealed import KEY_VARIABLE
from upeti.rights.terms import SERVE

PLACEMENT = Placement("127.0.0.1", 4000, "127.0.0.1", 4001, 3, {"local": 4002}, 4003)
CHANNELS = """\
[[channel]]
name = "openai"
kind = "openai_compatible"
[[channel]]
name = "local"
kind = "embedded"
[[channel]]
name = "azure"
kind = "azure"
base_url = "https://x.openai.azure.com:444/some/path/"
entra = true
deployments = { "gpt-4.1" = "d1" }
"""
ROUTES = """\
[[route]]
name = "gpt-4.1"
candidate = [
    { channel = "azure", model = "gpt-4.1", order = 2 },
    { channel = "openai", model = "gpt-4.1", order = 1, output_tokens_max = 77 },
    { channel = "local", model = "smollm2-135m" },
]
[[route]]
name = "*"
candidate = [{ channel = "openai", model = "*" }]
"""
DIGEST = "ab" * 32
KEY = f'[[key]]\nid = "k1"\ntenant = "acme"\nsha256 = "{DIGEST}"\n'


def compiled(text: str, state: State | None = None, **options: Any) -> Compiled:
    document = parse(text, Path("upeti.toml"))
    return compile_snapshot(document, state or State(), PriceBook.shipped(), placement=PLACEMENT, **options)


def problems(text: str, state: State | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        compiled(text, state)
    return str(caught.value).splitlines()


def test_addresses_of_channels() -> None:
    channels = compiled(CHANNELS + ROUTES).snapshot.channels
    addresses = {name: (view.host, view.port, view.tls, view.path) for name, view in channels.items()}
    assert addresses == {
        "openai": ("api.openai.com", 443, True, "/v1"),
        "local": ("127.0.0.1", 4002, False, "/v1"),
        "azure": ("x.openai.azure.com", 444, True, "/some/path"),
    }
    assert channels["azure"].entra
    assert channels["azure"].deployments == {"gpt-4.1": "d1"}


def test_candidates_stand_in_their_order_with_their_prices() -> None:
    book = PriceBook.shipped()
    first, second, third = compiled(CHANNELS + ROUTES).snapshot.routes["gpt-4.1"].candidates
    assert [(view.channel, view.order) for view in (first, second, third)] == [
        ("openai", 1), ("azure", 2), ("local", 2),
    ]  # fmt: skip
    assert first.prices == {"gpt-4.1": book.all_tiers("openai", "gpt-4.1")}
    assert second.prices == {"gpt-4.1": book.all_tiers("azure", "gpt-4.1")}
    assert third.prices == {"smollm2-135m": book.all_tiers("local", "*")}
    assert first.output_tokens_max == 77
    assert first.context_tokens == book.facts("openai", "gpt-4.1").context_tokens
    assert second.output_tokens_max == book.facts("azure", "gpt-4.1").output_tokens_max


def test_a_candidate_for_every_name_has_every_price() -> None:
    (any_model,) = compiled(CHANNELS + ROUTES).snapshot.routes["*"].candidates
    assert any_model.model == ""
    assert sorted(any_model.prices) == PriceBook.shipped().models("openai")


def test_the_default_channel() -> None:
    assert compiled(CHANNELS + ROUTES).snapshot.default_channel == "openai"
    named = CHANNELS + ROUTES + '[gateway]\ndefault_channel = "azure"\n'
    assert compiled(named).snapshot.default_channel == "azure"
    assert compiled(CHANNELS).snapshot.default_channel == ""


def test_the_placement_says_where_workers_listen() -> None:
    gateway = compiled(CHANNELS + ROUTES + "[gateway]\nport = 0\nidle_timeout_ms = 5\n").snapshot.gateway
    assert (gateway.host, gateway.port, gateway.workers, gateway.idle_timeout_ms) == ("127.0.0.1", 4000, 3, 5)


def test_keys_of_the_file_and_of_the_state() -> None:
    row = KeyRow("k2", "cd" * 32, "other", "p", "f", ("gpt-4.1",), 10**20, 1, 99)
    gone = KeyRow("k3", "ef" * 32, "other", revoked_ns=5)
    result = compiled(CHANNELS + ROUTES + KEY + 'limit = "1.5"\n', State([row, gone], {}, 123))
    assert result.snapshot.keys == {
        bytes.fromhex(DIGEST): Caller("k1", "acme", "", "", ("key:k1",), limit="1.5"),
        bytes.fromhex("cd" * 32): Caller("k2", "other", "p", "f", ("key:k2",), frozenset({"gpt-4.1"}), 99, "100000000"),
    }
    assert result.terms == {"key:k1": key_terms("k1", "1.5"), "key:k2": key_terms("k2", "100000000")}
    assert result.snapshot.routes["*"].created_s == 123


def test_a_key_kept_elsewhere_is_digested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPETI_TEST_ONE", "secret one")
    (tmp_path / "two").write_text("secret two\n")
    text = CHANNELS + '[[key]]\nid = "k1"\ntenant = "t"\nsecret = "env:UPETI_TEST_ONE"\n'
    text += f'[[key]]\nid = "k2"\ntenant = "t"\nsecret = "file:{tmp_path}/two"\n'
    assert {digest.hex() for digest in compiled(text).snapshot.keys} == {
        hashlib.sha256(secret).hexdigest() for secret in (b"secret one", b"secret two")
    }
    assert list(watched_files(parse(text, Path("upeti.toml")))) == [tmp_path / "two"]


def test_keys_that_cannot_be_found() -> None:
    text = CHANNELS + '[[key]]\nid = "k1"\ntenant = "t"\nsecret = "env:UPETI_TEST_NONE"\n'
    text += '[[key]]\nid = "k2"\ntenant = "t"\nsecret = "file:/none"\n'
    text += '[[key]]\nid = "k3"\ntenant = "t"\nsecret = "stored:x"\n'
    assert problems(text) == [
        "upeti.toml:16: key `k1`: the environment variable UPETI_TEST_NONE is not set; set it where Upeti is started",
        "upeti.toml:20: key `k2`: /none cannot be read (No such file or directory); make it readable",
        "upeti.toml:24: key `k3`: a client key is not taken from stored secrets; use `upeti keys create`",
    ]


def test_a_key_has_one_owner() -> None:
    state = State([KeyRow("k1", "cd" * 32, "other")])
    assert problems(CHANNELS + KEY, state) == [
        "upeti.toml:14: the state has a key `k1` too; choose another id; `upeti keys revoke k1` does not free it"
    ]


def test_secrets_are_named_never_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPETI_TEST_ONE", "planted-canary")
    monkeypatch.setenv(KEY_VARIABLE, "ab" * 32)
    sealed = seal(b"planted-canary", b"\xab" * 32)
    (tmp_path / "two").write_text("planted-canary")
    text = "".join(
        f'[[channel]]\nname = "c{place}"\nkind = "openai_compatible"\napi_key = "{where}"\n'
        for place, where in enumerate(["env:UPETI_TEST_ONE", f"file:{tmp_path}/two", "stored:three"])
    )
    result = compiled(text, State([], {"three": sealed}))
    assert [view.api_key for view in result.snapshot.channels.values()] == [
        SecretRef("env", "UPETI_TEST_ONE"),
        SecretRef("file", f"{tmp_path}/two"),
        SecretRef("stored", "three", sealed),
    ]
    assert "canary" not in repr(result)


def test_secrets_that_no_worker_would_find(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "ab" * 32)
    text = "".join(
        f'[[channel]]\nname = "c{place}"\nkind = "openai_compatible"\napi_key = "{where}"\n'
        for place, where in enumerate(["env:UPETI_TEST_NONE", "file:/none", "stored:none", "stored:other"])
    )
    state = State([], {"other": seal(b"x", bytes(32))})
    lines = [
        "upeti.toml:4: channel `c0`: the environment variable UPETI_TEST_NONE is not set; "
        "set it where Upeti is started",
        "upeti.toml:8: channel `c1`: /none cannot be read; correct the path or its mode",
        "upeti.toml:12: channel `c2`: there is no stored secret `none`; `upeti secrets set none` stores it",
        "upeti.toml:16: channel `c3`: a stored secret does not open with this master key; "
        "restore the key it was sealed with, or store the secret again with `upeti secrets set`",
    ]
    assert problems(text, state) == lines
    # To check a file on another machine, it is enough to say so.
    checked = compile_snapshot(parse(text, Path("upeti.toml")), state, PriceBook.shipped())
    assert checked.warnings[:4] == lines


def test_an_embedded_channel_that_was_added_later() -> None:
    text = CHANNELS + '[[channel]]\nname = "local2"\nkind = "embedded"\n'
    assert problems(text) == [
        "upeti.toml:13: channel `local2`: no process of the embedded provider was started for it; "
        "stop `upeti serve` and start it again"
    ]


def test_an_own_model_is_where_it_was_placed_costs_nothing_and_has_its_share() -> None:
    text = CHANNELS + '[[channel]]\nname = "own"\nkind = "student"\n[learning]\nanswer_within_ms = 70\n'
    text += '[[route]]\nname = "m"\ncandidate = [{ channel = "own", model = "intents" }, { channel = "local" }]\n'
    shares = {"own": {"intents": ShareView(10_000, sticky=True)}, "local": {"x": ShareView(1)}, "gone": {}}
    found = compiled(text, State(shares=shares)).snapshot
    own = found.channels["own"]
    assert (own.host, own.port, own.path, own.answer_within_ms) == ("127.0.0.1", 4003, "/v1", 70)
    assert found.channels["local"].answer_within_ms == 0
    assert found.shares == {"own": {"intents": ShareView(10_000, sticky=True)}}
    assert decode(encode(found)).shares == found.shares
    (price,) = [row for row in found.routes["m"].candidates[0].prices["intents"] if not row.tier]
    assert set(price.pico.values()) == {0}
    assert SERVE in own.purposes
    # One setting stops all of them.
    off = text.replace("[learning]", "[learning]\nenabled = false")
    assert compiled(off, State(shares=shares)).snapshot.shares == {}


def test_warnings_of_what_would_surprise() -> None:
    text = '[control]\nhost = "0.0.0.0"\n' + CHANNELS
    text += '[[route]]\nname = "new"\ncandidate = [{ channel = "openai", model = "gpt-new" }]\n'
    assert compiled(text).warnings == [
        "upeti.toml:17: `gpt-new` of channel `openai` has no price in the part `openai` of the price book: "
        "its calls are refused; add a row in a file of `[money] price_files`",
        "upeti.toml:1: there is no key: nobody can call; `upeti keys create --tenant NAME` makes one",
        "upeti.toml:2: the control port is open to the network (0.0.0.0); "
        "keep it on 127.0.0.1 unless a firewall guards it",
    ]
    assert compiled(CHANNELS + KEY).warnings == ["upeti.toml:1: there is no route: no model is served; add a [[route]]"]


def test_a_channels_zone_and_tier_choose_its_prices_and_what_lacks_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPETI_TEST_SECRET", "secret")
    text = """
[[channel]]
name = "eu"
kind = "azure"
base_url = "https://eu.openai.azure.com"
api_key = "env:UPETI_TEST_SECRET"
zone = "data_zone_eu"
tier = "{tier}"

[[route]]
name = "m"
candidate = [{{ channel = "eu", model = "{model}" }}]
"""
    rented = compiled(text.format(tier="provisioned", model="gpt-5.4"))
    (candidate,) = rented.snapshot.routes["m"].candidates
    found = {price.tier: price.pico["input"] for price in candidate.prices["gpt-5.4"]}
    assert found == {"": 2_750_000, "batch": 1_375_000, "priority": 5_500_000, "provisioned": 0}
    assert rented.snapshot.channels["eu"].tier == "provisioned"
    assert not [warning for warning in rented.warnings if "no price" in warning]
    flex = compiled(text.format(tier="flex", model="gpt-5.4"))
    assert any(
        "has no price at the tier `flex` in the part `azure` of the price book for the zone `data_zone_eu`" in warning
        for warning in flex.warnings
    )
    unknown = compiled(text.format(tier="provisioned", model="gpt-new"))
    assert any("`gpt-new` of channel `eu` has no price in the part" in warning for warning in unknown.warnings)


BUDGETS = """\
[[budget]]
name = "all"
limit = "5"
[[budget]]
name = "search"
limit = "400000000000"
currency = "IDR"
window = "week"
zone = "Asia/Jakarta"
mode = "soft"
alert_shares = [90, 10]
tenant = "acme"
feature = "web search"
[[rate_limit]]
name = "fast"
key = "k1"
calls_per_minute = 60
tokens_per_minute = 5000
"""
ALL = BudgetTerms(name="all", limit="5")
SEARCH = BudgetTerms(
    name="search",
    limit="400000000000",
    unit="IDR",
    window="week",
    zone="Asia/Jakarta",
    soft=True,
    shares=(10, 90),
    tenant="acme",
    feature="web search",
)
RATES = tuple(
    BudgetTerms(name="fast", limit=limit, unit=unit, window="minute", shares=(), key="k1")
    for unit, limit in (("calls", "60"), ("tokens", "5000"))
)


def test_budgets_of_the_file_and_of_the_state() -> None:
    own = BudgetTerms(name="own", limit="1", tenant="acme")
    state = State(budgets=[own], frozen=frozenset({"all"}))
    result = compiled(CHANNELS + ROUTES + BUDGETS + KEY + 'limit = "1.5"\n', state)
    assert result.snapshot.budgets == (ALL, SEARCH, *RATES, own)
    assert result.snapshot.frozen == frozenset({"all"})
    assert list(result.terms) == ["key:k1", "all", "search+IDR", "fast+calls", "fast+tokens", "own"]
    # A limit of four hundred billion is more than 64 bits of pico: it travels as text.
    assert decode(encode(result.snapshot)) == result.snapshot


def test_a_budget_is_in_the_file_or_in_the_state() -> None:
    found = problems(CHANNELS + ROUTES + BUDGETS, State(budgets=[ALL]))
    cure = "rename one, or `upeti budget delete all` removes the state's"
    assert found == [f"upeti.toml:24: the state has a budget `all` too; {cure}"]


def test_a_budget_for_nobody_is_a_warning() -> None:
    text = CHANNELS + ROUTES + KEY
    for selector in ("tenant", "project", "key"):
        (warning,) = compiled(f'{text}[[budget]]\nname = "b"\nlimit = "1"\n{selector} = "nobody"\n').warnings[-1:]
        assert f"`b` is for the {selector} `nobody`, of which there is no key" in warning
    assert not any("`b`" in warning for warning in compiled(text + '[[budget]]\nname = "b"\nlimit = "1"\n').warnings)


def test_audits_have_a_hidden_route_a_key_and_a_budget_for_each_task() -> None:
    state = State(
        teachers={"intents": ("openai", "gpt-4.1"), "claims": ("openai", "gpt-4.1"), "gone": ("nowhere", "m")},
        audit_secret="s" * 64,
        audit_limits={"intents": ("5", "USD"), "other": ("1", "USD")},
    )
    result = compiled(CHANNELS + ROUTES + '[learning]\naudit_tenant = "ours"\n', state)
    snapshot = result.snapshot
    assert set(snapshot.routes) == {"gpt-4.1", "*", "audit:intents", "audit:claims"}
    (candidate,) = snapshot.routes["audit:intents"].candidates
    assert (candidate.channel, candidate.model) == ("openai", "gpt-4.1")
    key = audit_key("s" * 64, "intents")
    caller = snapshot.keys[hashlib.sha256(key.encode()).digest()]
    assert caller == Caller("audit:intents", "ours", "", "audit", (), frozenset({"audit:intents"}))
    assert key != audit_key("s" * 64, "claims") != audit_key("t" * 64, "claims")
    assert snapshot.budgets == (BudgetTerms(name="audit:intents", limit="5", window="month", key="audit:intents"),)
    assert "audit:intents" in result.terms
    (warning,) = [one for one in result.warnings if "`gone`" in one]
    assert "its students are not audited" in warning
    off = compiled(CHANNELS + ROUTES + "[learning]\nenabled = false\n", state).snapshot
    assert (set(off.routes), off.keys, off.budgets) == ({"gpt-4.1", "*"}, {}, ())
    reserved = CHANNELS + ROUTES.replace('name = "gpt-4.1"', 'name = "audit:mine"')
    assert "names that begin with audit:" in problems(reserved)[0]
