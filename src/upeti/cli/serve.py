"""`upeti serve`: the production start."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from upeti.cli.options import CONFIG_FILE, ConfigOption


def serve(
    config: ConfigOption = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, max=256, help="Worker processes, in place of `[gateway] workers`.", show_default=False),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            min=0, max=65535, help="Port, in place of `[gateway] port`; 0 takes a free one.", show_default=False
        ),
    ] = None,
) -> None:
    """Start Upeti: workers, keeper and embedded providers.

    Runs in the foreground until Ctrl-C or SIGTERM, then finishes the calls in flight; a second one does not
    wait. A changed configuration is picked up by itself, or at once on SIGHUP.
    """
    import asyncio

    from upeti.control import supervisor

    asyncio.run(supervisor.serve(config or Path(CONFIG_FILE), workers=workers, port=port))
