"""The differences as a forest plot, and what the sets could not tell."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from tasks.evaluate.page.parts import section, table
from tasks.evaluate.page.plots import interval, reach
from tasks.evaluate.page.words import Change, changes, main_entries, measured, signed, size


def differences(sets: Sequence[Mapping[str, Any]]) -> str:
    """The main figure of each set against each model, one panel a unit."""
    found = changes(main_entries(sets))
    units = list(dict.fromkeys(each.unit for each in found))
    if not found:
        return ""
    parts = []
    for unit in units:
        group = [each for each in found if each.unit == unit]
        furthest = reach(group)
        words = {"%": "in % of the other's value", "points": "in points"}.get(unit, f"in {html.escape(unit)}")
        ends = (
            f'<span class="ends"><span>worse by {size(furthest)}</span>'
            f"<span>better by {size(furthest)}</span></span>"
        )
        head = ("Set", "Change", ends, "Verdict", "Shows from")
        rows = [_difference(each, furthest) for each in group]
        parts.append(f"<h3>Changes {words}</h3>{table(head, rows, 'forest')}")
    unseen = [each for each in found if each.verdict == "undecided"]
    if unseen:
        told = "".join(f"<li>{_unseen(each)}</li>" for each in unseen)
        parts.append(f"<h3>What these sets could not tell</h3><ul>{told}</ul>")
    note = (
        "Main figure of each set, the same items for every model. The line is the interval, right of the "
        "middle is better. A true difference inside the grey band would be overlooked more often than once "
        "in five."
    )
    return section("Differences", note, "".join(parts))


def _difference(each: Change, furthest: float) -> str:
    least = "–" if each.detectable is None else f"{size(each.detectable)} {html.escape(each.unit)}"
    return (
        f'<tr><th scope="row"><b>{html.escape(each.name)}</b><small>{measured(each.figure)}, against the '
        f"{each.against}, {each.items:,} items</small></th>"
        f'<td data-label="Change">{signed(each.value)}'
        f"<small>{signed(each.low)} to {signed(each.high)}</small></td>"
        f'<td class="plot">{interval(each, furthest)}</td><td>{each.label}</td>'
        f'<td data-label="Shows from">{least}</td></tr>'
    )


def _unseen(each: Change) -> str:
    told = f"<b>{html.escape(each.name)}</b>, {measured(each.figure)} against the {each.against}: "
    if each.detectable is None:
        return f"{told}too few items for any difference"
    return (
        f"{told}{signed(each.value)} {html.escape(each.unit)} is within chance; {each.items:,} items show "
        f"differences from about {size(each.detectable)} {html.escape(each.unit)} on"
    )
