"""What the candidate was fed over the course of its trainings, as a curve and in words.

Within a training the mixture does not change: the rows of all its sources are shuffled together
(tasks/training/order.py), so the curve is a step at the beginning of each training, and nowhere else.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.release.records import TRAINED, PlanFacts, StepRecord, ancestors

WIDTH, HEIGHT = 640, 130
LEFT, RIGHT, TOP, BOTTOM = 38, 6, 16, 20
NARROWEST = 12
"""Pixels of a training that has room for its number."""

DATA = ("tokens", "documents", "chats", "pairs")
"""The kinds of artefact that a model is trained on."""

KINDS = ("new", "replay", "other")
"""Text that is new to the model, text that it knows, and all that is no text: chats, pairs."""


@dataclass(frozen=True)
class Fed:
    """What one training was fed.

    Attributes:
        step: Its name.
        tokens: How many tokens it trained on, repetitions included.
        shares: What they were -> the share of it; `KINDS`.
        words: The same for a person.
    """

    step: str
    tokens: int
    shares: Mapping[str, float]
    words: str


def fed(plan: PlanFacts, records: Mapping[str, StepRecord]) -> list[Fed]:
    """The trainings that led to the candidate, in their order, with what each was fed."""
    lineage = {each.step for each in ancestors(records, plan.release.candidate.partition(".")[0])}
    sources = {pin.digest: _Source(f"data.{name}", pin.kind, {}) for name, pin in plan.data.items()}
    for step, record in records.items():
        for output in record.outputs.values():
            sources[output.digest] = _Source(step, output.kind, output.meta)
    found = []
    for step, record in records.items():
        tokens = max((_count(output.meta) for output in record.outputs.values()), default=0)
        if step in lineage and record.stage in TRAINED and tokens:
            read = [sources[each] for many in record.inputs.values() for each in many if each in sources]
            found += [Fed(step, tokens, *_shares(each)) for each in read if each.kind in DATA][:1]
    return found


@dataclass(frozen=True)
class _Source:
    """An artefact: what made it, its kind and facts."""

    maker: str
    kind: str
    meta: Mapping[str, Any]


def _shares(source: _Source) -> tuple[dict[str, float], str]:
    """What a source is made of, and in words."""
    share = source.meta.get("replay_share")
    if source.kind == "tokens" and isinstance(share, int | float):
        words = f"{1 - share:.0%} documents, {share:.0%} replay, from {source.maker}"
        return {"new": 1 - float(share), "replay": float(share)}, words
    kind = "new" if source.kind in ("tokens", "documents") else "other"
    return {kind: 1.0}, f"{source.kind} from {source.maker}"


def _count(meta: Mapping[str, object]) -> int:
    tokens = meta.get("tokens")
    return int(tokens) if isinstance(tokens, int | float) and "samples" in meta else 0


def mixture(plan: PlanFacts, records: Mapping[str, StepRecord]) -> str:
    """The curve with its legend, as HTML; empty where nothing was trained."""
    trainings = fed(plan, records)
    if not trainings:
        return ""
    lines = "".join(
        f"<li><b>{html.escape(each.step)}</b>: {html.escape(each.words)}, {each.tokens:,} tokens</li>"
        for each in trainings
    )
    return (
        "<h3>Mixture</h3>"
        '<p class="note">What the model was fed, over all tokens that it was trained on. Within a training '
        "the mixture is constant by construction, since the rows of all sources are shuffled together: it "
        "changes from one training to the next.</p>"
        f'{_curve(trainings)}<p class="legend"><span class="new"></span> documents '
        '<span class="replay"></span> replay <span class="other"></span> chats or pairs</p>'
        f"<ol>{lines}</ol>"
    )


def _curve(trainings: Sequence[Fed]) -> str:
    total = sum(each.tokens for each in trainings)
    floor = HEIGHT - BOTTOM
    scale = (WIDTH - LEFT - RIGHT) / total
    bands, numbers, x = [], [], float(LEFT)
    for number, each in enumerate(trainings, 1):
        width, y = each.tokens * scale, float(floor)
        for kind in KINDS:
            height = each.shares.get(kind, 0.0) * (floor - TOP)
            y -= height
            if height:
                size = f'width="{width:.1f}" height="{height:.1f}"'
                bands.append(f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" {size}/>')
        if width >= NARROWEST:
            numbers.append(
                f'<text x="{x + width / 2:.1f}" y="{TOP - 4}" text-anchor="middle">{number}</text>'
            )
        x += width
    axes = "".join(
        f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>'
        f'<text x="{LEFT - 5}" y="{y + 3.5:.1f}" text-anchor="end">{share:.0%}</text>'
        for share, y in ((1.0, TOP), (0.5, (TOP + floor) / 2), (0.0, floor))
    )
    ends = (
        f'<text x="{LEFT}" y="{HEIGHT - 5}">0</text>'
        f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 5}" text-anchor="end">{total:,} tokens</text>'
    )
    told = "; ".join(f"{each.step}: {each.words}" for each in trainings)
    return (
        f'<svg class="mixture" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(told)}">'
        f"{axes}{''.join(bands)}{''.join(numbers)}{ends}</svg>"
    )
