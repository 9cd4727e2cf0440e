"""What goes with a model when it leaves: weights, papers, notices, and the signed statements of its data sets."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from upeti.control.datasets import datasets_of_names, file_sha256
from upeti.control.models import Model
from upeti.control.signing import sign
from upeti.control.store import Store
from upeti.core.errors import ConfigError
from upeti.rights.manifest import STATEMENT_FILE

BOM_TYPE = "application/vnd.cyclonedx+json"


def export(store: Store, one: Model, papers: Mapping[str, bytes], out: Path, file: Path | None) -> list[Path]:
    """Write a model and its papers into the new directory ``out``; return the files. Raises ``ConfigError``."""
    if out.exists():
        raise ConfigError(f"{out} is there already: choose another --out")
    if file is not None and file_sha256(file) != one.file_sha256:
        raise ConfigError(f"{file} is not the file that was registered as {one.id}: its SHA-256 is another")
    out.mkdir(parents=True)
    written = []
    for name, data in papers.items():
        (out / name).write_bytes(data)
        written.append(out / name)
    sealed = out / "bom.dsse.json"
    sealed.write_bytes(sign(store.data_dir, BOM_TYPE, papers["bom.cdx.json"]))
    written.append(sealed)
    if one.notices:
        notice = out / "NOTICE"
        notice.write_text("\n".join(one.notices) + "\n")
        written.append(notice)
    if file is not None:
        written.append(Path(shutil.copy(file, out / file.name)))
    for made in datasets_of_names(store, one.datasets):
        statement = Path(made.directory) / STATEMENT_FILE
        if statement.exists():
            written.append(Path(shutil.copy(statement, out / f"{made.id}.{STATEMENT_FILE}")))
    return written
