"""A student's card: what it was made of, what it is for, and what cross-validation says of it, as Markdown with three plots.

A card makes no promise; it helps to decide whether a certificate is worth asking for, and which classes want more rows.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from upeti.core.errors import ConfigError
from upeti.learning.answers import Values
from upeti.learning.train import Report, Trained

CARD_FILE: Final = "card.md"
_TARGETS: Final = (0.01, 0.02, 0.05, 0.10)
_LISTED: Final = 100  # answers in the table
_BINS: Final = 10
_OURS: Final = "#0072B2"
_OTHER: Final = "#D55E00"
_FAINT: Final = "#767676"
_STYLE: Final[dict[Any, Any]] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "upeti",
    "font.size": 10,
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def card(trained: Trained, *, name: str = "student") -> dict[str, bytes]:
    """Return the files of a student's card: ``card.md`` and its plots. Raises ``ConfigError`` without matplotlib."""
    report = trained.report
    plots = {
        "risk-coverage.svg": _plot(lambda axes: _risk_coverage(axes, report)),
        "calibration.svg": _plot(lambda axes: _calibration(axes, report)),
        "learning-curve.svg": _plot(lambda axes: _learning_curve(axes, report)),
    }
    return {CARD_FILE: _text(trained, name).encode(), **plots}


def _text(trained: Trained, name: str) -> str:
    about, report = trained.student.about, trained.report
    level = {"l1": "n-grams", "l2": "n-grams and the vector of a packaged encoder", "l3": "a fine-tuned encoder"}
    kinds = {"label": "one label", "number": "a number", "tags": "a set of tags", "fields": "fields of a JSON object"}
    kind = kinds.get(about.form.kind, f"arguments of the tool `{about.form.tool}`")
    before, after = report.curve[-2], report.curve[-1]
    lines = [
        f"# {name}",
        "",
        f"A student of level {about.level}: it sees {level[about.level]}. It answers with {kind}: "
        f"{', '.join(f'`{field}`' for field in about.form.names)}.",
        "",
        "| | |",
        "|---|---|",
        f"| trained on | {report.rows:,} rows, {len(report.answers):,} different answers |",
        f"| left out | {report.left_out:,} rows whose answer is not of the form |",
        f"| seed | {about.trained.get('seed', '')} |",
        f"| prompt template | {about.template or 'none'} |",
        f"| encoder | {about.encoder or 'none'} |",
        f"| agrees with its teacher | {report.agreement:.1%} of the rows, cross-validated |",
        "",
        "What follows is cross-validated on the rows that it was trained on. It is no promise: a certificate is, "
        "made of rows that training never saw.",
        "",
        "## How much it could answer",
        "",
        "| at most so many of all calls answered differently | could answer itself |",
        "|---:|---:|",
        *(f"| {target:.0%} | {report.coverage(target):.1%} |" for target in _TARGETS),
        "",
        "![Share answered and share answered differently](risk-coverage.svg)",
        "",
        "## Whether its confidence is a probability",
        "",
        "![Confidence and agreement](calibration.svg)",
        "",
        "## Whether more rows would help",
        "",
        f"From {before[0]:,} to {after[0]:,} rows agreement went from {before[1]:.1%} to {after[1]:.1%}. {_advice(report)}",
        "",
        "![Rows and agreement](learning-curve.svg)",
        "",
        "## Answer by answer",
        "",
        "*Found*: of the rows with this answer of the teacher, those where the student says the same. *Right*: of the rows where "
        "the student says it, those where the teacher does.",
        "",
        "| answer | rows | found | right |",
        "|---|---:|---:|---:|",
        *(
            f"| {_cell(one.values)} | {one.rows:,} | {one.recalled / one.rows:.0%} | {_share(one.recalled, one.said)} |"
            for one in report.answers[:_LISTED]
        ),
    ]
    if len(report.answers) > _LISTED:
        lines.append(f"| {len(report.answers) - _LISTED:,} more | | | |")
    return "\n".join(lines) + "\n"


def _advice(report: Report) -> str:
    (few, before), (many, after) = report.curve[-2:]
    # One row in four was held out; by so much agreement on them moves by chance.
    noise = float(np.sqrt(after * (1 - after) / (many / 3)))
    if after - before > noise:
        return f"More rows would help: the last {many - few:,} did."
    return "That is within chance: as many rows again would hardly show."


