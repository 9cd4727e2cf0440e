"""`upeti check`: is the configuration right?"""

from __future__ import annotations

import time
from pathlib import Path

import typer

from upeti.cli.options import CONFIG_FILE, ConfigOption


def check(config: ConfigOption = None) -> None:
    """Check the configuration; say what is wrong, with line and cure.

    Exit status 2 when something is wrong.
    Warnings, such as a secret that is not set in this shell, are printed and leave it at 0.
    """
    from upeti.control import config_file
    from upeti.control.compile import State, compile_snapshot
    from upeti.control.database import StoreError, is_there, url_of
    from upeti.control.rights import terms_of_files, with_state
    from upeti.money.price_book import PriceBook
    from upeti.money.tenant import Tenants

    document = config_file.read(config or Path(CONFIG_FILE))
    terms = terms_of_files(document.config)
    state = State(terms=terms, at_ns=time.time_ns())
    data_dir, url = Path(document.config.data_dir), url_of(document.config.state)
    try:
        if is_there(data_dir, url):
            from upeti.control.store import Store

            store = Store(data_dir, url=url)
            state = State(
                store.all_keys(), store.sealed_secrets(), terms=with_state(store, terms), at_ns=time.time_ns()
            )
    except StoreError as error:
        typer.echo(f"warning: {error}; keys and secrets that are in it were not looked at", err=True)
    book = PriceBook.load(document.config.money.price_files)
    if document.config.money.tenants_file:
        Tenants.load(document.config.money.tenants_file)
    compiled = compile_snapshot(document, state, book)
    for warning in compiled.warnings:
        typer.echo(f"warning: {warning}", err=True)
    snapshot = compiled.snapshot
    counts = (
        _count(len(snapshot.channels), "channel"),
        _count(len(snapshot.routes), "route"),
        _count(len(snapshot.keys), "key"),
    )
    typer.echo(f"OK: {document.path}: {', '.join(counts)}")


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
