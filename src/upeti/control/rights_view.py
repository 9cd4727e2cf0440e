"""Rights as people are shown them: a decision with all it rests on, tables of channels and purposes, changed documents.

The same structures are printed by commands and given by the control API.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
from sqlalchemy import select

from upeti.control.pairs import captured_under
from upeti.control.store import Store
from upeti.control.tables_lineage import dataset_rows, datasets, model_datasets, models
from upeti.core.config import Channel, Config
from upeti.core.errors import ConfigError
from upeti.money.window import iso_time
from upeti.providers.catalog import PROVIDERS
from upeti.rights import terms_files
from upeti.rights.permit import permit, purposes_until, rulings
from upeti.rights.terms import FOREVER_NS, PURPOSE_MEANS, Clause, Contract, Origin, Terms
from upeti.rights.terms_diff import TermsDiff, diff


class Speaking(msgspec.Struct, frozen=True):
    """A clause that speaks of a purpose, and what it decides here."""

    clause: str
    decision: str
    reading: str  # as the file reads it
    document: str
    version: str
    section: str
    quote: str
    text_sha256: str
    source: str
    source_date: str
    remark: str
    duties: tuple[str, ...]
    reviewed_by: str
    reviewed_at: str
    review_why: str
    grant: str
    why: str


class Explanation(msgspec.Struct, frozen=True):
    """A decision and all it rests on. Times are ISO 8601, UTC; texts are "" where there is nothing to say."""

    decision: str
    purpose: str
    means: str  # of the purpose, in words
    channel: str
    contract: str
    clause: str
    quote: str
    duties: tuple[str, ...]
    grant: str
    why: str  # and what would change it
    captured_at: str
    at: str
    ends: str  # when the decision changes by date alone
    tenant: str
    model: str
    binding: str
    speaking: tuple[Speaking, ...]
    grants: tuple[dict[str, Any], ...]  # those that cover it, with evidence
    published: tuple[str, ...]  # contracts published for the users of this channel's host, when it is bound to none


class ChannelRights(msgspec.Struct, frozen=True):
    """What may be done now with answers of a channel."""

    channel: str
    contract: str
    decisions: dict[str, str]
    ends: dict[str, str]  # purpose → when it ends by date


class DocumentChange(msgspec.Struct, frozen=True):
    """What changed from one text of a contract to another, and what of ours it touches."""

    old: str
    new: str
    lost: tuple[str, ...]
    changes: TermsDiff
    pairs: dict[str, int]  # channel → kept pairs captured under the old one
    datasets: dict[str, str]  # built of such pairs → purpose
    models: dict[str, str]  # trained on those → purpose


def explain(terms: Terms, config: Config, origin: Origin, purpose: str, at_ns: int) -> Explanation:
    """Return a decision with everything it rests on."""
    decided = permit(terms, origin, purpose, at_ns)
    binding = terms.bound_at(origin)
    speaking = rulings(terms, origin, purpose, at_ns) if binding is not None else []
    changes = (moment for moment in terms.changes(at_ns) if permit(terms, origin, purpose, moment) != decided)
    ends_ns = next(changes, 0)
    channel = next((one for one in config.channel if one.name == origin.channel), None)
    return Explanation(
        decision=decided.decision,
        purpose=purpose,
        means=PURPOSE_MEANS.get(purpose, ""),
        channel=origin.channel,
        contract=decided.contract,
        clause=decided.clause,
        quote=decided.quote,
        duties=decided.duties,
        grant=decided.grant,
        why=decided.why,
        captured_at=shown_time(origin.at_ns),
        at=shown_time(at_ns),
        ends=shown_time(ends_ns) if ends_ns else "",
        tenant=origin.tenant,
        model=origin.model,
        binding=binding.id if binding is not None else "",
        speaking=tuple(
            _speaking(terms, ruling.clause, ruling.decision, ruling.grant, ruling.why, purpose, at_ns)
            for ruling in speaking
        ),
        grants=tuple(msgspec.to_builtins(one) for one in terms.grants_for(origin, purpose, at_ns)),
        published=tuple(one.id for one in published(terms, channel)) if channel and not decided.contract else (),
    )


def _speaking(terms: Terms, clause: Clause, decision: str, grant: str, why: str, purpose: str, at_ns: int) -> Speaking:
    review = terms.review_of(clause, purpose, at_ns)
    return Speaking(
        clause=clause.id,
        decision=decision,
        reading=clause.decisions[purpose],
        document=clause.document,
        version=clause.version,
        section=clause.section,
        quote=clause.quote,
        text_sha256=clause.text_sha256,
        source=clause.source,
        source_date=clause.source_date,
        remark=clause.remark,
        duties=clause.duties,
        reviewed_by=review.by if review is not None else "",
        reviewed_at=shown_time(review.at_ns) if review is not None else "",
        review_why=review.why if review is not None else "",
        grant=grant,
        why=why,
    )


def published(terms: Terms, channel: Channel) -> list[Contract]:
    """Return the contracts that are published for the users of a channel's host: a hint, nobody is bound by it."""
    host = (urlsplit(channel.base_url or PROVIDERS[channel.kind].base_url).hostname or "").lower()
    return [
        one for one in terms.contracts if channel.kind in one.kinds or any(_is_host(name, host) for name in one.hosts)
    ]


