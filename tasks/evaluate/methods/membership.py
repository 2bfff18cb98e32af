"""Membership and contamination: which texts look as if the model had been trained on them.

Shi et al. 2023, "Detecting Pretraining Data from Large Language Models" (arXiv:2310.16789): Min-K% Prob of a
text is the mean log-probability of the k % of its tokens that the model finds least likely. A text that was
never seen holds some tokens that surprise; one that was seen holds few.

The scale means nothing by itself, so there is a control: text of after the training, surely unseen, in
the same style as the suspects. Without it a set of easy texts would look contaminated (Duan et al. 2024, "Do
Membership Inference Attacks Work on Large Language Models?", arXiv:2402.07841, section 5). Text of before, if
given, says whether the model can be judged at all: where it cannot be told from the control, the suspects not
being told from it proves nothing.

Different from the paper: texts are cut to one length in tokens instead of being sorted into classes of
lengths, and an exam is judged as its question with the right answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy
from pydantic import Field

from tasks.evaluate.measure import Array, Columns, Figure
from tasks.evaluate.probes.auc import auc, share_above
from tasks.evaluate.probes.models import Probing, Progress, memory, models_of, per_model
from tasks.evaluate.probes.options import LIMIT, ScoringOptions
from tasks.evaluate.probes.report import Found, write_probe
from tasks.evaluate.probes.texts import read_texts
from tasks.evaluate.scoring import Row, Subject, log_probs
from tasks.recipe.failures import DataInvalid
from tasks.stage import Estimate, Input, Method, Port, Result, StepContext, maybe, one

POWERLESS = 0.6
"""Below this separation of known from unknown text a note says that nothing can be concluded."""


VERSION = 1
"""Raised whenever the same model and inputs would give other columns."""


class MembershipOptions(ScoringOptions):
    """Options of the membership probe."""

    limit: int = LIMIT
    max_length: int = Field(
        128,
        ge=8,
        description="Tokens of each text that are judged: longer texts are cut, so that all compare.",
        json_schema_extra={"unit": "tokens", "source": "arXiv:2310.16789, section 5: 32 to 256"},
    )
    k: float = Field(
        0.2,
        gt=0,
        le=1,
        description="Share of a text's tokens, the least likely ones, whose log-probabilities are averaged.",
        json_schema_extra={"unit": "share of tokens", "source": "arXiv:2310.16789, section 5"},
    )
    false_positives: float = Field(
        0.05,
        gt=0,
        lt=1,
        description="Share of the unseen control that may be flagged: it sets the threshold.",
        json_schema_extra={"unit": "share of control", "source": "arXiv:2310.16789, table 2"},
    )


def min_k(scores_T: Array, k: float) -> float:
    """The mean of the lowest share `k` of log-probabilities (at least one), nats a token."""
    count = max(1, int(len(scores_T) * k))
    return float(numpy.partition(scores_T, count - 1)[:count].mean())


def score_texts(
    subject: Subject, texts: Sequence[str], options: MembershipOptions, progress: Progress
) -> Array:
    """Min-K% Prob of every text, shape (N,).

    Raises:
        DataInvalid: A text has no token that something comes before.
    """
    rows = []
    for text in texts:
        ids = [*subject.prefix, *subject.encode(text)][: subject.window]
        if len(ids) < 2:
            raise DataInvalid(f"text {text[:40]!r} is one token of model '{subject.ref}'; leave it out")
        rows.append(Row(ids, range(1, len(ids)), range(len(ids) - 1)))
    return numpy.array(
        [min_k(scores, options.k) for scores in log_probs(subject, rows, options.batch_size, progress)]
    )


SUSPECT, AFTER, BEFORE = 1.0, 0.0, -1.0
"""What an item is: to be judged, surely unseen, or of before the training."""


def figures(false_positives: float) -> tuple[Figure, ...]:
    """The figures, from the columns `score` and `side`."""

    def against_control(side: float) -> Any:
        def of(columns: Columns, weights_RN: Array) -> Array:
            known, unseen = columns["side"] == side, columns["side"] == AFTER
            scores = columns["score"]
            return auc(scores[known], scores[unseen], weights_RN[:, known], weights_RN[:, unseen])

        return of

    def flagged(columns: Columns, weights_RN: Array) -> Array:
        suspect, unseen = columns["side"] == SUSPECT, columns["side"] == AFTER
        scores = columns["score"]
        return share_above(
            scores[suspect],
            scores[unseen],
            weights_RN[:, suspect],
            weights_RN[:, unseen],
            false_positives,
        )

    def least(side: float) -> Callable[[Columns], int]:
        return lambda columns: min(int((columns["side"] == each).sum()) for each in (side, AFTER))

    return (
        Figure(
            "auc",
            "lower",
            "",
            "chance that a suspect looks more familiar than an unseen text; 0.5 where they look alike",
            against_control(SUSPECT),
            asked=least(SUSPECT),
        ),
        Figure(
            "flagged",
            "lower",
            "",
            f"share of suspects more familiar than all but {false_positives:.0%} of unseen texts",
            flagged,
            asked=lambda columns: int((columns["side"] == SUSPECT).sum()),
        ),
        Figure(
            "control_auc",
            "higher",
            "",
            "chance that a text of before the training looks more familiar than an unseen one: the power",
            against_control(BEFORE),
            asked=least(BEFORE),
        ),
    )


def run(context: StepContext, options: MembershipOptions) -> Result:
    """Score suspects and controls under every model.

    Raises:
        DataInvalid: A set is empty or a row is broken.
    """
    parts = {SUSPECT: one(context, "suspects"), AFTER: one(context, "after")}
    before = maybe(context, "before")
    if before is not None:
        parts[BEFORE] = before
    texts = {side: read_texts(item, options.limit) for side, item in parts.items()}
    keys = [f"{parts[side].name}/{key}" for side, rows in texts.items() for key, _ in rows]
    flat = [text for rows in texts.values() for _, text in rows]
    sides = numpy.array([side for side, rows in texts.items() for _ in rows])
    models = models_of(context)
    probing = Probing("membership", VERSION, options)
    columns = per_model(
        context,
        models,
        options.max_length,
        probing,
        lambda subject, progress: {"score": score_texts(subject, flat, options, progress), "side": sides},
    )
    known = figures(options.false_positives)
    found = Found(
        probing,
        keys,
        columns,
        known if before is not None else known[:2],
        notes=_notes(parts, columns["model"], known[2]),
    )
    return write_probe(context, models, found, options)


def _notes(parts: Mapping[float, Input], columns: Columns, power: Figure) -> list[str]:
    notes = []
    if parts[SUSPECT].kind != parts[AFTER].kind:
        notes.append(
            f"the suspects are {parts[SUSPECT].kind} and the control {parts[AFTER].kind}: a difference of "
            "style looks like familiarity; give a control of the suspects' kind"
        )
    if BEFORE not in parts:
        notes.append(
            "no text of before the training was given: whether this model gives itself away is unknown"
        )
    elif float(power.of(columns, numpy.ones((1, len(columns["side"]))))[0]) < POWERLESS:
        notes.append(
            "text of before the training looks no more familiar than unseen text: that the suspects do not "
            "either proves nothing"
        )
    return notes


def estimate(options: MembershipOptions, metas: Mapping[str, list[Mapping[str, Any]]]) -> Estimate:
    """One model at a time."""
    return memory(1, metas)


METHOD = Method(
    summary="Which texts look as if the model had seen them: Min-K% Prob against unseen text.",
    options=MembershipOptions,
    inputs={
        "model": Port(("model",), "the model that is judged"),
        "baseline": Port(("model",), "one that surely saw none of the suspects", optional=True),
        "champion": Port(("model",), "what is in production", optional=True),
        "suspects": Port(("documents", "exams"), "what must not have been trained on, or is asked about"),
        "after": Port(("documents", "exams"), "surely unseen text in the suspects' style: the control"),
        "before": Port(("documents", "exams"), "text that may well have been seen", optional=True),
    },
    outputs={"probe": "probe"},
    figures={"": ("auc", "flagged", "control_auc")},
    run=run,
    estimate=estimate,
    paper="Shi et al. 2023, Detecting Pretraining Data, arXiv:2310.16789",
)
