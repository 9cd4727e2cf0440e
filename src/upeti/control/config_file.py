"""Reading ``upeti.toml``: text → ``Config``, or every problem at once, each with its line and its cure.

Three steps, each only when the one before found nothing: the text is TOML; each value has the shape that
``core/config`` describes; the names fit together (``config_rules``). Relative paths are relative to the file
and come out absolute, so that a worker's working directory does not matter. Values are never echoed: one of
them may be a secret that was pasted where its place belongs.
"""

from __future__ import annotations

import re
import tomllib
import types
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

import msgspec

from upeti.control import config_rules
from upeti.control.config_rules import Problem
from upeti.control.toml_lines import lines_of
from upeti.core.config import Channel, Config, Contract, Key
from upeti.core.errors import ConfigError

_NAMES = "use 1 to 128 letters, digits and _ . : / -"

# Cures for the slips that people make most; any other is answered with the field's description.
_CURES: Final = {
    "api_key": "write where it is found: `env:NAME`, `file:PATH` or `stored:NAME`, never the key itself",
    "password": "write where it is found: `env:NAME` or `file:PATH`, never the password itself",
    "secret": "write where it is found: `env:NAME`, `file:PATH` or `stored:NAME`, never the key itself",
    "limit": 'write the amount as a string: limit = "10.50"',
    "name": _NAMES,
    "id": _NAMES,
    "tenant": _NAMES,
    "channel": _NAMES,
    "sha256": "write 64 lower-case hex digits: `printf %s KEY | sha256sum`",
}
_TOML_PLACE = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")
_SHAPE_PATH = re.compile(r" - at `\$(.*)`$")


class Document(msgspec.Struct, frozen=True):
    """A configuration file that was read: what it says and where it says it."""

    path: Path
    text: str
    config: Config  # paths are absolute
    lines: dict[str, int]

    def error(self, problems: list[Problem]) -> ConfigError:
        """Return one error that lists ``problems`` in the order of the file."""
        return ConfigError(render(self.path, self.lines, problems))


def read(path: Path) -> Document:
    """Read and check the file at ``path``. Raises ``ConfigError`` that lists every problem."""
    try:
        text = path.read_bytes().decode()
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file; `upeti init` makes one") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); give a readable UTF-8 file") from None
    return parse(text, path)


def load(path: Path) -> Config:
    """Return the configuration at ``path`` with absolute paths. Raises ``ConfigError``."""
    return read(path).config


