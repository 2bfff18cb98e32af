"""Figures of the report as people read them."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

ROLES = ("baseline", "champion")
"""What the candidate is compared with."""

Verdict = Literal["better", "worse", "undecided"]
SIGNS: Mapping[Verdict, str] = {"better": "▲", "worse": "▼", "undecided": "○"}
"""What stands before a verdict, for whoever sees no colours."""


@dataclass(frozen=True)
class Change:
    """The difference of one figure from one other model, in the unit that people read.

    Attributes:
        name: The set or probe.
        figure: The figure, e.g. `accuracy`.
        against: `baseline` or `champion`.
        value: In `unit`; low and high are the ends of its interval.
        unit: `%` of the other's value, `points` of a share, or the figure's own.
        better: Whether lower or higher is better.
        items: How many items it is over.
        detectable: The smallest difference that they would show, in `unit`; None where that is not known.
    """

    name: str
    figure: str
    against: str
    value: float
    low: float
    high: float
    unit: str
    better: str
    items: int
    detectable: float | None

    @property
    def verdict(self) -> Verdict:
        """Undecided where the interval holds zero."""
        if self.low <= 0 <= self.high:
            return "undecided"
        return "better" if (self.high < 0) == (self.better == "lower") else "worse"

    @property
    def label(self) -> str:
        """The verdict with its sign, as HTML."""
        return f'<b class="{self.verdict}">{SIGNS[self.verdict]} {self.verdict}</b>'


def change(entry: Mapping[str, Any], role: str) -> Change | None:
    """A set's difference from a model, or None if there is none or the figure is itself a comparison.

    Figures with a unit change in percent of the other's value where there is one, shares in points.
    """
    delta = entry["against"].get(role)
    if delta is None or is_comparison(entry) or delta["low"] is None or delta["high"] is None:
        return None
    share, relative = is_share(entry), delta.get("relative")
    if not share and relative is not None and delta["relative_low"] is not None:
        least = delta.get("detectable")
        scale = abs(relative / delta["difference"]) if delta["difference"] else 0.0
        ends = (100 * relative, 100 * delta["relative_low"], 100 * delta["relative_high"])
        unit, least = "%", 100 * least * scale if least is not None and scale else None
    else:
        factor, unit = (100.0, "points") if share else (1.0, str(entry.get("unit", "")))
        ends = (factor * delta["difference"], factor * delta["low"], factor * delta["high"])
        least = None if delta.get("detectable") is None else factor * delta["detectable"]
    return Change(
        entry["name"], entry["measure"], role, *ends, unit, entry["better"], int(entry["items"]), least
    )


def changes(sets: Iterable[Mapping[str, Any]]) -> list[Change]:
    """Every difference of these entries, champion after baseline."""
    return [found for entry in sets for role in ROLES if (found := change(entry, role)) is not None]


def main_entries(sets: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The first entry of each set: its main figure."""
    found: dict[str, Mapping[str, Any]] = {}
    for entry in sets:
        found.setdefault(entry["name"], entry)
    return list(found.values())


def is_share(entry: Mapping[str, Any]) -> bool:
    """The figure is a share of items."""
    return not entry.get("unit")


def is_comparison(entry: Mapping[str, Any]) -> bool:
    """The figure is about two models (flips), and no model has a value of its own."""
    return all(value is None for value in entry["values"].values())


def number(value: float) -> str:
    """Four significant digits, a real minus."""
    return f"{value or 0.0:.4g}".replace("-", "\u2212")


def figure(entry: Mapping[str, Any], value: float) -> str:
    """A value with its unit."""
    if is_share(entry):
        return f"{100 * value:.1f} %"
    return f"{number(value)} {html.escape(entry['unit'])}"


def between(entry: Mapping[str, Any], low: float, high: float) -> str:
    """An interval, the unit of a share once, another not at all: it stands with the value."""
    if is_share(entry):
        return f"{100 * low:.1f} to {100 * high:.1f} %"
    return f"{number(low)} to {number(high)}"


def signed(value: float) -> str:
    """A difference with its sign and a real minus: one decimal, or two digits where that would be zero."""
    if round(value, 1) == 0 and value:
        return f"{value:+.2g}".replace("-", "\u2212")
    return f"{value:+.1f}".replace("-", "\u2212") if value else "0.0"


def size(value: float) -> str:
    """A difference without a sign, as short as `signed`."""
    return signed(abs(value)).lstrip("+")


def chance_of(p_value: float) -> str:
    """A p-value, to two digits and no further than a ten-thousandth."""
    return f"{p_value:.2g}" if p_value >= 1e-4 else "below 0.0001"


def measured(name: str) -> str:
    """A figure's name in words."""
    return html.escape(name.replace("_", " "))


def thousands(value: float) -> str:
    """A count in the reader's size: 950, 12k, 3.4M."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"
