"""Writes the parts of docs/ that are generated from the code: ``make docs``. With ``--check``: fails when one is out of date.

- docs/commands.md: every command with its options, from the command line's own definitions
- docs/errors.md: every error code that a client can meet, from the places that raise it
- docs/focus-reference.md: every column and rule of FOCUS, from the tables that the export and the checker use
- docs/invoices.md: the fields of the tenants file and the life cycle of an invoice, between their comments
- docs/conduct.md: the life of a case
- docs/feed-worth.md: the life of an experiment
- docs/drill.md: the life of a drill
- docs/own-models.md: the stages of a student, what each serves, and when a rule promotes
- docs/cut-off.md: the table of signals and the states of a latch
- docs/what-may-be-trained.md: what the shipped terms are read to say of training, in plain words, and their sentences
- docs/rights.md, docs/legal.md: purposes, what the shipped terms read, their sentences, between their comments
- docs/architecture.md: the table of endings, between its two comments
"""

from __future__ import annotations

import ast
import sys
import typing
from pathlib import Path

import msgspec
import typer.main

from upeti.cli.main import build
from upeti.control import learn_runs
from upeti.core import errors
from upeti.feed import experiment
from upeti.gateway import latch
from upeti.gateway.holds import ENDINGS, Ended, Rule
from upeti.money import tenant
from upeti.money.focus.columns import COLUMNS, FOCUS_VERSION
from upeti.money.focus.rules import FILE_RULES, ROW_RULES, VALUE_RULES
from upeti.money.receivable import LIFE_CYCLE
from upeti.outlook import drill_life
from upeti.providers.signals import MEANS, shipped
from upeti.rights import stage as stages
from upeti.rights import terms_files
from upeti.rights.conduct import case
from upeti.rights.terms import PURPOSE_MEANS, SERVE, Clause, Terms
from upeti.rights.terms_diff import reading

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"

ENDED_MEANS = {
    Ended.ANSWERED: "the provider answered",
    Ended.REFUSED: "the provider answered with an error that it does not bill",
    Ended.REFUSED_UNSURE: "… with an error that it may bill: its own time-out, Azure's content filter",
    Ended.DEFERRED: "an [own model](own-models.md) left the call to the next candidate",
    Ended.NOT_SENT: "no connection, or given up before anything was sent",
    Ended.LOST: "sent, and the connection closed without an answer",
    Ended.TIMED_OUT: "no answer, or silence within it, past the deadline",
    Ended.CUT: "the provider stopped within its answer",
    Ended.GARBAGE: "the answer cannot be read",
    Ended.CLIENT_LEFT: 'the client left and the answer was not read to its end (`client_left = "cancel"`)',
    Ended.CRASHED: "a fault of ours",
    Ended.DRILL: "a [drill](drill.md)'s fault stood in the provider's place: nothing was sent",
}
RULE_MEANS = {Rule.METERS: "`meters`", Rule.NOTHING: "posted at zero", Rule.VOID: "voided"}


def commands() -> str:
    lines = ["# Commands", "", "Generated from the code by `make docs`. `upeti COMMAND --help` says the same.", ""]
    root = typer.main.get_command(build(None))

    def add(command: object, path: str) -> None:
        children = getattr(command, "commands", None)
        if children:
            for name in children:
                if not children[name].hidden:
                    add(children[name], f"{path} {name}")
            return
        lines.extend([f"## `{path}`", "", *paragraphs(command.help), ""])  # type: ignore[attr-defined]
        rows = []
        for parameter in command.params:  # type: ignore[attr-defined]
            if getattr(parameter, "hidden", False) or parameter.name == "help":
                continue
            names = ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))
            if parameter.param_type_name == "argument":
                names = f"`{parameter.name.upper()}`"
            rows.append(f"| {names} | {(getattr(parameter, 'help', None) or '').replace('|', '/')} |")
        if rows:
            lines.extend(["| option | meaning |", "|---|---|", *rows, ""])

    add(root, "upeti")
    return "\n".join(lines).rstrip() + "\n"


def paragraphs(text: str | None) -> list[str]:
    return [" ".join(part.split()) for part in (text or "").split("\n\n") if part.strip()]