def parse(text: str, path: Path) -> Document:
    """Check ``text`` as if it stood at ``path``. Raises ``ConfigError`` that lists every problem."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(_toml_error(path, text, str(error))) from None
    lines = lines_of(text)
    problems = list(_shape_problems(Config, raw, ""))
    if problems:
        raise ConfigError(render(path, lines, problems))
    config = _with_absolute_paths(msgspec.convert(raw, Config), path.absolute().parent)
    document = Document(path, text, config, lines)
    problems = config_rules.problems_of(config)
    if problems:
        raise document.error(problems)
    return document


def render(path: Path, lines: dict[str, int], problems: list[Problem]) -> str:
    """Return ``file:line: what; cure`` for each problem, in the order of the file."""
    placed = sorted(((_line(lines, problem.path), problem) for problem in problems), key=lambda pair: pair[0])
    return "\n".join(f"{path}:{line}: {problem.what}; {problem.cure}" for line, problem in placed)


def _line(lines: dict[str, int], path: str) -> int:
    """Return the line of ``path``, or of what it would stand in."""
    while path:
        if path in lines:
            return lines[path]
        path = re.sub(r"(\.[^.\[\]]*|\[\d*\]|^[^.\[\]]*)$", "", path)
    return 1


def _toml_error(path: Path, text: str, message: str) -> str:
    place = _TOML_PLACE.search(message)
    line = place.group(1) if place is not None else None
    what = _TOML_PLACE.sub("", message)
    number = int(line) if line else text.count("\n") + 1
    return f"{path}:{number}: this is not TOML: {what}; strings need quotes, tables look like [[route]]"


def _shape_problems(kind: Any, raw: object, path: str) -> Iterator[Problem]:
    """Yield what does not fit ``kind``; msgspec alone would stop at the first."""
    bare = _bare(kind)
    if isinstance(bare, type) and issubclass(bare, msgspec.Struct):
        if isinstance(raw, dict):
            yield from _struct_problems(bare, raw, path)
        else:
            yield Problem(path, f"{path} is no table", f"write it as [{path}] with one line per field")
        return
    element = get_args(bare)[0] if get_origin(bare) is tuple else None
    if isinstance(element, type) and issubclass(element, msgspec.Struct):
        if isinstance(raw, list) and raw:
            for index, item in enumerate(raw):
                yield from _shape_problems(element, item, f"{path}[{index}]")
        else:
            table = re.sub(r"\[\d+\]", "", path)
            yield Problem(path, f"{path} is no list of tables", f"begin each one with [[{table}]]")
        return
    try:
        msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        yield _leaf_problem(kind, bare, raw, path, str(error))


def _struct_problems(kind: type[msgspec.Struct], raw: dict[str, Any], path: str) -> Iterator[Problem]:
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    for name, value in raw.items():
        here = f"{path}.{name}" if path else name
        if name in fields:
            yield from _shape_problems(fields[name].type, value, here)
            continue
        near = get_close_matches(name, fields, n=1)
        cure = f"did you mean `{near[0]}`?" if near else f"there are: {', '.join(fields)}"
        yield Problem(here, f"unknown field `{here}`", cure)
    for name, field in fields.items():
        if field.required and name not in raw:
            cure = f"add `{name} = …`" if name != "candidate" else "add a [[route.candidate]]"
            yield Problem(path, f"{path} has no `{name}`", f"{cure} ({_description(field.type)})")


def _leaf_problem(kind: Any, bare: Any, raw: object, path: str, message: str) -> Problem:
    within = _SHAPE_PATH.search(message)
    if within is not None:
        message = message[: within.start()]
        inner = within.group(1)
        path += inner if re.fullmatch(r"\[\d+\]", inner) else ""
    if get_origin(bare) is Literal:
        choices = [str(choice) for choice in get_args(bare)]
        near = get_close_matches(raw, choices, n=1) if isinstance(raw, str) else []
        hint = f", perhaps `{near[0]}`" if near else ""
        return Problem(path, f"{path}: not one of its values", f"choose from {', '.join(choices)}{hint}")
    name = re.sub(r"\[\d+\]$", "", path).rpartition(".")[2]
    cure = _CURES.get(name) or _description(kind)
    what = message[:1].lower() + message[1:].replace("`", "")
    if "matching regex" in what:
        what = "this text does not have the right form"
    return Problem(path, f"{path}: {what}", cure)


def _bare(kind: Any) -> Any:
    """Return a field's type without its notes and without "or none"."""
    while True:
        if get_origin(kind) is Annotated:
            kind = get_args(kind)[0]
        elif get_origin(kind) in (Union, types.UnionType):
            kind = next(member for member in get_args(kind) if member is not type(None))
        else:
            return kind


def _description(kind: Any) -> str:
    if get_origin(kind) is Annotated:
        for note in reversed(kind.__metadata__):
            if isinstance(note, msgspec.Meta) and note.description:
                return note.description.split(". ")[0].rstrip(".")
    if get_origin(kind) in (Union, types.UnionType):
        return next(filter(None, map(_description, get_args(kind))), "")
    return "see docs/configuration.md"


def _with_absolute_paths(config: Config, base: Path) -> Config:
    def absolute(value: str) -> str:
        return str((base / Path(value).expanduser()).resolve()) if value else value

    def place(secret: str | None) -> str | None:
        return f"file:{absolute(secret[5:])}" if secret and secret.startswith("file:") else secret

    def channel(item: Channel) -> Channel:
        files = {"ca_file": absolute(item.ca_file), "model_file": absolute(item.model_file)}
        return msgspec.structs.replace(item, **files, api_key=place(item.api_key))

    def key(item: Key) -> Key:
        return msgspec.structs.replace(item, secret=place(item.secret))

    def contract(item: Contract) -> Contract:
        return msgspec.structs.replace(item, order_form=absolute(item.order_form))

    replace = msgspec.structs.replace
    return replace(
        config,
        data_dir=absolute(config.data_dir),
        gateway=replace(
            config.gateway,
            tls_certificate=absolute(config.gateway.tls_certificate),
            tls_key=absolute(config.gateway.tls_key),
        ),
        money=replace(
            config.money,
            price_files=tuple(map(absolute, config.money.price_files)),
            rates_file=absolute(config.money.rates_file),
            tenants_file=absolute(config.money.tenants_file),
        ),
        state=replace(config.state, password=place(config.state.password)),
        telemetry=replace(
            config.telemetry,
            headers={name: place(value) or "" for name, value in config.telemetry.headers.items()},
        ),
        channel=tuple(map(channel, config.channel)),
        conduct=replace(config.conduct, thresholds_file=absolute(config.conduct.thresholds_file)),
        rights=replace(config.rights, terms_files=tuple(map(absolute, config.rights.terms_files))),
        contract=tuple(map(contract, config.contract)),
        key=tuple(map(key, config.key)),
        feed=replace(config.feed, enrichment=replace(config.feed.enrichment, key=place(config.feed.enrichment.key))),
    )
