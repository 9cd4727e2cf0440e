"""The report of a live drill, made by the keeper in a process of its own: ``python -m upeti.control.drill_job``."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Final

from sqlalchemy.exc import SQLAlchemyError

from upeti.control import config_file, drill_reports, drills
from upeti.control.config_file import Document
from upeti.control.database import URL_VARIABLE
from upeti.control.places import Places
from upeti.control.store import Store
from upeti.core.errors import ConfigError, UpetiError

_NICENESS: Final = 10  # below the workers, which share the machine


def document_of(config: Path, data_dir: Path) -> Document:
    """Return the configuration, or the last good one while somebody is editing it. Raises ``ConfigError``."""
    try:
        return config_file.read(config)
    except ConfigError:
        good = Places(data_dir).good_config
        if not good.exists():
            raise
        return config_file.parse(good.read_text(), config)


def main() -> int:
    parser = argparse.ArgumentParser(prog="upeti-drill-job", description="A job of the keeper; started by it.")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--drill", required=True)
    arguments = parser.parse_args()
    os.nice(_NICENESS)
    try:
        store = Store(arguments.data_dir, url=os.environ.get(URL_VARIABLE, ""))
        try:
            document = document_of(arguments.config, arguments.data_dir)
            drill_reports.live(store, document, drills.drill_of(store, arguments.drill))
        finally:
            store.close()
    except (UpetiError, SQLAlchemyError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
