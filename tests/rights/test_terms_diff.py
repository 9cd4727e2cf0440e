"""What changed between two texts: narrower and wider purposes, sentences that came and went, duties."""

from __future__ import annotations

import msgspec

from upeti.rights.terms import Clause, Decision
from upeti.rights.terms_diff import diff, reading

replace = msgspec.structs.replace
OLD = Clause(
    "k-1/3",
    "k-1",
    "P",
    "3",
    "Doc",
    "1",
    {"embed": Decision.ALLOW, "store": Decision.ALLOW, "rerank": Decision.DENY},
    quote="You may keep it. You may make embeddings.",
)
NEW = replace(
    OLD,
    id="k-2/3",
    contract="k-2",
    version="2",
    decisions={"store": Decision.ALLOW, "rerank": Decision.ASK},
    quote="You may keep it. You may ask us for more.",
    duties=("notice:A",),
)


def test_the_strictest_clause_reads_for_all_and_silence_is_a_denial() -> None:
    other = replace(OLD, id="k-1/4", decisions={"store": Decision.ASK})
    assert reading([OLD, other], "store") is Decision.ASK
    assert reading([OLD], "general_model") is Decision.DENY


def test_what_is_lost_and_won_and_by_which_sentence() -> None:
    found = diff([OLD], [NEW])
    assert found.lost == ("embed",)
    assert {one.purpose: (one.old, one.new, one.narrower) for one in found.purposes} == {
        "embed": ("allow", "deny", True),
        "rerank": ("deny", "ask", False),
    }
    (clause,) = found.clauses
    assert (clause.old, clause.new, clause.section) == ("k-1/3", "k-2/3", "3")
    assert clause.words == ("- You may make embeddings.", "+ You may ask us for more.")
    assert (found.duties_added, found.duties_removed) == (("notice:A",), ())


def test_the_same_text_under_a_new_version_is_no_change() -> None:
    found = diff([OLD], [replace(OLD, id="k-2/3", contract="k-2", version="2")])
    assert (found.purposes, found.clauses) == ((), ())


def test_a_clause_that_went_and_one_that_came() -> None:
    added = replace(OLD, id="k-2/9", section="9", decisions={"store": Decision.DENY}, quote="No.")
    found = diff([OLD], [added])
    assert [(one.old, one.new) for one in found.clauses] == [("k-1/3", ""), ("", "k-2/9")]
    assert found.clauses[1].words == ("+ No.",)
    assert found.lost == ("store", "embed")
