"""`upeti`: the commands by name.

Only the command that is called is imported: `upeti --help` and a typing mistake cost no database, no report
library. An error of ours is one message on stderr, with its cure, and exit status 2.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Any, Final, NamedTuple

import typer

from upeti import __version__
from upeti.core.errors import UpetiError

EXIT_ERROR: Final = 2


class Command(NamedTuple):
    """Where a command is, and the line that the list of commands shows of it."""

    module: str
    attribute: str
    summary: str


COMMANDS: Final = {
    "init": Command("upeti.cli.init", "init", "Write a commented configuration file."),
    "check": Command("upeti.cli.check", "check", "Check the configuration; say what is wrong, with line and cure."),
    "serve": Command("upeti.cli.serve", "serve", "Start Upeti: workers, keeper and embedded providers."),
    "nodes": Command("upeti.cli.nodes", "nodes_app", "Show the gateway nodes that share a state; forget a lost one."),
    "keys": Command("upeti.cli.keys", "keys_app", "Make, list and revoke client keys."),
    "budget": Command(
        "upeti.cli.budget", "budget_app", "Set, show and release budgets: limits on what calls may cost."
    ),
    "secrets": Command("upeti.cli.secrets", "secrets_app", "Store provider secrets, encrypted."),
    "channels": Command(
        "upeti.cli.channels", "channels_app", "Show which channels are usable or latched; latch, open and probe them."
    ),
    "incidents": Command(
        "upeti.cli.incidents", "incidents_app", "What providers cut off, when, why, and since when it works again."
    ),
    "bill": Command(
        "upeti.cli.bill",
        "bill",
        "Print the bill: calls, tokens and exact costs, with what is estimated and what has no price.",
    ),
    "calls": Command(
        "upeti.cli.calls",
        "calls",
        "List attempts, newest first: who called, what answered, how it ended, what it cost.",
    ),
    "chargeback": Command(
        "upeti.cli.chargeback",
        "chargeback",
        "Print what was used and what it cost, by whom and for what, from the books of all nodes.",
    ),
    "ledger": Command(
        "upeti.cli.ledger", "ledger_app", "Double entry over the journal: balances, postings, proof, closing of months."
    ),
    "focus": Command("upeti.cli.focus", "focus_app", "Export what was spent as FOCUS 1.4, or check such a file."),
    "concentration": Command(
        "upeti.cli.concentration",
        "concentration",
        "Print how much hangs on one supplier or customer, and what is left when it leaves.",
    ),
    "savings": Command(
        "upeti.cli.savings",
        "savings",
        "Print what caching, service tiers, rented capacity and failed attempts saved or cost, each with its computation.",
    ),
    "simulate": Command("upeti.cli.simulate", "simulate_app", "Make data to try things out with."),
    "reconcile": Command(
        "upeti.cli.reconcile",
        "reconcile",
        "Compare a provider's report with the books; name every difference.",
    ),
    "prices": Command("upeti.cli.prices", "prices_app", "Look into the price book, compare it, explain a call's cost."),
    "tenant": Command("upeti.cli.tenant", "tenant_app", "Tenants and their terms; prepaid credit."),
    "invoice": Command(
        "upeti.cli.invoice",
        "invoice_app",
        "What tenants owe: draft, issue, correct, credit, pay, export invoices.",
    ),
    "rights": Command(
        "upeti.cli.rights",
        "rights_app",
        "What may be done with a channel's answers, on which sentence: explain, review, grant, deny.",
    ),
    "capture": Command(
        "upeti.cli.capture", "capture_app", "Kept questions and answers: consent, what is there, erasure."
    ),
    "tasks": Command(
        "upeti.cli.tasks",
        "tasks_app",
        "What is asked again and again: found, declared, and what owning it would save.",
    ),
    "dataset": Command(
        "upeti.cli.dataset", "dataset_app", "Data sets out of kept pairs: every row by permission, signed, audited."
    ),
    "models": Command("upeti.cli.models", "models_app", "Own models: what each rests on, its papers, its stage."),
    "certificate": Command(
        "upeti.cli.certificate",
        "certificate_app",
        "Certificates of own models: what is promised, and computing it again.",
    ),
    "students": Command(
        "upeti.cli.students_savings",  # all of it
        "students_app",
        "Own models that answer under a certificate: stages, audits, roll-back.",
    ),
    "learn": Command(
        "upeti.cli.learn", "learn_app", "The learning cycle of a task: data set, student, certificate, shadow."
    ),
    "lineage": Command(
        "upeti.cli.models",
        "lineage",
        "Show what hangs together: what a model rests on, and what a clause, a grant, a consent or a call touches.",
    ),
    "signing-key": Command("upeti.cli.signing", "signing_app", "The key that manifests and reports are signed with."),
    "verify-signature": Command(
        "upeti.cli.signing", "verify_signature", "Check who signed a document, and that it was not changed since."
    ),
    "conduct": Command(
        "upeti.cli.conduct",
        "conduct_app",
        "Cases of tenants that may harvest answers: evidence, warnings, suspensions, appeals.",
    ),
    "feed": Command(
        "upeti.cli.feed_demo",  # all of it: serving, importing, experiments, and the demo
        "feed_app",
        "Serve a personal feed, bring data in, train its ranker, see what enrichment is worth.",
    ),
    "drill": Command(
        "upeti.cli.drill",
        "drill_app",
        "Cut a channel off on purpose, in the shadow or for real, and read what was left.",
    ),
    "exit-plan": Command(
        "upeti.cli.exit_plan",
        "exit_plan_app",
        "The way out of each provider: alternatives, last drill, months and cost to leave.",
    ),
    "journal": Command("upeti.cli.journal", "journal_app", "Check the journal, or look into it."),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `upeti`; ends with ``SystemExit``."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    # For completion the shell asks about any of them.
    called = None if "_UPETI_COMPLETE" in os.environ else next((word for word in given if word in COMMANDS), "")
    try:
        build(called)(given, prog_name="upeti")
    except UpetiError as error:
        print(f"upeti: {error}", file=sys.stderr)
        sys.exit(EXIT_ERROR)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # `upeti calls | head`: nobody reads on. Python would complain again when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def build(called: str | None) -> typer.Typer:
    """Return the application with the command ``called`` in full, the others by name; all in full for None."""
    app = typer.Typer(
        help="A gateway between your apps and the model providers you pay: exact bills, limits that hold.",
        no_args_is_help=True,
        rich_markup_mode=None,  # Rich takes longer to load than everything else together
        pretty_exceptions_enable=False,  # a plain trace; the pretty one prints locals, which may be secrets
    )
    app.callback()(_options)
    for name, command in COMMANDS.items():
        if called not in (None, name):
            app.command(name, help=command.summary)(_elsewhere)
            continue
        found: Any = getattr(import_module(command.module), command.attribute)
        if isinstance(found, typer.Typer):
            app.add_typer(found, name=name)
        else:
            app.command(name)(found)
    return app


def _elsewhere() -> None:
    raise AssertionError("a command that was not called was run")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"upeti {__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of `upeti` itself."""


if __name__ == "__main__":
    main()