def error_codes() -> list[tuple[str, int, str]]:
    """Return (code, status, type) of every ``CallError`` raised in the gateway and the wire, found in the source."""
    classes = {name: value for name, value in vars(errors).items() if isinstance(value, type)}
    found = set()
    for folder in ("gateway", "wire"):
        for path in sorted((ROOT / "src" / "upeti" / folder).glob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
                    continue
                kind = classes.get(node.func.id)
                if kind is None or not issubclass(kind, errors.CallError) or not node.args:
                    continue
                code = node.args[0]
                status = next((word.value for word in node.keywords if word.arg == "status"), None)
                if isinstance(code, ast.Constant):
                    number = status.value if isinstance(status, ast.Constant) else kind.status
                    found.add((str(code.value), int(number), kind.kind))
    return sorted(found, key=lambda row: (row[1], row[0]))


def error_page() -> str:
    lines = [
        "# Errors of the gateway",
        "",
        "Generated from the code by `make docs`. The body has OpenAI's shape (Anthropic's on `/v1/messages`); `message`",
        "names the cure, `request_id` is the call. A provider's own error is given back as it came and is not in this list.",
        "",
        "| code | HTTP status | type |",
        "|---|---|---|",
        *(f"| `{code}` | {status} | `{kind}` |" for code, status, kind in error_codes()),
    ]
    return "\n".join(lines) + "\n"


def architecture() -> str:
    page = (DOCS / "architecture.md").read_text()
    rows = [f"| `{ended}` | {ENDED_MEANS[ended]} | {RULE_MEANS[ENDINGS[ended]]} |" for ended in Ended]
    table = "\n".join(["| ended | what happened | settled by |", "|---|---|---|", *rows])
    return between(page, "endings", table)


def focus_reference() -> str:
    lines = [
        f"# Columns and rules of FOCUS {FOCUS_VERSION}",
        "",
        "Generated from the code by `make docs`: the tables that [`upeti focus`](focus.md) exports and checks by.",
    ]
    for dataset, columns in COLUMNS.items():
        lines += [
            "",
            f"## {dataset}",
            "",
            "| column | kind | level | null | since | in Upeti's export |",
            "|---|---|---|---|---|---|",
        ]
        for one in columns:
            null = "yes" if one.nullable else "no"
            lines.append(f"| `{one.name}` | {one.kind} | {one.level} | {null} | {one.since} | {one.what} |")
    lines += ["", "## Rules", "", "| rule | what it asks | cure |", "|---|---|---|"]
    rules = {rule.id: rule for rule in (*FILE_RULES.values(), *VALUE_RULES.values())}
    rules |= {one.rule.id: one.rule for row_rules in ROW_RULES.values() for one in row_rules}
    for rule in rules.values():
        asks = rule.asks if rule.severity == "error" else f"{rule.asks} (a warning)"
        lines.append(f"| `{rule.id}` | {asks} | {rule.cure} |")
    return "\n".join(lines) + "\n"


def between(page: str, name: str, table: str) -> str:
    """Return ``page`` with ``table`` between its two comments of ``name``."""
    head, begin, rest = page.partition(f"<!-- {name}: ")
    comment, arrow, rest = rest.partition("-->\n")
    _, end, tail = rest.partition(f"<!-- /{name} -->")
    return f"{head}{begin}{comment}{arrow}{table}\n{end}{tail}"


def invoices() -> str:
    lines = []
    for name, kind in tenant.TABLES.items():
        about = (kind.__doc__ or "").split(": ", 1)[-1].splitlines()[0]
        lines += [f"### `[[{name}]]`", "", f"{about[:1].upper()}{about[1:]}", "", "| field | meaning |", "|---|---|"]
        for field in msgspec.structs.fields(kind):
            must = "**required.** " if field.required else ""
            lines.append(f"| `{field.encode_name}` | {must}{description_of(field.type)} |")
        lines.append("")
    states = ["| state | step | next state |", "|---|---|---|"]
    states += [f"| {state} | {step} | {then} |" for state, steps in LIFE_CYCLE.items() for step, then in steps.items()]
    page = between((DOCS / "invoices.md").read_text(), "tenants-file", "\n" + "\n".join(lines))
    return between(page, "life-cycle", "\n".join(states))


def conduct() -> str:
    states = ["| state | what happens | who may | next state |", "|---|---|---|---|"]
    for state, events in case.LIFE_CYCLE.items():
        for event, then in events.items():
            who = "a rule, a person" if event in case.BY_RULE else "a named person"
            who = "the clock" if event in (case.Event.LAPSE, case.Event.THROTTLE_ENDED) else who
            states.append(f"| {state} | {event} | {who} | {then} |")
    return between((DOCS / "conduct.md").read_text(), "case", "\n".join(states))


def feed_worth() -> str:
    states = ["| state | step | next state |", "|---|---|---|"]
    states += [
        f"| {state} | {step} | {then} |"
        for state, steps in experiment.TRANSITIONS.items()
        for step, then in steps.items()
    ]
    return between((DOCS / "feed-worth.md").read_text(), "experiment", "\n".join(states))


def cut_off() -> str:
    rows = ["| row | status | error | means | reaction |", "|---|---|---|---|---|"]
    for one in shipped().rows:
        said = [f"at `{host}`" for host in one.hosts] + [f"`{name}`" for name in (*one.types, *one.codes)]
        said += [f"“{one.phrase}”"] if one.phrase else []
        statuses = ", ".join(map(str, one.statuses))
        rows.append(f"| `{one.id}` | {statuses} | {', '.join(said)} | {MEANS[one.meaning]} | `{one.reaction}` |")
    states = ["| state | event | next state |", "|---|---|---|"]
    states += [
        f"| {state} | {event} | {then} |"
        for state, events in latch.TRANSITIONS.items()
        for event, then in events.items()
        if then is not state
    ]
    page = between((DOCS / "cut-off.md").read_text(), "signals", "\n".join(rows))
    return between(page, "latch", "\n".join(states))


def drill() -> str:
    states = ["| state | event | next state |", "|---|---|---|"]
    states += [
        f"| {state} | {event} | {then} |"
        for state, events in drill_life.TRANSITIONS.items()
        for event, then in events.items()
    ]
    return between((DOCS / "drill.md").read_text(), "drill", "\n".join(states))


def own_models() -> str:
    """The stages of a student."""
    serves = ["| stage | is asked | answers | of its answers are audited |", "|---|---|---|---|"]
    for stage, one in stages.SERVES.items():
        asked = f"{one.asked_ppm / 10_000:g} % of the calls"
        says = "yes" if one.answers else "no: it says only what it would have answered"
        serves.append(f"| `{stage}` | {asked} | {says} | {one.audit_share:.0%} |")
    ways = ["| stage | event | who may | next stage |", "|---|---|---|---|"]
    for stage, events in stages.TRANSITIONS.items():
        for event, then in events.items():
            who = "a named person"
            if event in stages.BY_RULE:
                who = "a rule" if event in stages.ONLY_BY_RULE else "a rule, a named person"
            if event == stages.PROMOTED and stage not in stages.STEPS:
                who = "a named person"
            ways.append(f"| `{stage}` | {event} | {who} | `{then}` |")
    steps = [
        "| out of | audits in it | hours in it | upper bound of the risk below the promise | why |",
        "|---" * 5 + "|",
    ]
    for stage, step in stages.STEPS.items():
        bound = "yes" if step.bound else "not asked"
        steps.append(f"| `{stage}` | {step.audits} | {step.hours:g} | {bound} | {step.why} |")
    page = between((DOCS / "own-models.md").read_text(), "serves", "\n".join(serves))
    ends = ["| a run ends with | which means |", "|---|---|"]
    ends += [f"| `{ended}` | {text} |" for ended, text in learn_runs.MEANS.items()]
    page = between(page, "ends", "\n".join(ends))
    return between(between(page, "stages", "\n".join(ways)), "steps", "\n".join(steps))


def description_of(kind: object) -> str:
    """Return what a field's type notes about itself."""
    notes = list(getattr(kind, "__metadata__", ())) + [
        note for part in typing.get_args(kind) for note in getattr(part, "__metadata__", ())
    ]
    return next(note.description for note in notes if isinstance(note, msgspec.Meta) and note.description)


def rights() -> str:
    """What each shipped contract is read to say, and what purposes are."""
    page = (DOCS / "rights.md").read_text()
    means = ["| purpose | what an answer is used for |", "|---|---|"]
    means += [f"| `{purpose}` | {text} |" for purpose, text in PURPOSE_MEANS.items()]
    facts = terms_files.load()
    known = Terms(facts.contracts, facts.clauses)
    parts = {part for contract in facts.contracts for part in contract.includes}
    purposes = [purpose for purpose in PURPOSE_MEANS if purpose != SERVE]
    rows = [f"| contract | {' | '.join(f'`{purpose}`' for purpose in purposes)} |", "|---" * (len(purposes) + 1) + "|"]
    for contract in facts.contracts:
        if contract.id not in parts:
            clauses = [clause for clause in facts.clauses if clause.contract in known.closure(contract.id)]
            rows.append(f"| `{contract.id}` | {' | '.join(cell_of(clauses, purpose) for purpose in purposes)} |")
    return between(between(page, "purposes", "\n".join(means)), "readings", "\n".join(rows))


def cell_of(clauses: list[Clause], purpose: str) -> str:
    spoken = any(purpose in clause.decisions for clause in clauses)
    return str(reading(clauses, purpose)) if spoken else "–"


def legal() -> str:
    """The shipped sentences, contract by contract."""
    facts = terms_files.load()
    lines = []
    for contract in facts.contracts:
        lines += ["", f"### {contract.document}, {contract.version}", ""]
        lines.append(f"`{contract.id}`, {contract.party}. {contract.remark}".rstrip() + "\n")
        lines += ["| clause | read as | words | duties, remarks |", "|---|---|---|---|"]
        for clause in facts.clauses:
            if clause.contract == contract.id:
                lines.append(clause_row(clause))
    return between((DOCS / "legal.md").read_text(), "clauses", "\n".join(lines))


def clause_row(clause: Clause) -> str:
    by_decision: dict[str, list[str]] = {}
    for purpose, decision in sorted(clause.decisions.items()):
        by_decision.setdefault(decision, []).append(purpose)
    read = "; ".join(f"**{decision}** {', '.join(purposes)}" for decision, purposes in by_decision.items())
    words = (
        f"“{clause.quote}” ([source]({clause.source.split()[0]}), {clause.source_date})"
        if clause.quote
        else "no text at hand"
    )
    notes = " ".join([*(f"`{duty}`" for duty in clause.duties), clause.remark]).strip()
    return f"| `{clause.id.rpartition('/')[2]}` | {read} | {words} | {notes} |".replace("\n", " ")


TRAINABLE = {
    "evaluate": "compare a model of yours with their answers",
    "classify_internal": "train a model that only sorts, for yourselves",
    "classify_distributed": "train a model that only sorts, and give it to others",
    "task_generative": "train a model that writes, for one task",
    "general_model": "train a model that writes, for anything",
}
TRAINED_WORDS = {"allow": "yes", "ask": "ask first", "deny": "no"}


def what_may_be_trained() -> str:
    """What the shipped terms are read to say of training, in plain words, contract by contract."""
    facts = terms_files.load()
    known = Terms(facts.contracts, facts.clauses)
    parts = {part for contract in facts.contracts for part in contract.includes}
    heads = [f"{means} (`{purpose}`)" for purpose, means in TRAINABLE.items()]
    lines = [f"| whose answers, under which terms | {' | '.join(heads)} | what comes with it |"]
    lines.append("|---" * (len(heads) + 2) + "|")
    words: list[str] = []
    for contract in sorted(facts.contracts, key=lambda one: (one.party, one.id)):
        if contract.id in parts:
            continue
        clauses = [clause for clause in facts.clauses if clause.contract in known.closure(contract.id)]
        cells = []
        for purpose in TRAINABLE:
            spoken = any(purpose in clause.decisions for clause in clauses)
            cells.append(TRAINED_WORDS[str(reading(clauses, purpose))] if spoken else "no: nothing is said")
        owed = sorted({duty for clause in clauses for duty in clause.duties if set(clause.decisions) & set(TRAINABLE)})
        duties = ", ".join(f"`{duty}`" for duty in owed) or "–"
        lines.append(f"| {contract.party}: {contract.document}, {contract.version} | {' | '.join(cells)} | {duties} |")
        words += said_of_training(f"{contract.party}: {contract.document}, {contract.version}", clauses)
    page = (DOCS / "what-may-be-trained.md").read_text()
    return between(between(page, "trained", "\n".join(lines)), "words", "\n".join(words).strip())


def said_of_training(name: str, clauses: list[Clause]) -> list[str]:
    """Return the sentences that decide it."""
    quoted = [clause for clause in clauses if clause.quote and set(clause.decisions) & set(TRAINABLE)]
    if not quoted:
        return []
    lines = ["", f"**{name}**", ""]
    for clause in quoted:
        by_decision: dict[str, list[str]] = {}
        for purpose in TRAINABLE:
            if purpose in clause.decisions:
                by_decision.setdefault(TRAINED_WORDS[str(clause.decisions[purpose])], []).append(purpose)
        read = "; ".join(f"{word}: {', '.join(purposes)}" for word, purposes in by_decision.items())
        quote = " ".join(clause.quote.split())
        lines.append(f"- “{quote}” (`{clause.id}`; {read})")
    return lines


PAGES = {
    "commands.md": commands,
    "errors.md": error_page,
    "focus-reference.md": focus_reference,
    "invoices.md": invoices,
    "rights.md": rights,
    "what-may-be-trained.md": what_may_be_trained,
    "legal.md": legal,
    "conduct.md": conduct,
    "cut-off.md": cut_off,
    "feed-worth.md": feed_worth,
    "drill.md": drill,
    "own-models.md": own_models,
    "architecture.md": architecture,
}


def main() -> int:
    stale = []
    for name, make in PAGES.items():
        path = DOCS / name
        text = make()
        if not path.exists() or path.read_text() != text:
            stale.append(name)
            if "--check" not in sys.argv:
                path.write_text(text)
    if stale and "--check" in sys.argv:
        print(f"out of date in docs/: {', '.join(stale)}; run `make docs`", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
