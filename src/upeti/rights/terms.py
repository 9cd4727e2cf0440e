"""What is known of contracts: their versions and clauses, which channel stands under which, grants, denials, reviews.

Rules: a right belongs to a channel and to the version of its contract that was in force when an answer was captured, so
later versions change nothing about it. A clause says what it was read to mean, by purpose; a reading that allows counts
only once a named person has reviewed it here, and no longer when the text has changed since. A grant speaks for its own
party only. Everything is dated, and nothing is edited: what was decided at a moment can be computed again. Pure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from enum import StrEnum
from functools import cached_property
from typing import Final, TypeVar

import msgspec

T = TypeVar("T")


class Decision(StrEnum):
    ALLOW = "allow"
    ASK = "ask"  # nobody has decided; until somebody does it is as good as denied
    DENY = "deny"


SERVE: Final = "serve"

# Purpose → what an answer is used for, in words.
PURPOSE_MEANS: Final = {
    SERVE: "hand the answer on to the caller who asked for it",
    "store": "keep questions and answers",
    "evaluate": "measure a model against the answers",
    "classify_internal": "train a model that only sorts or tags, and that nobody else gets",
    "classify_distributed": "train a model that only sorts or tags, and give it to others",
    "embed": "train a model that makes embeddings",
    "rerank": "train a model that ranks",
    "task_generative": "train a model that writes, for one task",
    "general_model": "train a model that writes, for anything",
    "tune_at_provider": "fine-tune at the provider itself",
    "resell": "sell access to the model on",
}
PURPOSES: Final = frozenset(PURPOSE_MEANS)

EVERY_CONTRACT: Final = "*"
FOREVER_NS: Final = 1 << 63


def in_force(from_ns: int, until_ns: int, at_ns: int) -> bool:
    """Whether a moment is in a span; ``until_ns`` 0: it has no end."""
    return from_ns <= at_ns and (not until_ns or at_ns < until_ns)


class Origin(msgspec.Struct, frozen=True):
    """Where an answer came from, and under which version of the contract it was captured."""

    channel: str
    contract: str  # id of the version; "" when none was in force
    at_ns: int  # of the capture
    tenant: str = ""
    model: str = ""  # as it was sent to the provider


class Contract(msgspec.Struct, frozen=True):
    """One version of what was agreed with a party: terms that it has published, or an order form of one's own."""

    id: str
    party: str
    family: str  # versions of the same document, such as "openai"
    document: str
    version: str
    from_ns: int = 0
    until_ns: int = 0
    source: str = ""
    hosts: tuple[str, ...] = ()  # whose users these terms are published for; nobody is bound by a guess
    kinds: tuple[str, ...] = ()
    includes: tuple[str, ...] = ()  # contracts that hold as well, such as the licence of the weights
    remark: str = ""


class Clause(msgspec.Struct, frozen=True, dict=True):
    """A sentence of a contract and what it was read to mean."""

    id: str
    contract: str  # id of the version; "*": of every contract, a rule of one's own
    party: str  # who can authorize what it forbids
    section: str
    document: str
    version: str
    decisions: dict[str, Decision]  # by purpose
    quote: str = ""  # "" when the text is not at hand, which the remark says
    text_sha256: str = ""  # of the document that was read, else of the quote; "" when neither is at hand
    source: str = ""
    source_date: str = ""
    from_ns: int = 0
    until_ns: int = 0
    duties: tuple[str, ...] = ()
    unless_authorized: bool = False  # what it denies, its party may permit in writing
    remark: str = ""

    @cached_property
    def digest(self) -> str:
        """SHA-256 of what a reviewer decides about: a review counts for this text and this reading, and no other."""
        bare = msgspec.structs.replace(self, source="", source_date="", remark="")
        return hashlib.sha256(msgspec.json.encode(bare, order="deterministic")).hexdigest()


