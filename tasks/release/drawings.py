"""Small drawings for the verdict, as inline SVG; the evaluation's page has their style."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tasks.release.gates import GateResult

WIDTH, HEIGHT, PAD = 150, 22, 6
SIDE, EDGE = 320, 40
"""Of the square drawing of gains against losses, in pixels."""


def interval(gate: GateResult, say: Callable[[float], str]) -> str:
    """A gate's interval beside its limit (dashed), zero as a thin line; right of the limit passes."""
    if gate.value is None or gate.low is None or gate.high is None:
        return ""
    places = [gate.low, gate.high, gate.value, gate.threshold, *([0.0] if gate.against != "none" else [])]
    low, high = min(places), max(places)
    scale = (WIDTH - 2 * PAD) / ((high - low) or 1.0)

    def at(value: float) -> str:
        return f"{PAD + (high - value if gate.sign == 1 else value - low) * scale:.1f}"

    middle = HEIGHT // 2
    zero = f'<path class="zero" d="M{at(0)} 2V{HEIGHT - 2}"/>' if gate.against != "none" else ""
    label = html.escape(f"{say(gate.low)} to {say(gate.high)}, limit {say(gate.threshold)}")
    return (
        f'<svg class="mini" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{zero}'
        f'<path class="limit" d="M{at(gate.threshold)} 1V{HEIGHT - 1}"/>'
        f'<path class="span" d="M{at(gate.low)} {middle}H{at(gate.high)}"/>'
        f'<circle class="dot" cx="{at(gate.value)}" cy="{middle}" r="4"/></svg>'
    )


@dataclass(frozen=True)
class _Side:
    """A gate's change as a gain: upwards and to the right is better, in percent or points."""

    name: str
    value: float
    low: float
    high: float


def forgetting(gates: Sequence[GateResult]) -> str:
    """What was gained on new sets against what was kept on old ones: a cross for each pair of one unit.

    Empty where the gates of `update` do not name both.
    """
    new, old = _sides(gates, "update-new-"), _sides(gates, "update-old-")
    pairs = [(unit, one, other) for unit, one in new for other_unit, other in old if unit == other_unit]
    if not pairs:
        return ""
    most = (
        max(abs(end) for _, *pair in pairs for side in pair for end in (side.low, side.high, side.value))
        or 1.0
    )
    half = SIDE / 2

    def at(value: float) -> float:
        return half + value / most * (half - EDGE)

    crosses = "".join(
        f'<g class="{_word(one, other)}"><path class="cross" d="M{at(other.low):.1f} {at(-one.value):.1f}'
        f"H{at(other.high):.1f}M{at(other.value):.1f} {at(-one.low):.1f}V{at(-one.high):.1f}"
        f'"/><circle class="dot" cx="{at(other.value):.1f}" cy="{at(-one.value):.1f}" r="5"/>'
        f'<text x="{at(other.value) + 8:.1f}" y="{at(-one.value) - 8:.1f}">{number}</text></g>'
        for number, (_, one, other) in enumerate(pairs, 1)
    )
    corners = "".join(
        f'<text x="{x}" y="{y}" text-anchor="{anchor}">{text}</text>'
        for x, y, anchor, text in (
            (SIDE - 4, 14, "end", "learnt and kept"),
            (4, 14, "start", "learnt, forgot"),
            (4, SIDE - 6, "start", "neither"),
            (SIDE - 4, SIDE - 6, "end", "kept, not learnt"),
            (SIDE - 4, half - 5, "end", "old better"),
            (half + 5, 28, "start", "new better"),
        )
    )
    lines = "".join(
        f"<li>{html.escape(one.name)} {_told(one, unit)}, {html.escape(other.name)} {_told(other, unit)}</li>"
        for unit, one, other in pairs
    )
    return (
        '<h3>Forgetting against gain</h3><p class="note">Each cross is a new set and an old one, with the '
        "gates' own intervals. Up is gained on the new, right is gained on the old, in percent or points; "
        "better is positive. Red where an interval shows a loss, of which the gate may allow some.</p>"
        f'<div class="beside"><svg class="scatter" viewBox="0 0 {SIDE} {SIDE}" role="img" '
        'aria-label="gain on new sets against gain on old sets">'
        f'<path class="zero" d="M{half} {EDGE / 2}V{SIDE - EDGE / 2}'
        f'M{EDGE / 2} {half}H{SIDE - EDGE / 2}"/>{corners}{crosses}</svg><ol>{lines}</ol></div>'
    )


def _told(side: _Side, unit: str) -> str:
    """A gain in words: with its sign, a real minus, its interval and its unit once."""
    value, low, high = (
        f"{round(each, 1) or 0.0:+.1f}".replace("-", "\u2212") for each in (side.value, side.low, side.high)
    )
    return f"{value} {unit} [{low}, {high}]"


def _sides(gates: Sequence[GateResult], start: str) -> list[tuple[str, _Side]]:
    """The changes that gates of these names are about, with their unit."""
    found = []
    for gate in gates:
        if gate.gate.startswith(start) and gate.value is not None:
            sign = 100 if gate.better == "higher" else -100
            ends = sorted(sign * (gate.value if end is None else end) for end in (gate.low, gate.high))
            name = gate.measure.rpartition(".")[0]
            found.append(
                ("%" if gate.percent else "points", _Side(name, sign * gate.value, ends[0], ends[1]))
            )
    return found


def _word(new: _Side, old: _Side) -> str:
    if old.high < 0 or new.high < 0:
        return "worse"
    return "better" if new.low > 0 and old.low >= 0 else "undecided"
