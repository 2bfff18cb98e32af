"""restricted.html: the items that changed with their texts, and the probes' samples."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from tasks.evaluate.page.flips import Changed, counts
from tasks.evaluate.page.parts import document
from tasks.evaluate.page.words import SIGNS, measured, number

MOST_ITEMS = 200
"""Items of each sort that are shown; the tables in restricted/ have all."""

WARNING = (
    '<p class="warning">This page shows texts of the evaluation sets and of the model. Whoever trains on '
    "them makes the sets worthless; some may be harmful. Do not pass it on.</p>"
)


def restricted(
    report: Mapping[str, Any], changed: Sequence[Changed], samples: Mapping[str, Sequence[Mapping[str, Any]]]
) -> str:
    """The page.

    Args:
        report: The content of report.json.
        changed: The items that changed.
        samples: Probe -> what it wrote, as the probe keeps it.
    """
    subject = html.escape(report["models"]["model"]["ref"])
    parts = [
        f"<header><h1>Items and samples of {subject}</h1>"
        '<p><a href="report.html">The report</a></p></header>',
        WARNING,
    ]
    for one in counts(changed):
        title = f"{html.escape(one.name)}, {measured(one.figure)}, against the {one.against}"
        flipped = all(each.flipped for each in (*one.worse, *one.better))
        words = ("Right before, not now", "Wrong before, right now") if flipped else ("Worse", "Better")
        body = _items("worse", words[0], one.worse) + _items("better", words[1], one.better)
        parts.append(f"<section><h2>{title}</h2>{body}</section>")
    for step, given in samples.items():
        told = "".join(_sample(sample) for sample in given[:MOST_ITEMS])
        parts.append(f"<section><h2>Samples of {html.escape(step)}</h2>{told}{_rest(len(given))}</section>")
    return document(f"Items of {subject}", "\n".join(parts))


def _items(kind: Any, title: str, items: Sequence[Changed]) -> str:
    if not items:
        return ""
    told = "".join(
        f'<div class="item" id="{html.escape(each.anchor)}"><code>{html.escape(each.key)}</code>'
        f"{_values(each)}{_facts(each.shown)}</div>"
        for each in items[:MOST_ITEMS]
    )
    return f'<h3 class="{kind}">{SIGNS[kind]} {title}: {len(items):,}</h3>{told}{_rest(len(items))}'


def _values(each: Changed) -> str:
    """What the item's figure was and is, where it is more than right or wrong."""
    return "" if each.flipped else f" {number(each.was)} \u2192 {number(each.now)}"


def _sample(sample: Mapping[str, Any]) -> str:
    return f'<div class="item">{_facts({name: str(value) for name, value in sample.items()})}</div>'


def _facts(facts: Mapping[str, str]) -> str:
    told = "".join(
        f"<dt>{measured(name)}</dt><dd>{html.escape(text)}</dd>" for name, text in facts.items() if text
    )
    return f"<dl>{told}</dl>"


def _rest(count: int) -> str:
    return f'<p class="note">and {count - MOST_ITEMS:,} more</p>' if count > MOST_ITEMS else ""
