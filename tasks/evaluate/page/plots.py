"""The report's drawings as inline SVG: the same bytes for the same figures, colours from the page's style.

Text stands beside the drawings, in HTML, so that it keeps its size on a small screen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from tasks.evaluate.page.words import Change, number, thousands

WIDTH, HEIGHT, PAD = 320, 24, 10
CURVE_WIDTH, CURVE_HEIGHT = 260, 150
LEFT, RIGHT, TOP, BOTTOM = 38, 8, 8, 22
MOST_POINTS = 200
"""Points of a curve; more would not be seen."""


def reach(changes: Sequence[Change]) -> float:
    """How far from zero a scale must go to hold these changes and what they could have shown."""
    ends = [abs(end) for change in changes for end in (change.low, change.high, change.value)]
    return max(ends, default=0.0) or 1.0


def interval(change: Change, furthest: float) -> str:
    """One change on a line from worse (left) to better (right); the band is what could not be told from 0."""
    sign = -1 if change.better == "lower" else 1

    def at(value: float) -> float:
        return WIDTH / 2 + sign * value / furthest * (WIDTH / 2 - PAD)

    left, right = sorted((at(change.low), at(change.high)))
    middle = HEIGHT / 2
    band = ""
    if change.detectable is not None:
        half = min(change.detectable / furthest * (WIDTH / 2 - PAD), WIDTH / 2)
        band = (
            f'<rect class="band" x="{WIDTH / 2 - half:.1f}" y="0" width="{2 * half:.1f}" height="{HEIGHT}"/>'
        )
    return (
        f'<svg class="interval {change.verdict}" viewBox="0 0 {WIDTH} {HEIGHT}" aria-hidden="true">{band}'
        f'<path class="zero" d="M{WIDTH / 2} 0V{HEIGHT}"/>'
        f'<path class="span" d="M{left:.1f} {middle}H{right:.1f}"/>'
        f"{_marker(at(change.value), middle, change)}</svg>"
    )


def _marker(x: float, y: float, change: Change) -> str:
    """A triangle upwards for better, downwards for worse, a hollow circle for undecided."""
    if change.verdict == "undecided":
        return f'<circle class="open" cx="{x:.1f}" cy="{y:.1f}" r="5"/>'
    tip = -6 if change.verdict == "better" else 6
    return f'<path class="mark" d="M{x:.1f} {y + tip:.1f}l6 {-1.8 * tip:.1f}h-12z"/>'


def curve(name: str, points: Sequence[tuple[float, float]]) -> str:
    """Loss over tokens: each point, and a running mean.

    Args:
        name: Of the step, for those who cannot see the drawing.
        points: (tokens, loss), finite.
    """
    tokens, losses = [point[0] for point in points], [point[1] for point in points]
    low, high = min(losses), max(losses)
    span = (high - low) or 1.0
    most = max(tokens) or 1.0

    def place(token: float, loss: float) -> str:
        x = LEFT + token / most * (CURVE_WIDTH - LEFT - RIGHT)
        y = TOP + (high - loss) / span * (CURVE_HEIGHT - TOP - BOTTOM)
        return f"{x:.1f} {y:.1f}"

    drawn = curve_points(points)
    lines = []
    for kind, values in (("thin", drawn["loss"]), ("mean", drawn["mean"])):
        path = "L".join(place(*each) for each in zip(drawn["tokens"], values, strict=True))
        lines.append(f'<path class="{kind}" d="M{path}"/>')
    floor = CURVE_HEIGHT - BOTTOM
    axes = "".join(
        f'<path class="grid" d="M{LEFT} {y:.1f}H{CURVE_WIDTH - RIGHT}"/>'
        f'<text x="{LEFT - 5}" y="{y + 3.5:.1f}" text-anchor="end">{number(round(value, 2))}</text>'
        for value, y in ((high, TOP), ((high + low) / 2, (TOP + floor) / 2), (low, floor))
    )
    axes += "".join(
        f'<text x="{LEFT + share * (CURVE_WIDTH - LEFT - RIGHT):.1f}" y="{CURVE_HEIGHT - 6}" '
        f'text-anchor="{anchor}">{thousands(share * most)}</text>'
        for share, anchor in ((0, "start"), (0.5, "middle"), (1, "end"))
    )
    told = f"loss of {name} over tokens, from {number(losses[0])} to {number(running_mean(losses)[-1])}"
    return (
        f'<svg class="curve" viewBox="0 0 {CURVE_WIDTH} {CURVE_HEIGHT}" role="img" aria-label="{told}">'
        f"{axes}{''.join(lines)}</svg>"
    )


def curve_points(points: Sequence[tuple[float, float]]) -> dict[str, list[float]]:
    """The points that a curve shows, `tokens`, `loss` and its running `mean`: MOST_POINTS or one more."""
    every = max(1, math.ceil(len(points) / MOST_POINTS))
    chosen = list(dict.fromkeys([*range(0, len(points), every), len(points) - 1]))
    mean = running_mean([loss for _, loss in points])
    return {
        "tokens": [points[index][0] for index in chosen],
        "loss": [points[index][1] for index in chosen],
        "mean": [mean[index] for index in chosen],
    }


def running_mean(values: Sequence[float]) -> list[float]:
    """Mean of the last tenth of the points up to each point (five at least)."""
    width = max(5, len(values) // 10)
    parts = [values[max(0, index + 1 - width) : index + 1] for index in range(len(values))]
    return [sum(part) / len(part) for part in parts]