def _cell(values: Values) -> str:
    shown = " · ".join(values) or "(none)"
    for before, after in (("\\", "\\\\"), ("|", "\\|"), ("\n", " "), ("<", "&lt;"), ("`", "\\`"), ("[", "\\[")):
        shown = shown.replace(before, after)
    return shown if len(shown) <= 80 else shown[:79] + "…"


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else "never said"


# -- plots
# -------------------------------------------------------------------------------------------------------------


def _plot(draw: Callable[[Any], None]) -> bytes:
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise ConfigError("matplotlib is not installed: `pip install 'upeti[learning]'`") from None
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(6.4, 3.8), layout="constrained")
        draw(figure.subplots())
        made = io.BytesIO()
        figure.savefig(made, format="svg", metadata={"Date": None, "Creator": None})
    return made.getvalue()


def _risk_coverage(axes: Any, report: Report) -> None:
    agrees = np.array(report.agrees)
    order = np.argsort(-np.array(report.confidence), kind="stable")
    covered = np.arange(1, len(agrees) + 1) / len(agrees)
    wrong = np.cumsum(~agrees[order]) / len(agrees)
    # Could confidence tell right from wrong without fail, nothing would be wrong until all that is right is answered.
    best = np.maximum(0, covered - agrees.mean())
    axes.plot(covered, wrong, color=_OURS, linewidth=2, label="this student")
    axes.plot(covered, covered * (1 - agrees.mean()), color=_FAINT, linestyle="--", label="confidence by chance")
    axes.plot(covered, best, color=_FAINT, linestyle=":", label="confidence without fail")
    for target in _TARGETS[:3]:
        reached = report.coverage(target)
        axes.plot([reached], [target], "o", color=_OTHER, markersize=5)
        axes.annotate(
            f"{target:.0%} → {reached:.0%}", (reached, target), (-6, 4), textcoords="offset points", ha="right"
        )
    axes.set(xlim=(0, 1.02), ylim=(0, max(0.06, float(wrong[-1]) * 1.1)))
    axes.set(xlabel="share of all calls answered", ylabel="share of all calls\nanswered differently")
    _percent(axes.xaxis, axes.yaxis)
    axes.legend(frameon=False, loc="upper left")


def _calibration(axes: Any, report: Report) -> None:
    confidence, agrees = np.array(report.confidence), np.array(report.agrees)
    # As many rows in each bin: every point is as well known as the others.
    bins = [bin_ for bin_ in np.array_split(np.argsort(confidence, kind="stable"), _BINS) if len(bin_)]
    told = [float(confidence[bin_].mean()) for bin_ in bins]
    true = np.array([agrees[bin_].mean() for bin_ in bins])
    error = 1.96 * np.sqrt(np.maximum(true * (1 - true), 1e-9) / [len(bin_) for bin_ in bins])
    bounds = [true - np.maximum(0, true - error), np.minimum(1, true + error) - true]
    axes.plot([0, 1], [0, 1], color=_FAINT, linestyle="--", label="as often as it says")
    axes.errorbar(
        told,
        true,
        yerr=bounds,
        color=_OURS,
        marker="o",
        markersize=4,
        label="a tenth of the rows, with its 95 % interval",
    )
    axes.set(xlim=(0, 1.02), ylim=(0, 1.05), xlabel="confidence", ylabel="agrees with the teacher")
    _percent(axes.xaxis, axes.yaxis)
    axes.legend(frameon=False, loc="upper left")


def _learning_curve(axes: Any, report: Report) -> None:
    rows = [rows for rows, _ in report.curve]
    agreement = [share for _, share in report.curve]
    axes.plot(rows, agreement, color=_OURS, marker="o", markersize=5)
    for one, share in report.curve:
        axes.annotate(f"{share:.0%}", (one, share), (0, 7), textcoords="offset points", ha="center")
    axes.set(xlim=(0, rows[-1] * 1.06), ylim=(0, 1.08), xlabel="rows trained on", ylabel="agrees with the teacher")
    _percent(axes.yaxis)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")


def _percent(*sides: Any) -> None:
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    for side in sides:
        side.set_major_locator(MaxNLocator(steps=[1, 2, 5, 10]))  # whole percents
        side.set_major_formatter(PercentFormatter(1, decimals=0))
