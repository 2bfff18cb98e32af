"""The measures by the port of the sets that they are taken on: a measure is a file here and a word below."""

from __future__ import annotations

from collections.abc import Mapping

from tasks.evaluate.measure import Measure
from tasks.evaluate.measures import (
    bits_per_byte,
    closed_book,
    cloze,
    few_shot,
    multiple_choice,
    pass_at_k,
    refusal,
    retrieval,
    toxicity,
    wording,
)

PORTS: Mapping[str, tuple[Measure, ...]] = {
    "documents": (bits_per_byte.MEASURE,),
    "exams": (multiple_choice.MEASURE, few_shot.MEASURE, wording.MEASURE),
    "facts": (cloze.MEASURE,),
    "questions": (closed_book.MEASURE,),
    "programs": (pass_at_k.MEASURE,),
    "requests": (refusal.MEASURE,),
    "prompts": (toxicity.MEASURE,),
    "haystacks": (retrieval.MEASURE,),
}
"""Port of the suite -> the measures of its sets. The first figure of the first measure stands for a set."""

KINDS: Mapping[str, str] = {"haystacks": "documents"}
"""The kind of artefact that a port takes where it is not called like the port."""

GAP = "_gap"
"""Behind a figure's name: its largest difference between two groups of the set."""


def figure_names() -> dict[str, tuple[str, ...]]:
    """What a gate may name of a set, by its port; those that options ask for are among them."""
    found = {}
    for port, measures in PORTS.items():
        figures = [each.name for measure in measures for each in measure.figures]
        comparisons = [each.name for measure in measures for each in measure.comparisons]
        found[port] = (*figures, *comparisons, *(f"{name}{GAP}" for name in figures))
    return found
