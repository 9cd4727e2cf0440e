"""Work that would hold up the keeper or swell it, as processes of their own: ``python -m
upeti.control.jobs``.

``project``: closed journal segments become Parquet, and batches of the ledger. What the libraries behind it took of
memory goes back to the system with the process. It runs at low priority, and only one at a time on a data directory.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
from pathlib import Path
from typing import Final

from sqlalchemy.exc import SQLAlchemyError

from upeti.control.corrections import writing_corrections
from upeti.control.database import URL_VARIABLE
from upeti.control.ledger import Ledger
from upeti.control.places import Places, TakenError
from upeti.control.store import Store
from upeti.core.errors import UpetiError
from upeti.journal.blocks import KEEPER_PREFIX
from upeti.journal.reader import instances

_NICENESS: Final = 10  # below the workers, which share the machine


def project(data_dir: Path, store: Store, keeper: str | None) -> int:
    """Project and post what is closed, the journals of dead workers and of earlier keepers included; return how many
    segments were read.

    ``keeper`` is the keeper's instance that is alive; None: one is, and its name is not known. Raises ``UpetiError``.
    """
    # Only here: these are the libraries that swell.
    from upeti.control.posting import Poster, note_posted
    from upeti.journal.events_store import project_closed_segments

    ledger = Ledger(store)
    node = Places(data_dir).node("").name
    dead = ledger.closed_instances()
    if keeper is not None:
        with writing_corrections(data_dir):  # after this nobody writes to the journals that are there
            found = {path.name for path in instances(data_dir) if path.name.startswith(KEEPER_PREFIX)}
        dead |= found - {keeper}
    read = project_closed_segments(data_dir, dead=dead, sink=Poster(store, node))
    if store.url:
        note_posted(store, data_dir, node)
    return read


def main() -> int:
    parser = argparse.ArgumentParser(prog="upeti-job", description="A job of the keeper; started by it.")
    parser.add_argument("job", choices=["project"])
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--keeper", default="", help="the keeper's instance")
    arguments = parser.parse_args()
    os.nice(_NICENESS)
    try:
        places = Places(arguments.data_dir)
        places.make()
        places.lock("projection")
        # What a segment leaves behind is freed by counting; looking for cycles in it takes a tenth of the time.
        gc.disable()
        store = Store(arguments.data_dir, url=os.environ.get(URL_VARIABLE, ""))
        try:
            project(arguments.data_dir, store, arguments.keeper)
        finally:
            store.close()
    except TakenError:
        return 0  # it is being done
    except (UpetiError, SQLAlchemyError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
