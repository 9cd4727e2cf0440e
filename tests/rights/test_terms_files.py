"""Files of terms: what ships allows nothing, says where it is from, and leaves no hole; what is wrong is named."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from upeti.core.errors import ConfigError
from upeti.rights.permit import Decision, permit
from upeti.rights.terms import PURPOSES, SERVE, Binding, Origin, Terms
from upeti.rights.terms_files import load, load_alone

SHIPPED = load()
NOW_NS = 1_800_000_000 * 10**9  # 2027-01-15

OWN = """
[[contract]]
id = "ours-2026"
party = "Some Host"
family = "ours"
document = "Master agreement"
version = "2026"
from = 2026-01-01
source = "our files, number 12"
source_date = 2026-01-02

[[clause]]
id = "ours-2026/7"
contract = "ours-2026"
allow = ["store"]
deny = ["serve"]
quote = "may keep"
source = "our files, number 12"
source_date = 2026-01-02
until = 2027-01-01
"""


def bound(contract: str) -> Terms:
    binding = Binding("b", "c", contract, 0)
    return Terms(SHIPPED.contracts, SHIPPED.clauses, (binding,), SHIPPED.reviews, channels=frozenset({"c"}))


@pytest.mark.parametrize("contract", [one.id for one in SHIPPED.contracts])
def test_no_shipped_contract_allows_anything_but_serving(contract: str) -> None:
    terms = bound(contract)
    allowed = {purpose for purpose in PURPOSES if permit(terms, Origin("c", contract, NOW_NS), purpose, NOW_NS).allowed}
    assert allowed == {SERVE}
    assert not SHIPPED.reviews


def test_every_shipped_contract_speaks_of_every_purpose() -> None:
    """So `upeti rights review` can be used for each; the usage policy is a part of the commercial terms."""
    terms = Terms(SHIPPED.contracts, SHIPPED.clauses)
    for contract in SHIPPED.contracts:
        spoken = {purpose for clause in terms.clauses_of(contract.id, NOW_NS) for purpose in clause.decisions}
        parts = {part for other in SHIPPED.contracts for part in other.includes}
        assert spoken == PURPOSES - {SERVE} or contract.id in parts, contract.id


def test_every_shipped_clause_has_words_or_says_that_it_has_none() -> None:
    for clause in SHIPPED.clauses:
        assert clause.source.startswith("https://"), clause.id
        assert clause.source_date >= "2026-08-22", clause.id
        assert clause.id.startswith(f"{clause.contract}/")
        if clause.quote:
            assert clause.text_sha256 == hashlib.sha256(clause.quote.encode()).hexdigest()
        else:
            assert clause.remark, clause.id
            assert not clause.text_sha256


# As the project's readings of 2026-08-22 have it: family → purpose → how the file reads it.
READINGS = {
    "openai": {"classify_internal": "allow", "embed": "allow", "classify_distributed": "deny", "general_model": "deny"},
    "anthropic-commercial": {"classify_internal": "ask", "task_generative": "ask", "general_model": "deny"},
    "azure-openai": dict.fromkeys(PURPOSES - {SERVE}, "deny"),
    "vertex": dict.fromkeys(PURPOSES - {SERVE}, "deny"),
    "bedrock": dict.fromkeys(PURPOSES - {SERVE}, "deny"),
    "cohere": dict.fromkeys(PURPOSES - {SERVE}, "deny"),
    "deepseek": {"general_model": "allow", "task_generative": "allow", "resell": "deny"},
    "xai": {"general_model": "deny", "classify_internal": "deny", "store": "ask"},
    "meta-model-api": {"general_model": "deny", "store": "ask"},
    "qwen-hosted": {"general_model": "deny", "store": "ask"},
    "smollm2": {"general_model": "allow", "store": "allow"},
    "qwen-weights": {"general_model": "allow"},
}


@pytest.mark.parametrize("family", READINGS)
def test_known_clauses_are_read_as_they_were(family: str) -> None:
    terms = Terms(SHIPPED.contracts, SHIPPED.clauses)
    found = [one for one in SHIPPED.contracts if one.family == family]
    assert found
    for contract in found:
        for purpose, reading in READINGS[family].items():
            read = {clause.decisions.get(purpose) for clause in terms.clauses_of(contract.id, NOW_NS)} - {None}
            assert max(read, key=list(Decision).index) == reading, (contract.id, purpose)


def test_the_licences_of_weights_come_with_their_duties() -> None:
    duties = {clause.id: clause.duties for clause in SHIPPED.clauses}
    for version in ("3.1", "3.2", "3.3", "4"):
        assert duties[f"llama-{version}-community/1.b.i"] == ("name_prefix:Llama", "notice:Built with Llama")
        assert duties[f"llama-{version}-community/1.b.i-internal"] == ()
        assert duties[f"llama-{version}-community/2"] == ("users_monthly_max:700000000",)
    assert duties["gemma-terms-2024-04-01/1.1e"][0] == "licence_follows:Gemma Terms of Use"
    assert duties["openai-services-2026-01-01/permitted-exception-a"] == ("not_distributed",)


def test_a_file_of_ones_own_comes_after_the_shipped_ones(tmp_path: Path) -> None:
    path = tmp_path / "terms.toml"
    path.write_text(OWN)
    facts = load([path])
    clause = facts.clauses[-1]
    assert (clause.id, clause.party, clause.document) == ("ours-2026/7", "Some Host", "Master agreement")
    assert clause.decisions == {"store": Decision.ALLOW, SERVE: Decision.DENY}
    assert clause.until_ns == 1_798_761_600 * 10**9
    assert len(facts.clauses) == len(SHIPPED.clauses) + 1
    assert [one.id for one in load_alone(path).contracts] == ["ours-2026"]


def test_a_file_of_ones_own_may_name_who_reviewed_a_row(tmp_path: Path) -> None:
    path = tmp_path / "terms.toml"
    path.write_text(OWN + 'reviewed_by = "head of risk"\nreviewed_at = 2026-02-01\nreview_why = "plain words"\n')
    (review,) = load([path]).reviews
    assert (review.by, review.why, review.clause) == ("head of risk", "plain words", "ours-2026/7")
    assert review.decisions["store"] is Decision.ALLOW
    path.write_text(OWN + 'reviewed_by = "head of risk"\n')
    with pytest.raises(ConfigError, match="give all three, or none"):
        load([path])


RULE = """
[[clause]]
id = "own/no-general-model"
contract = "*"
deny = ["general_model"]
source = "decided by the board, 2026-03-01"
source_date = 2026-03-01
"""


def test_a_rule_of_ones_own_holds_for_every_contract_and_no_grant_lifts_it(tmp_path: Path) -> None:
    path = tmp_path / "rules.toml"
    path.write_text(RULE)
    facts = load([path])
    terms = Terms(facts.contracts, facts.clauses, (Binding("b", "c", "deepseek-platform-2026-04-29", 0),))
    decided = permit(terms, Origin("c", "deepseek-platform-2026-04-29", NOW_NS), "general_model", NOW_NS)
    assert (decided.decision, decided.clause) == (Decision.DENY, "own/no-general-model")


@pytest.mark.parametrize(
    ("was", "now", "what"),
    [
        ('allow = ["store"]', 'allow = ["storing"]', "`storing` is no purpose; there are: "),
        ('allow = ["store"]', 'allow = ["store"]\nask = ["store"]', "`store` stands in two lists"),
        ('deny = ["serve"]', 'ask = ["serve"]', "`serve` can only be denied"),
        ('allow = ["store"]\ndeny = ["serve"]', "", "it decides nothing"),
        ('contract = "ours-2026"', 'contract = "theirs"', "there is no contract `theirs`"),
        ('contract = "ours-2026"', 'contract = "*"', "can ask and deny, not allow"),
        ('id = "ours-2026/7"', 'id = "openai-services-2026-01-01/4.1"', "is there already in openai.toml:"),
        ("source_date = 2026-01-02\nuntil", 'duties = ["Name It"]\nsource_date = 2026-01-02\nuntil', "duties"),
        ('family = "ours"', 'family = "ours"\nincludes = ["nothing"]', "there is no contract `nothing` to include"),
        ('party = "Some Host"\n', "", "add it, no row is complete without"),
        ('quote = "may keep"', 'quotes = "may keep"', "the fields are: "),
    ],
)
def test_a_mistake_is_named_with_file_line_and_cure(tmp_path: Path, was: str, now: str, what: str) -> None:
    path = tmp_path / "terms.toml"
    assert was in OWN
    path.write_text(OWN.replace(was, now))
    with pytest.raises(ConfigError, match=r"terms\.toml:\d+: row 1: ") as raised:
        load([path])
    assert what in str(raised.value)


def test_a_shipped_row_cannot_name_a_reviewer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from upeti.rights import terms_files

    path = tmp_path / "shipped.toml"
    path.write_text(OWN + 'reviewed_by = "head of risk"\nreviewed_at = 2026-02-01\nreview_why = "plain words"\n')
    monkeypatch.setattr(terms_files, "_sources", lambda paths: [(path, "shipped.toml", False)])
    with pytest.raises(ConfigError, match="a shipped row names no reviewer"):
        load()
