"""Write docs/configuration.md from the types in core/config.py, or check that it is what they say (--check)."""

from __future__ import annotations

import argparse
import datetime
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec

from upeti.core import config

REFERENCE = Path(__file__).parents[1] / "docs" / "configuration.md"
HEAD = """\
# Configuration

`upeti.toml`, by default in the directory where `upeti` is run; `--config` or `UPETI_CONFIG` names another. `upeti init`
writes a commented one to begin with, `upeti check` finds what is wrong in one, with line and cure. Relative paths are
relative to the file. Names are letters, digits and `_ . : / -`.

A running `upeti serve` takes a change within a second, or at once on SIGHUP, and drops no call for it. A file with a
mistake is refused and logged, and what was in force stays in force. Only `data_dir`, `[control]`, `[journal]`, `[state]`,
`[node]`, the gateway's `host`, `port`, `workers` and TLS files, and new `embedded` channels need a restart.

<!-- Generated from src/upeti/core/config.py by tools/configuration_reference.py: change it there. -->
"""
# In the order in which one reads them; the path is how a table is written.
SECTIONS: list[tuple[str, type[msgspec.Struct]]] = [
    ("", config.Config),
    ("[gateway]", config.Gateway),
    ("[control]", config.Control),
    ("[journal]", config.Journal),
    ("[state]", config.State),
    ("[node]", config.Node),
    ("[money]", config.Money),
    ("[[channel]]", config.Channel),
    ("[rights]", config.Rights),
    ("[[contract]]", config.Contract),
    ("[[route]]", config.Route),
    ("[[route.candidate]]", config.Candidate),
    ("[[key]]", config.Key),
    ("[[budget]]", config.Budget),
    ("[[rate_limit]]", config.RateLimit),
    ("[[data_policy]]", config.DataPolicy),
    ("[alerts]", config.Alerts),
    ("[capture]", config.Capture),
    ("[[capture.rule]]", config.RedactionRule),
    ("[conduct]", config.Conduct),
    ("[feed]", config.Feed),
    ("[feed.enrichment]", config.FeedEnrichment),
    ("[learning]", config.Learning),
    ("[drill]", config.Drill),
]


def reference() -> str:
    """Return the page."""
    return HEAD + "".join(_section(table, kind) for table, kind in SECTIONS)


def _section(table: str, kind: type[msgspec.Struct]) -> str:
    title = f"\n## `{table}`\n\n" if table else "\n## At the top\n\n"
    summary = (kind.__doc__ or "").partition(": ")[2]
    lines = [title]
    if table and summary:
        lines.append(f"{summary[:1].upper()}{summary[1:]}\n\n")
    lines.append("| setting | value | default | what it does |\n|---|---|---|---|\n")
    lines += _rows(kind)
    return "".join(lines)


def _rows(kind: type[msgspec.Struct]) -> Iterator[str]:
    for field in msgspec.structs.fields(kind):
        if _is_table(field.type):
            continue
        default = "*required*" if field.required else _shown(_default_of(field))
        yield f"| `{field.encode_name}` | {_values(field.type)} | {default} | {_description(field.type)} |\n"


def _default_of(field: msgspec.structs.FieldInfo) -> Any:
    return field.default if field.default is not msgspec.NODEFAULT else field.default_factory()


def _shown(value: Any) -> str:
    match value:
        case None | "" | () | {}:
            return ""
        case bool():
            return f"`{str(value).lower()}`"
        case int():
            return f"`{value:_}`" if value >= 10_000 else f"`{value}`"
        case float():
            return f"`{value}`"
        case tuple():
            return f"`{list(value)}`"
        case _:
            return f'`"{value}"`'


def _bare(kind: Any) -> Any:
    while True:
        if get_origin(kind) is Annotated:
            kind = get_args(kind)[0]
        elif get_origin(kind) in (Union, types.UnionType):
            kind = next(member for member in get_args(kind) if member is not type(None))
        else:
            return kind


def _is_table(kind: Any) -> bool:
    bare = _bare(kind)
    inner = get_args(bare)[0] if get_origin(bare) is tuple else bare
    return isinstance(inner, type) and issubclass(inner, msgspec.Struct)


def _notes(kind: Any) -> list[msgspec.Meta]:
    """Return everything noted beside a type, what is said last first."""
    if get_origin(kind) is Annotated:
        own = [note for note in reversed(kind.__metadata__) if isinstance(note, msgspec.Meta)]
        return own + _notes(get_args(kind)[0])
    if get_origin(kind) in (Union, types.UnionType):
        return [note for member in get_args(kind) for note in _notes(member)]
    return []


def _description(kind: Any) -> str:
    text = next((note.description for note in _notes(kind) if note.description), "")
    if not text:
        raise SystemExit(f"{kind} has no description: write one in core/config.py")
    return text.replace("|", "\\|")


def _values(kind: Any) -> str:
    bare = _bare(kind)
    if get_origin(bare) is Literal:
        return ", ".join(f'`"{choice}"`' for choice in get_args(bare))
    if get_origin(bare) is tuple:
        return "list of numbers" if _bare(get_args(bare)[0]) is int else "list of texts"
    if get_origin(bare) is dict:
        return "table of texts"
    if bare in (int, float):
        low = next((note.ge for note in _notes(kind) if note.ge is not None), None)
        high = next((note.le for note in _notes(kind) if note.le is not None), None)
        if low is not None and high is not None:
            return f"{low:,} – {high:,}"
        return "number" if low is None else f"number ≥ {low:,}"
    return {str: "text", bool: "`true`, `false`", datetime.date: "date"}[bare]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only say whether the page is up to date")
    if not parser.parse_args().check:
        REFERENCE.write_text(reference(), encoding="utf-8")
    elif not REFERENCE.exists() or REFERENCE.read_text(encoding="utf-8") != reference():
        print(f"{REFERENCE.name} is not what core/config.py says: run `make docs`", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
