"""Instruction wording: how much accuracy depends on how the question is put.

Sun et al. 2023, "Evaluating the zero-shot robustness of instruction-tuned language models"
(arXiv:2306.11270): valid but unseen phrasings score lower and vary more. The wordings are options, in two
lists: those that the model was tuned on (or the usual ones) and others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy

from tasks.evaluate.measure import Array, Columns, Figure, Measure
from tasks.evaluate.multiple_choice import asked, choose, score_options
from tasks.evaluate.options import SuiteOptions
from tasks.evaluate.rows import Exam, read_exams
from tasks.evaluate.scoring import Subject


def score(
    subject: Subject,
    rows: Sequence[Exam],
    options: SuiteOptions,
    seed: int,
    progress: Callable[[float], None],
) -> Columns:
    """Whether the choice is right under each wording: `worded` (N, seen) and `worded_unseen` (N, unseen)."""
    prompts = [*options.wordings, *options.wordings_unseen]
    rights = []
    for number, prompt in enumerate(prompts):

        def part(done: float, number: int = number) -> None:
            progress((number + done) / len(prompts))

        questions = [asked(row, prompt) for row in rows]
        found, _ = score_options(subject, questions, options.batch_size, part, options.batch_tokens)
        rights.append(
            [
                float(choose(values, row.options) == row.answer)
                for values, row in zip(found, rows, strict=True)
            ]
        )
    right_NK = numpy.array(rights).T
    seen = len(options.wordings)
    columns = {"worded": right_NK[:, :seen]}
    return columns | ({"worded_unseen": right_NK[:, seen:]} if options.wordings_unseen else {})


def accuracies(columns: Columns, weights_RN: Array, column: str) -> Array:
    """The accuracy under each wording, (R, K)."""
    with numpy.errstate(divide="ignore", invalid="ignore"):
        found_RK: Array = (weights_RN @ columns[column]) / weights_RN.sum(axis=1, keepdims=True)
    return found_RK


def _three(
    prefix: str, column: str, which: str, applies: Callable[[SuiteOptions], bool]
) -> tuple[Figure, ...]:
    return (
        Figure(
            f"{prefix}_mean",
            "higher",
            "",
            f"mean accuracy over {which} wordings",
            lambda columns, weights_RN: accuracies(columns, weights_RN, column).mean(axis=1),
            applies,
        ),
        Figure(
            f"{prefix}_worst",
            "higher",
            "",
            f"accuracy under the worst of {which} wordings",
            lambda columns, weights_RN: accuracies(columns, weights_RN, column).min(axis=1),
            applies,
        ),
        Figure(
            f"{prefix}_spread",
            "lower",
            "",
            f"best less worst accuracy over {which} wordings",
            lambda columns, weights_RN: numpy.ptp(accuracies(columns, weights_RN, column), axis=1),
            applies,
        ),
    )


def shown(row: Exam) -> Mapping[str, str]:
    """The question."""
    return {"question": row.question}


MEASURE = Measure(
    name="wording",
    version=1,
    settings=("wordings", "wordings_unseen"),
    read=read_exams,
    score=score,
    figures=(
        *_three("wording", "worded", "the", lambda options: bool(options.wordings)),
        *_three("wording_unseen", "worded_unseen", "unseen", lambda options: bool(options.wordings_unseen)),
    ),
    comparisons=(),
    shown=shown,
    doc="How much accuracy depends on how a question is put.",
    paper="Sun et al. 2023, arXiv:2306.11270",
    applies=lambda options: bool(options.wordings),
)