class Binding(msgspec.Struct, frozen=True):
    """From when until when a channel's account stands under a version of a contract."""

    id: str
    channel: str
    contract: str
    from_ns: int
    until_ns: int = 0
    order_form_sha256: str = ""  # a signed order form: updates of the published terms do not change it
    by: str = ""
    why: str = ""

    def covers(self, at_ns: int) -> bool:
        return in_force(self.from_ns, self.until_ns, at_ns)


class Review(msgspec.Struct, frozen=True):
    """A named person has read a clause and decided what it means here. The newest one counts."""

    id: str
    clause: str
    digest: str  # of the clause as it was read
    decisions: dict[str, Decision]
    by: str
    why: str
    at_ns: int


class Grant(msgspec.Struct, frozen=True):
    """A written permission of a party, with its evidence."""

    id: str
    channel: str
    purpose: str
    party: str
    evidence_sha256: str
    by: str
    why: str
    at_ns: int  # when it was recorded: no earlier decision knew of it
    from_ns: int = 0
    until_ns: int = 0
    captured_from_ns: int = 0  # it covers answers captured from then on
    tenant: str = ""  # "": of every tenant
    models: tuple[str, ...] = ()  # (): of every model
    duties: tuple[str, ...] = ()
    evidence_name: str = ""
    revoked_ns: int = 0
    revoked_by: str = ""
    revoked_why: str = ""

    def covers(self, origin: Origin, purpose: str, at_ns: int) -> bool:
        """Whether it holds at ``at_ns`` for what came from ``origin``. A scope that cannot be checked does not fit."""
        return (
            self.channel == origin.channel
            and self.purpose == purpose
            and self.at_ns <= at_ns
            and in_force(self.from_ns, self.until_ns, at_ns)
            and not (self.revoked_ns and self.revoked_ns <= at_ns)
            and self.captured_from_ns <= origin.at_ns
            and self.tenant in ("", origin.tenant)
            and (not self.models or origin.model in self.models)
        )


class Denial(msgspec.Struct, frozen=True):
    """What the operator does not want, whoever permits it. It wins over everything until it is lifted."""

    id: str
    channel: str
    purpose: str
    by: str
    why: str
    at_ns: int
    tenant: str = ""  # "": of every tenant
    lifted_ns: int = 0
    lifted_by: str = ""
    lifted_why: str = ""

    def covers(self, origin: Origin, purpose: str, at_ns: int) -> bool:
        """Whether it holds at ``at_ns`` for what came from ``origin``. A tenant that is not known may be the one."""
        tenants = ("", self.tenant) if purpose != SERVE else (self.tenant,)
        return (
            self.channel == origin.channel
            and self.purpose == purpose
            and in_force(self.at_ns, self.lifted_ns, at_ns)
            and (not self.tenant or origin.tenant in tenants)
        )