def _is_host(name: str, host: str) -> bool:
    return host.endswith(name) if name.startswith(".") else host == name


def rights_of_channels(terms: Terms, at_ns: int, tenant: str = "") -> list[ChannelRights]:
    """Return what may be done with what each configured channel answers at ``at_ns``."""
    found = []
    for channel in sorted(terms.channels):
        origin = terms.origin_now(channel, at_ns, tenant)
        ends = purposes_until(terms, channel, at_ns)
        found.append(
            ChannelRights(
                channel,
                origin.contract,
                {purpose: str(permit(terms, origin, purpose, at_ns).decision) for purpose in PURPOSE_MEANS},
                {purpose: shown_time(until_ns) for purpose, until_ns in ends.items() if until_ns != FOREVER_NS},
            )
        )
    return found


def change_of(store: Store, terms: Terms, old: str, new: str) -> list[DocumentChange]:
    """Compare two contracts by their ids, or two files of terms, contract by contract; count what was captured under the
    old ones. Raises ``ConfigError``.
    """
    before, after = _clauses_by_contract(terms, old), _clauses_by_contract(terms, new)
    if len(before) == len(after) == 1:
        pairs = [(next(iter(before)), next(iter(after)))]
    else:
        pairs = [(name, name) for name in (*before, *(name for name in after if name not in before))]
    found = []
    for was, now in pairs:
        changes = diff(before.get(was, []), after.get(now, []))
        found.append(DocumentChange(was, now, changes.lost, changes, captured_under(store, was), *_made_of(store, was)))
    return found


def _made_of(store: Store, contract: str) -> tuple[dict[str, str], dict[str, str]]:
    """Return the data sets with rows that were captured under a contract, and the models of them, each with its purpose."""
    sets = select(dataset_rows.c.dataset).where(dataset_rows.c.contract == contract).distinct()
    of_models = select(model_datasets.c.model).where(model_datasets.c.dataset.in_(sets))
    with store.engine.connect() as connection:
        one, other = (
            {str(row.id): str(row.purpose) for row in connection.execute(query)}
            for query in (
                select(datasets.c.id, datasets.c.purpose).where(datasets.c.id.in_(sets)).order_by(datasets.c.id),
                select(models.c.id, models.c.purpose).where(models.c.id.in_(of_models)).order_by(models.c.id),
            )
        )
    return one, other


def _clauses_by_contract(terms: Terms, name: str) -> dict[str, list[Clause]]:
    if terms.contract(name) is not None:
        return {name: clauses_of(terms, terms.closure(name))}
    path = Path(name)
    if not path.is_file():
        known = ", ".join(one.id for one in terms.contracts)
        raise ConfigError(f"`{name}` is neither a contract nor a file of terms; the contracts are: {known}")
    found: dict[str, list[Clause]] = {}
    for clause in terms_files.load_alone(path).clauses:
        found.setdefault(clause.contract, []).append(clause)
    return found


def clauses_of(terms: Terms, contracts: Iterable[str] = ()) -> list[Clause]:
    """Return the clauses of some contracts, or of all."""
    wanted = frozenset(contracts)
    return [clause for clause in terms.clauses if not wanted or clause.contract in wanted]


def shown_time(at_ns: int) -> str:
    """Return a moment as ISO 8601, UTC; "" for 0."""
    return iso_time(at_ns, "UTC").replace("+00:00", "Z") if at_ns else ""
