"""Where the data sets are that are too large to be kept in the repository."""

from __future__ import annotations

import os
from pathlib import Path

_BESIDE = Path(__file__).parents[3] / "shared" / "data"


def shared_data(name: str) -> Path:
    """Return the folder of a data set. Fails when it is not there: a test that needs it is never left out in silence."""
    root = Path(os.environ.get("UPETI_SHARED", _BESIDE))
    folder = root / name
    assert folder.is_dir(), f"{folder} is not there: put it there, or name the folder of all data sets in UPETI_SHARED"
    return folder
