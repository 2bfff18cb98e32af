"""The report's plots as inline SVG, the same bytes for the same figures."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

INK, MUTED, GRID = "#1f2933", "#52606d", "#e4e7eb"
BETTER, WORSE, UNDECIDED = "#0b7285", "#c92a2a", "#697077"
"""Blue-green and red differ in lightness too, so the verdicts survive a grey print."""
MARKERS = {"baseline": "o", "champion": "s"}
STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": "#9aa5b1",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "svg.hashsalt": "perennial",  # otherwise element ids are random
}


@dataclass(frozen=True)
class Change:
    """One line of the forest plot: a difference with its interval and whether it is for the better."""

    label: str
    against: str
    value: float
    low: float
    high: float
    colour: str


def verdict_colour(low: float, high: float, better: str) -> str:
    """The colour of a difference: undecided where the interval holds zero."""
    if low <= 0 <= high:
        return UNDECIDED
    return BETTER if (high < 0) == (better == "lower") else WORSE


def forest(groups: Sequence[tuple[str, Sequence[Change]]]) -> str:
    """Differences with intervals, one panel a unit.

    Args:
        groups: (axis label, changes in percent or points) per panel; empty groups are left out.
    """
    groups = [(label, changes) for label, changes in groups if changes]
    heights = [0.55 + 0.36 * len(changes) for _, changes in groups]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.6, sum(heights) + 0.5 * len(groups)), layout="constrained")
        axes = figure.subplots(len(groups), 1, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
        for axis, (label, changes) in zip(axes, groups, strict=True):
            _forest_panel(axis, label, changes)
        return _svg(figure)


def _forest_panel(axis: Any, label: str, changes: Sequence[Change]) -> None:
    rows = list(range(len(changes)))[::-1]
    axis.axvline(0, color=MUTED, linewidth=1)
    for row, change in zip(rows, changes, strict=True):
        axis.plot([change.low, change.high], [row, row], color=change.colour, linewidth=2.5, alpha=0.8)
        axis.plot(
            change.value,
            row,
            MARKERS[change.against],
            color=change.colour,
            markersize=7,
            markeredgecolor="white",
            markeredgewidth=1,
        )
        text = f"{signed(change.value)} [{signed(change.low)}, {signed(change.high)}]"
        axis.annotate(
            text,
            (1.01, row),
            xycoords=("axes fraction", "data"),
            va="center",
            color=change.colour,
            fontsize=8.5,
        )
    axis.set_yticks(rows, [f"{change.label}  vs {change.against}" for change in changes])
    axis.set_ylim(-0.6, len(changes) - 0.4)
    reach = max(max(abs(change.low), abs(change.high), abs(change.value)) for change in changes) or 1.0
    axis.set_xlim(-1.12 * reach, 1.12 * reach)
    axis.set_xlabel(label)
    axis.tick_params(axis="y", length=0, labelcolor=INK)
    axis.grid(axis="x", color=GRID, linewidth=0.8)
    axis.set_axisbelow(True)
    axis.spines["left"].set_visible(False)


def loss_curves(logs: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """One small panel per training step: loss over tokens, each point and a running mean.

    Args:
        logs: Step name -> (tokens, loss) points.
    """
    columns = min(len(logs), 4)
    rows = math.ceil(len(logs) / columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.6, 2.3 * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False)
        for axis in axes.flat[len(logs) :]:
            axis.set_visible(False)
        for axis, (name, points) in zip(axes.flat, logs.items(), strict=False):
            tokens, losses = [point[0] for point in points], [point[1] for point in points]
            axis.plot(tokens, losses, color=BETTER, linewidth=0.8, alpha=0.35)
            axis.plot(tokens, running_mean(losses), color=BETTER, linewidth=1.8)
            axis.set_title(name, fontsize=10, loc="left", color=INK, fontweight="bold")
            axis.set_xlabel("tokens")
            axis.xaxis.set_major_formatter(lambda value, _: thousands(value))
            axis.xaxis.set_major_locator(mpl.ticker.MaxNLocator(4))
            axis.grid(color=GRID, linewidth=0.8)
        for axis in axes[:, 0]:
            axis.set_ylabel("training loss (nats)")
        return _svg(figure)


def running_mean(values: Sequence[float]) -> list[float]:
    """Mean of the last tenth of the points up to each point (five at least)."""
    width = max(5, len(values) // 10)
    parts = [values[max(0, index + 1 - width) : index + 1] for index in range(len(values))]
    return [sum(part) / len(part) for part in parts]


def thousands(value: float) -> str:
    """A count in the reader's size: 950, 12k, 3.4M."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def signed(value: float) -> str:
    """A difference to one decimal with its sign, a real minus; zero has none."""
    return f"{value:+.1f}".replace("-", "\u2212") if round(value, 1) else "0.0"


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
