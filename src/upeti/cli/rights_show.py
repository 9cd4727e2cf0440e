"""Rights as people read them in a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

import typer

from upeti.cli.output import cell, console, plain, table
from upeti.rights.terms import PURPOSE_MEANS

if TYPE_CHECKING:
    from upeti.control.rights_view import ChannelRights, DocumentChange, Explanation, Speaking
    from upeti.rights.terms import Clause, Terms

_STYLES: Final = {"allow": "green", "ask": "yellow", "deny": "red"}
_LABEL_COLUMNS: Final = 10


def explanation(found: Explanation) -> None:
    """Print a decision and what it rests on."""
    console().print(
        f"{found.decision.upper()}: {plain(found.purpose)} with answers of {plain(found.channel)}",
        style=f"bold {_STYLES[found.decision]}",
        markup=False,
        highlight=False,
    )
    captured = f", captured {found.captured_at}" if found.captured_at != found.at else ""
    for label, text in (
        ("means", found.means),
        ("why", found.why),
        ("at", f"{found.at}{captured}"),
        ("changes", found.ends),
        ("contract", found.contract),
        ("duties", "; ".join(found.duties)),
        ("tenant", found.tenant),
        ("model", found.model),
    ):
        _line(label, text)
    for speaking in found.speaking:
        _clause_speaking(speaking)
    for grant in found.grants:
        ends = f", until {_day(grant['until_ns'])}" if grant["until_ns"] else ""
        _line("grant", f"{grant['id']} of {grant['party']}{ends}, recorded by {grant['by']}: {grant['why']}")
        _line("evidence", f"{grant['evidence_name']}, SHA-256 {grant['evidence_sha256']}")
    if found.published:
        _line("published", f"for the users of this host: {', '.join(found.published)}")


def _clause_speaking(speaking: Speaking) -> None:
    typer.echo("")
    _line("clause", f"{speaking.clause}: {speaking.decision} (the file reads: {speaking.reading})")
    section = f", {speaking.section}" if speaking.section else ""
    _line("document", f"{speaking.document}, version {speaking.version}{section}")
    _line("quote", f"“{speaking.quote}”" if speaking.quote else "no text at hand")
    _line("source", f"{speaking.source}, {speaking.source_date}")
    _line("remark", speaking.remark)
    _line("duties", "; ".join(speaking.duties))
    by = f"{speaking.reviewed_by}, {speaking.reviewed_at}: {speaking.review_why}" if speaking.reviewed_by else "nobody"
    _line("reviewed", by)


def _line(label: str, text: str) -> None:
    if text:
        typer.echo(f"{label:<{_LABEL_COLUMNS}} {plain(text)}")


def channels(found: Sequence[ChannelRights]) -> None:
    """Print a table of channels and purposes."""
    if not found:
        typer.echo("There is no channel yet: add a [[channel]].")
        return
    shown = table([("purpose", False), *((one.channel, False) for one in found)])
    for purpose in PURPOSE_MEANS:
        cells = []
        for one in found:
            text = one.decisions[purpose]
            until = f" until {one.ends[purpose]}" if purpose in one.ends else ""
            made = cell(f"{text}{until}")
            made.stylize(_STYLES[text])
            cells.append(made)
        shown.add_row(purpose, *cells)
    shown.add_section()
    shown.add_row("contract", *(cell(one.contract or "none") for one in found))
    console().print(shown)


def records(terms: Terms) -> None:
    """Print who said what: bindings, grants, denials."""
    if terms.bindings:
        shown = table([(name, False) for name in ("binding", "channel", "contract", "from", "until", "by")])
        for one in terms.bindings:
            by = one.by or "configuration"
            shown.add_row(*map(cell, (one.id, one.channel, one.contract, _day(one.from_ns), _day(one.until_ns), by)))
        _print(shown)
    if terms.grants:
        shown = table([(name, False) for name in ("grant", "channel", "purpose", "party", "from", "until", "by")])
        for grant in terms.grants:
            until = f"revoked {_day(grant.revoked_ns)}" if grant.revoked_ns else _day(grant.until_ns)
            names = (grant.id, grant.channel, grant.purpose, grant.party, _day(grant.from_ns), until, grant.by)
            shown.add_row(*map(cell, names))
        _print(shown)
    if terms.denials:
        shown = table([(name, False) for name in ("denial", "channel", "purpose", "tenant", "from", "until", "by")])
        for denial in terms.denials:
            whom = (denial.id, denial.channel, denial.purpose, denial.tenant or "all")
            shown.add_row(*map(cell, (*whom, _day(denial.at_ns), _day(denial.lifted_ns), denial.by)))
        _print(shown)


def contracts(terms: Terms) -> None:
    """Print contract versions."""
    shown = table([(name, False) for name in ("contract", "party", "document", "version", "includes", "clauses")])
    for one in terms.contracts:
        count = sum(clause.contract == one.id for clause in terms.clauses)
        names = (one.id, one.party, one.document, one.version, ", ".join(one.includes), str(count))
        shown.add_row(*map(cell, names))
    console().print(shown)


def clauses(terms: Terms, found: Iterable[Clause]) -> None:
    """Print clauses with their words."""
    reviews = {review.clause: review for review in terms.reviews}
    for clause in found:
        typer.echo(plain(clause.id))
        by_decision: dict[str, list[str]] = {}
        for purpose, decision in sorted(clause.decisions.items()):
            by_decision.setdefault(decision, []).append(purpose)
        _line("  reads", "; ".join(f"{name}: {', '.join(purposes)}" for name, purposes in by_decision.items()))
        _line("  quote", f"“{clause.quote}”" if clause.quote else "no text at hand")
        _line("  duties", "; ".join(clause.duties))
        _line("  remark", clause.remark)
        _line("  source", f"{clause.source}, {clause.source_date}")
        review = reviews.get(clause.id)
        if review is not None:
            stale = "" if review.digest == clause.digest else " (of another text: it is asked again)"
            read = ", ".join(f"{purpose}: {decision}" for purpose, decision in sorted(review.decisions.items()))
            _line("  reviewed", f"{review.by}, {_day(review.at_ns)}: {read}; {review.why}{stale}")
        else:
            _line("  reviewed", "nobody")


def changes(found: Sequence[DocumentChange]) -> None:
    """Print what changed between texts."""
    for one in found:
        console().print(f"{one.old} → {one.new}", style="bold", markup=False, highlight=False)
        if not one.changes.purposes and not one.changes.clauses:
            typer.echo("Nothing changed.")
        for change in one.changes.purposes:
            mark = "narrower" if change.narrower else "wider"
            typer.echo(f"  {change.purpose:<21} {change.old} → {change.new} ({mark})")
        _line("  duties +", "; ".join(one.changes.duties_added))
        _line("  duties -", "; ".join(one.changes.duties_removed))
        for clause in one.changes.clauses:
            typer.echo(plain(f"  {clause.section or clause.new or clause.old}: {_fate(clause.old, clause.new)}"))
            for words in clause.words:
                typer.echo(plain(f"    {words}"))
        for line in _touched(one):
            typer.echo(plain(f"  {line}"))


def _touched(change: DocumentChange) -> Iterator[str]:
    """What of ours comes from answers under the old text: it is judged by that text still, the next capture by the new."""
    counts = ", ".join(f"{count:,} of {channel}" for channel, count in change.pairs.items())
    yield f"kept pairs captured under the old one: {counts or 'none'}"
    for what, made in (("data set", change.datasets), ("model", change.models)):
        for name, purpose in made.items():
            lost = ", which could not be made so again" if purpose in change.lost else ""
            yield f"{what} {name} for {purpose}{lost}"


def _fate(old: str, new: str) -> str:
    if not old:
        return f"new, {new}"
    return f"changed, {old} → {new}" if new else f"gone, {old}"


def _print(shown: object) -> None:
    typer.echo("")
    console().print(shown)


def _day(at_ns: int) -> str:
    from upeti.control.rights_view import shown_time

    return shown_time(at_ns)
