"""What the commands that train share: the configuration, a progress bar, figures in words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from upeti.cli.options import CONFIG_FILE
from upeti.core.errors import ConfigError

if TYPE_CHECKING:
    from upeti.core.config import Config
    from upeti.learning.job import Made, Progress


def settings_of(config: Path | None) -> Config:
    """Return the configuration, checked. Raises ``ConfigError``."""
    from upeti.control import config_file

    return config_file.read(config or Path(CONFIG_FILE)).config


def student_channel(settings: Config, name: str = "") -> str:
    """Return the channel that students are served at. Raises ``ConfigError`` with what to write where there is none."""
    found = [one.name for one in settings.channel if one.kind == "student"]
    if name and name not in found:
        raise ConfigError(f"`{name}` is no channel of kind `student`; there are: {', '.join(found) or 'none'}")
    if not found:
        raise ConfigError(
            'students need a channel to answer at: write `[[channel]]`, `name = "own"`, `kind = "student"` into the configuration'
        )
    return name or found[0]


def named_in_route(settings: Config, channel: str, model: str) -> bool:
    """Say whether a route has the student as a candidate: otherwise nobody ever asks it."""
    return any((one.channel, one.model) == (channel, model) for route in settings.route for one in route.candidate)


def candidate_hint(settings: Config, channel: str, model: str) -> str:
    """Return what has to be in a route; "" when it is."""
    if named_in_route(settings, channel, model):
        return ""
    return f'no route names it yet: put {{ channel = "{channel}", model = "{model}" }} before the teacher in its route'


@contextmanager
def progress_bar(*, quiet: bool) -> Iterator[Progress]:
    """Show on a terminal how far a job is; anywhere else nothing."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    screen = Console(stderr=True)
    if quiet or not screen.is_terminal:
        yield lambda done, total, what: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=screen, transient=True) as shown:
        task = shown.add_task("starting", total=None)

        def told(done: int, total: int, what: str) -> None:
            shown.update(task, completed=done, total=total, description=what)

        yield told


def made_values(made: Made) -> dict[str, Any]:
    """Return what is known of a student that was made, as JSON has it."""
    import msgspec

    values: dict[str, Any] = msgspec.to_builtins(msgspec.structs.replace(made, files={}))
    del values["files"], values["type"]
    return values


def made_words(made: Made, alpha: float) -> list[str]:
    """Return the same for people."""
    (few, before), (many, after) = made.curve[-2:]
    lines = [
        f"Trained on {made.rows:,} rows with {made.answers:,} different answers; {made.calibration_rows:,} rows were left out "
        "first, to certify on.",
        f"It agrees with its teacher on {made.agreement:.1%} of the rows, and could answer {made.coverage:.1%} of the calls with "
        f"{alpha:.0%} of all calls answered differently: cross-validated, which is no promise.",
        f"From {few:,} to {many:,} rows agreement went from {before:.1%} to {after:.1%}.",
    ]
    if len(made.levels) > 1:
        each = ", ".join(f"{one.level} {one.coverage:.1%}" for one in made.levels)
        lines.insert(1, f"Levels could answer: {each}; {made.level} is taken.")
    lines += [f"Left out: {rows:,} rows: {why}." for why, rows in made.left_out.items() if rows]
    return lines
