"""Gates over time as drawings (inline SVG): one small plot a gate, a point a version, its limit as a line."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 340, 130, 58, 12, 12, 26
MOST = 24
"""Versions that a plot shows, the newest."""


def gate_plots(versions: Sequence[Mapping[str, Any]]) -> str:
    """A figure for each gate that any version was judged by, in the order of the newest one's gates.

    Args:
        versions: As `perennial page` gives them, newest first.
    """
    shown = [each for each in reversed(versions[:MOST])]
    names: dict[str, None] = {}
    for version in versions[:MOST]:
        names.update(dict.fromkeys(str(gate["gate"]) for gate in version["gates"]))
    return "".join(_figure(name, shown) for name in names)


def _figure(name: str, versions: Sequence[Mapping[str, Any]]) -> str:
    points = [
        (place, version, gate)
        for place, version in enumerate(versions)
        for gate in version["gates"]
        if gate["gate"] == name and gate["value"] is not None
    ]
    latest = next(gate for version in reversed(versions) for gate in version["gates"] if gate["gate"] == name)
    title = f"<b>{html.escape(name)}</b> <small>{html.escape(str(latest['measure']))}</small>"
    if not points:
        return f'<figure class="gate"><figcaption>{title}</figcaption><p class="note">not known</p></figure>'
    return f'<figure class="gate"><figcaption>{title}</figcaption>{_drawing(name, versions, points)}</figure>'


def _drawing(
    name: str,
    versions: Sequence[Mapping[str, Any]],
    points: Sequence[tuple[int, Mapping[str, Any], Mapping[str, Any]]],
) -> str:
    values = [
        float(gate[key]) for _, _, gate in points for key in ("value", "low", "high") if gate[key] is not None
    ]
    limits = [float(gate["threshold"]) for _, _, gate in points]
    least, most = min(*values, *limits), max(*values, *limits)
    room = (most - least) * 0.08 or abs(most) * 0.1 or 1.0
    least, most = least - room, most + room
    step = (WIDTH - LEFT - RIGHT) / max(len(versions), 1)

    def x(place: int) -> float:
        return LEFT + step * (place + 0.5)

    def y(value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (most - value) / (most - least)

    parts = []
    for value in (most - room, least + room):
        parts.append(
            f'<text class="axis" x="{LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">'
            f"{figure(points[-1][2], value)}</text>"
        )
    for place, version, gate in points:
        limit = y(float(gate["threshold"]))
        parts.append(
            f'<line class="limit" x1="{x(place) - step / 2:.1f}" x2="{x(place) + step / 2:.1f}" '
            f'y1="{limit:.1f}" y2="{limit:.1f}"/>'
        )
        if gate["low"] is not None and gate["high"] is not None:
            parts.append(
                f'<line class="between {gate["verdict"]}" x1="{x(place):.1f}" x2="{x(place):.1f}" '
                f'y1="{y(float(gate["high"])):.1f}" y2="{y(float(gate["low"])):.1f}"/>'
            )
        parts.append(
            f'<circle class="{html.escape(str(gate["verdict"]))}" cx="{x(place):.1f}" '
            f'cy="{y(float(gate["value"])):.1f}" r="4"><title>{_told(version, gate)}</title></circle>'
        )
    every = max(1, math.ceil(len(versions) / 8))
    for place, version in enumerate(versions):
        if place % every == 0 or place == len(versions) - 1:
            weight = ' font-weight="bold"' if "champion" in version["aliases"] else ""
            parts.append(
                f'<text class="axis" x="{x(place):.1f}" y="{HEIGHT - 8}" text-anchor="middle"{weight}>'
                f"{html.escape(str(version['semantic'] or version['version']))}</text>"
            )
    told = "; ".join(_told(version, gate) for _, version, gate in points)
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(name)}: {told}">'
        f"{''.join(parts)}</svg>"
    )


def figure(gate: Mapping[str, Any], value: float) -> str:
    """A gate's figure as people read it: percent of the other's value, points of a share, or its unit."""
    if gate["percent"]:
        return f"{100 * value:+.1f} %"
    if gate["unit"]:
        return f"{value:.4g} {html.escape(str(gate['unit']))}"
    if str(gate["measure"]).startswith(("run.", "model.")):
        return f"{value:.4g}"
    return f"{100 * value:+.1f} points" if gate["change"] else f"{100 * value:.1f} %"


def _told(version: Mapping[str, Any], gate: Mapping[str, Any]) -> str:
    """A point in words."""
    between = ""
    if gate["low"] is not None and gate["high"] is not None:
        between = f" ({figure(gate, float(gate['low']))} to {figure(gate, float(gate['high']))})"
    limit = f"{'at most' if gate['sign'] > 0 else 'at least'} {figure(gate, float(gate['threshold']))}"
    return (
        f"{html.escape(str(version['semantic'] or version['version']))}: "
        f"{figure(gate, float(gate['value']))}{between}, {html.escape(str(gate['verdict']))}, allowed {limit}"
    )
