"""The report's tables: items that changed sides, groups, probes, and every figure."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from tasks.evaluate.page.flips import anchor
from tasks.evaluate.page.parts import RESTRICTED, section, table
from tasks.evaluate.page.words import (
    ROLES,
    SIGNS,
    between,
    chance_of,
    change,
    figure,
    is_comparison,
    main_entries,
    measured,
    number,
    signed,
    size,
)

LEAST = (
    "A true difference smaller than what stands behind <i>shows from</i> would be overlooked more often than "
    "once in five. McNemar's p is how likely so uneven a count of gained and lost items is by chance alone."
)

MOST_KEYS = 12
"""Keys of changed items that the page names; the restricted page has all of them."""


def flips(report: Mapping[str, Any], *, restricted: bool) -> str:
    """How many items changed, against each model; by key only."""
    sizes: dict[str, int] = {}
    for entry in report["sets"]:
        sizes[entry["name"]] = max(int(entry["items"]), sizes.get(entry["name"], 0))
    probes = report.get("probes", {})  # the restricted page has no texts of theirs
    rows = [
        _flip(one, sizes[one["set"]], restricted=restricted and one["set"] not in probes)
        for one in report.get("changed", [])
    ]
    if not rows:
        return ""
    where = (
        f' <a href="{RESTRICTED}">The restricted page</a>, beside this one in the store, has their texts.'
        if restricted
        else ""
    )
    note = (
        "Items that the other model had right and this one has not, and the reverse. Where an item is not "
        f"right or wrong but has a value, every change counts, and the largest are named.{where}"
    )
    return section("Flips", note, table(("Set", "Items", "Worse", "Better", "Items by key"), rows, "flips"))


def _flip(one: Mapping[str, Any], items: int, *, restricted: bool) -> str:
    """A row: a set, a figure and a model."""
    counts = one["counts"]
    place = html.escape(anchor("changed", one["set"], one["figure"], one["against"]))
    lists = "".join(
        f'<p><b class="{kind}">{SIGNS[kind]} {kind}</b>: {_keys(one, kind, restricted=restricted)}</p>'
        for kind in ("worse", "better")
        if one[kind]
    )
    named = f'<details><summary>which</summary><div class="keys">{lists}</div></details>' if lists else "none"
    return (
        f'<tr id="{place}"><th scope="row"><b>{html.escape(one["set"])}</b>'
        f"<small>{measured(one['figure'])}, against the {one['against']}</small></th><td>{items:,}</td>"
        f'<td class="worse">{SIGNS["worse"]} {counts["worse"]:,}</td>'
        f'<td class="better">{SIGNS["better"]} {counts["better"]:,}</td>'
        f'<td class="text">{named}</td></tr>'
    )


def _keys(one: Mapping[str, Any], kind: str, *, restricted: bool) -> str:
    found = []
    for key in one[kind][:MOST_KEYS]:
        place = html.escape(anchor(one["set"], one["measure"], one["figure"], one["against"], key))
        shown = html.escape(key)
        found.append(f'<a href="{RESTRICTED}#{place}">{shown}</a>' if restricted else shown)
    more = one["counts"][kind] - len(found)
    return ", ".join(found) + (f" and {more:,} more" if more else "")


def slices(sets: Sequence[Mapping[str, Any]]) -> str:
    """The main figure of each set by group."""
    parts = []
    for entry in main_entries(sets):
        groups = entry.get("groups")
        if not groups:
            continue
        roles = [role for role in ("model", *ROLES) if entry["values"][role] is not None]
        rows = []
        for group, found in groups.items():
            cells = "".join(_held(entry, found["values"][role]) for role in roles)
            rows.append(
                f'<tr><th scope="row">{html.escape(group)}</th><td>{found["items"]:,}</td>{cells}</tr>'
            )
        title = f"<h3>{html.escape(entry['name'])}, {measured(entry['measure'])}</h3>"
        parts.append(title + table(("Group", "Items", *("candidate", *roles[1:])), rows))
    gaps = [entry for entry in sets if entry["measure"].endswith("_gap") and entry["values"]["model"]]
    if gaps:
        told = "".join(
            f"<li><b>{html.escape(gap['name'])}</b>, {measured(gap['measure'].removesuffix('_gap'))}: "
            f"{figure(gap, gap['values']['model']['value'])} between the best and the worst group"
            f"{_gap_change(gap)}</li>"
            for gap in gaps
        )
        parts.append(f"<details><summary>The gaps between groups</summary><ul>{told}</ul></details>")
    return section("Slices", "The same figures by group of items.", "".join(parts))


def _gap_change(gap: Mapping[str, Any]) -> str:
    found = next((each for role in ROLES if (each := change(gap, role)) is not None), None)
    if found is None:
        return ""
    return f", {signed(found.value)} {html.escape(found.unit)} against the {found.against} {found.label}"


def probes(report: Mapping[str, Any], *, restricted: bool) -> str:
    """What the probes found, and what they say about reading it."""
    parts = []
    for step, facts in report.get("probes", {}).items():
        entries = [entry for entry in report["sets"] if entry["name"] == step]
        notes = "".join(f"<li>{html.escape(note)}</li>" for note in facts.get("notes", []))
        roles = [role for role in ("model", *ROLES) if any(each["values"][role] for each in entries)]
        rows = [_row(entry, roles) for entry in entries]
        parts.append(
            f"<h3>{html.escape(step)} ({measured(facts['probe'])})</h3>{f'<ul>{notes}</ul>' if notes else ''}"
            + table(("Figure", "Items", *_columns(roles)), rows)
        )
    where = f' Their samples are in <a href="{RESTRICTED}">the restricted page</a>.' if restricted else ""
    note = f"Trials beside the sets, each a step of its own. {LEAST}{where}"
    return section("Probes", note, "".join(parts))


def figures(report: Mapping[str, Any]) -> str:
    """Every figure of every set, folded away set by set."""
    roles = [role for role in ("model", *ROLES) if report["models"][role]]
    beside = report.get("probes", {})
    names = [name for name in dict.fromkeys(entry["name"] for entry in report["sets"]) if name not in beside]
    parts = []
    for name in names:
        rows = [_row(entry, roles) for entry in report["sets"] if entry["name"] == name]
        title = f"{html.escape(name)}: {len(rows)} figure{'s' if len(rows) > 1 else ''}"
        inner = table(("Figure", "Items", *_columns(roles)), rows)
        parts.append(f"<details><summary>{title}</summary>{inner}</details>")
    confidence = report["manifest"]["bootstrap"]["confidence"]
    note = f"Small figures are {confidence:.0%} intervals over items. {LEAST}"
    return section("All figures", note, "".join(parts))


def _columns(roles: Sequence[str]) -> list[str]:
    others = [role for role in roles if role != "model"]
    return ["candidate", *others, *(f"against {role}" for role in others)]


def _row(entry: Mapping[str, Any], roles: Sequence[str]) -> str:
    doc = f"<small>{html.escape(entry['doc'])}</small>" if entry.get("doc") else ""
    cells = "".join(_held(entry, entry["values"][role]) for role in roles)
    for role in roles:
        if role != "model":
            cells += _against(entry, role)
    return (
        f'<tr><th scope="row">{measured(entry["measure"])}{doc}</th><td>{entry["items"]:,}</td>{cells}</tr>'
    )


def _against(entry: Mapping[str, Any], role: str) -> str:
    delta = entry["against"].get(role)
    if delta is None:
        return "<td>–</td>"
    least, p_value = delta.get("detectable"), delta.get("p_value")
    chance = "" if p_value is None else f"<small>McNemar p {chance_of(p_value)}</small>"
    if is_comparison(entry):
        ends = "" if delta["low"] is None else f"<small>{between(entry, delta['low'], delta['high'])}</small>"
        shows = "" if least is None else _shows(figure(entry, least))
        return f"<td>{figure(entry, delta['difference'])}{ends}{shows}{chance}</td>"
    found = change(entry, role)
    if found is None:
        shows = "" if least is None else _shows(number(least))
        return f"<td>{number(delta['difference'])}{shows}{chance}</td>"
    shows = "" if found.detectable is None else _shows(f"{size(found.detectable)} {html.escape(found.unit)}")
    return (
        f"<td>{signed(found.value)} {html.escape(found.unit)}"
        f"<small>{signed(found.low)} to {signed(found.high)}</small>{found.label}{shows}{chance}</td>"
    )


def _shows(least: str) -> str:
    return f"<small>shows from {least}</small>"


def _held(entry: Mapping[str, Any], value: Mapping[str, Any] | None) -> str:
    if value is None:
        return "<td>–</td>"
    ends = between(entry, value["low"], value["high"])
    return f"<td>{figure(entry, value['value'])}<small>{ends}</small></td>"
