"""The measures of each port of the suite: a file a measure, a line of this table."""

from __future__ import annotations

from tasks.evaluate.measure import Measure
from tasks.evaluate.measures import closed_book, cloze, pass_at_k, refusal, retrieval, toxicity

PORTS: dict[str, tuple[Measure, ...]] = {
    "facts": (cloze.MEASURE,),
    "questions": (closed_book.MEASURE,),
    "programs": (pass_at_k.MEASURE,),
    "requests": (refusal.MEASURE,),
    "prompts": (toxicity.MEASURE,),
    "haystacks": (retrieval.MEASURE,),
}
"""Port -> what is measured on its sets."""