class Terms(msgspec.Struct, frozen=True, dict=True):
    """Everything that is known. ``channels`` are those that the configuration names."""

    contracts: tuple[Contract, ...] = ()
    clauses: tuple[Clause, ...] = ()
    bindings: tuple[Binding, ...] = ()
    reviews: tuple[Review, ...] = ()
    grants: tuple[Grant, ...] = ()
    denials: tuple[Denial, ...] = ()
    channels: frozenset[str] = frozenset()

    def binding_of(self, channel: str, at_ns: int) -> Binding | None:
        """Return the binding in force for a channel: of several the one that began last."""
        found = [one for one in self._bindings.get(channel, ()) if one.covers(at_ns)]
        return max(found, key=lambda one: (one.from_ns, one.id)) if found else None

    def contract_of(self, channel: str, at_ns: int) -> str:
        """Return the id of the contract version in force for a channel's account; "" when there is none."""
        binding = self.binding_of(channel, at_ns)
        return binding.contract if binding is not None else ""

    def origin_now(self, channel: str, at_ns: int, tenant: str = "", model: str = "") -> Origin:
        """Return the origin of an answer that ``channel`` gives at ``at_ns``."""
        return Origin(channel, self.contract_of(channel, at_ns), at_ns, tenant, model)

    def bound_at(self, origin: Origin) -> Binding | None:
        """Return the binding under which an answer was captured; None when its channel was not bound to its contract."""
        of_channel = self._bindings.get(origin.channel, ())
        found = [one for one in of_channel if one.contract == origin.contract and one.covers(origin.at_ns)]
        return max(found, key=lambda one: (one.from_ns, one.id)) if found else None

    def ended(self, channel: str, at_ns: int) -> Binding | None:
        """Return the contract that a channel had and has no more, with none in its place; None otherwise."""
        if self.binding_of(channel, at_ns) is not None:
            return None
        past = [one for one in self._bindings.get(channel, ()) if one.until_ns and one.until_ns <= at_ns]
        return max(past, key=lambda one: (one.until_ns, one.id)) if past else None

    def contract(self, contract_id: str) -> Contract | None:
        return self._contracts.get(contract_id)

    def clause(self, clause_id: str) -> Clause | None:
        return self._clauses.get(clause_id)

    def clauses_of(self, contract_id: str, text_ns: int) -> Iterator[Clause]:
        """Yield the clauses of a contract, of what it includes, and of one's own rules, that were in force then."""
        for included in (*self.closure(contract_id), EVERY_CONTRACT):
            for clause in self._clauses_by_contract.get(included, ()):
                if in_force(clause.from_ns, clause.until_ns, text_ns):
                    yield clause

    def review_of(self, clause: Clause, purpose: str, at_ns: int) -> Review | None:
        """Return the newest review of what a clause means for a purpose; None when it counts no more.

        A review of another text than the clause has now says nothing of it, except that a denial stays one.
        """
        reviews = self._reviews.get(clause.id, ())
        known = [one for one in reviews if one.at_ns <= at_ns and purpose in one.decisions]
        if not known:
            return None
        newest = max(known, key=lambda one: (one.at_ns, one.id))
        if newest.digest != clause.digest and newest.decisions[purpose] is not Decision.DENY:
            return None
        return newest

    def grants_for(self, origin: Origin, purpose: str, at_ns: int) -> list[Grant]:
        return [one for one in self.grants if one.covers(origin, purpose, at_ns)]

    def changes(self, after_ns: int) -> list[int]:
        """Return the moments after ``after_ns`` at which a decision may change by date alone, ascending."""
        dated: set[int] = set()
        for binding in self.bindings:
            dated |= {binding.from_ns, binding.until_ns}
        for clause in self.clauses:
            dated |= {clause.from_ns, clause.until_ns}
        for grant in self.grants:
            dated |= {grant.at_ns, grant.from_ns, grant.until_ns, grant.revoked_ns}
        for denial in self.denials:
            dated |= {denial.at_ns, denial.lifted_ns}
        dated |= {review.at_ns for review in self.reviews}
        return sorted(moment for moment in dated if moment > after_ns)

    def closure(self, contract_id: str) -> list[str]:
        """Return a contract and all that it includes; nothing for one that is not known."""
        found: list[str] = []
        left = [contract_id]
        while left:
            one = left.pop(0)
            contract = self._contracts.get(one)
            if contract is not None and one not in found:
                found.append(one)
                left.extend(contract.includes)
        return found

    @cached_property
    def _contracts(self) -> dict[str, Contract]:
        return {one.id: one for one in self.contracts}

    @cached_property
    def _clauses(self) -> dict[str, Clause]:
        return {one.id: one for one in self.clauses}

    @cached_property
    def _clauses_by_contract(self) -> dict[str, list[Clause]]:
        return _grouped((one.contract, one) for one in self.clauses)

    @cached_property
    def _bindings(self) -> dict[str, list[Binding]]:
        return _grouped((one.channel, one) for one in self.bindings)

    @cached_property
    def _reviews(self) -> dict[str, list[Review]]:
        return _grouped((one.clause, one) for one in self.reviews)


def _grouped(pairs: Iterable[tuple[str, T]]) -> dict[str, list[T]]:
    found: dict[str, list[T]] = {}
    for key, value in pairs:
        found.setdefault(key, []).append(value)
    return found
