"""Work that would hold up the keeper or swell it, as processes of their own: ``python -m
upeti.control.jobs``.

``project``: closed journal segments become Parquet. What the libraries behind it took of memory goes back
to the system with the process. It runs at low priority, and only one at a time on a data directory.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Final

from upeti.control.database import URL_VARIABLE
from upeti.control.ledger import Ledger
from upeti.control.places import Places, TakenError
from upeti.control.store import Store
from upeti.core.errors import UpetiError
from upeti.journal.blocks import KEEPER_PREFIX
from upeti.journal.reader import instances

_NICENESS: Final = 10  # below the workers, which share the machine


def project(data_dir: Path, keeper: str) -> int:
    """Project what is closed, the journals of dead workers and of earlier keepers included; return how many
    segments.

    ``keeper`` is the keeper's instance that is alive. Raises ``UpetiError``.
    """
    # Only here: these are the libraries that swell.
    from upeti.journal.events_store import project_closed_segments

    store = Store(data_dir, url=os.environ.get(URL_VARIABLE, ""))
    try:
        dead = Ledger(store).closed_instances()
    finally:
        store.close()
    earlier = {path.name for path in instances(data_dir) if path.name.startswith(KEEPER_PREFIX)} - {keeper}
    return project_closed_segments(data_dir, dead=dead | earlier)


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
        project(arguments.data_dir, arguments.keeper)
    except TakenError:
        return 0  # it is being done
    except UpetiError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
