"""Multiple choice by the log-likelihood of each option, its calibration, and what changed between two models.

The choice is the option with the largest log-likelihood per UTF-8 byte (lm-evaluation-harness, `acc_bytes`;
Brown et al. 2020, arXiv:2005.14165, section 2.4 normalise per token). The choice by plain log-likelihood is
kept too; calibration is that of the softmax over the plain log-likelihoods (Guo et al. 2017, "On calibration
of modern neural networks", arXiv:1706.04599; Brier 1950 for the score). Flips and inconsistency are those of
MUSCLE (Echterhoff et al. 2024, arXiv:2407.09435).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy

from tasks.evaluate.measure import Array, Columns, Comparison, Figure, Measure, Share, flips, ratio
from tasks.evaluate.multiple_choice import TREE, ExamScore, score_exams
from tasks.evaluate.options import SuiteOptions
from tasks.evaluate.rows import Exam, read_exams
from tasks.evaluate.scoring import Subject

BINS = 15
"""Bins of equal width for the calibration error; Guo et al. 2017."""


def score(
    subject: Subject,
    rows: Sequence[Exam],
    options: SuiteOptions,
    seed: int,
    progress: Callable[[float], None],
) -> Columns:
    """Log-likelihoods and what follows from them, per question."""
    found, how = score_exams(
        subject, rows, options.exam_prompt, options.batch_size, progress, options.batch_tokens
    )
    return {**columns_of(rows, found), "together": numpy.full(len(rows), float(how == TREE))}


def columns_of(rows: Sequence[Exam], scores: Sequence[ExamScore]) -> dict[str, Array]:
    """The columns, from the scores.

    `log_likelihoods` (N, options of the longest question, NaN beyond a question's own) in nats; `choice` and
    `choice_unnormalised`, the `answer`, whether the choice is it; the softmax's `confidence` in its choice,
    and its squared distance from the truth, `brier`.
    """
    widest = max(len(row.options) for row in rows)
    likelihoods_NK = numpy.full((len(rows), widest), numpy.nan)
    for place, each in enumerate(scores):
        likelihoods_NK[place, : len(each.log_likelihoods)] = each.log_likelihoods
    answer_N = numpy.array([float(row.answer) for row in rows])
    choice_N = numpy.array([float(each.choice) for each in scores])
    plain_N = numpy.array([float(each.choice_unnormalised) for each in scores])
    shares_NK = numpy.exp(likelihoods_NK - numpy.nanmax(likelihoods_NK, axis=1, keepdims=True))
    shares_NK /= numpy.nansum(shares_NK, axis=1, keepdims=True)
    truth_NK = (numpy.arange(widest)[None] == answer_N[:, None]).astype(numpy.float64)
    return {
        "log_likelihoods": likelihoods_NK,
        "choice": choice_N,
        "choice_unnormalised": plain_N,
        "answer": answer_N,
        "right": (choice_N == answer_N).astype(numpy.float64),
        "right_unnormalised": (plain_N == answer_N).astype(numpy.float64),
        "confidence": numpy.nanmax(shares_NK, axis=1),
        "brier": numpy.nansum((shares_NK - truth_NK) ** 2, axis=1),
    }


def calibration_error(columns: Columns, weights_RN: Array) -> Array:
    """Expected calibration error: how far confidence is from accuracy, bin by bin."""
    confidence_N, right_N = columns["confidence"], columns["right_unnormalised"]
    bins_N = numpy.minimum((confidence_N * BINS).astype(numpy.int64), BINS - 1)
    apart_NB = numpy.zeros((len(bins_N), BINS))
    apart_NB[numpy.arange(len(bins_N)), bins_N] = confidence_N - right_N
    totals_R = weights_RN.sum(axis=1)
    with numpy.errstate(divide="ignore", invalid="ignore"):
        errors_R: Array = numpy.abs(weights_RN @ apart_NB).sum(axis=1) / totals_R
    return errors_R


def differently_wrong(columns: Columns, other: Columns) -> Array:
    """Whether both models are wrong and not in the same way."""
    both_N = (columns["right"] == 0) & (other["right"] == 0)
    found_N: Array = (both_N & (columns["choice"] != other["choice"])).astype(numpy.float64)
    return found_N


def shown(row: Exam) -> Mapping[str, str]:
    """The question with its options, the right one marked."""
    options = [f"{'*' if place == row.answer else '-'} {text}" for place, text in enumerate(row.options)]
    return {"question": row.question, "options": "\n".join(options)}


def said(row: Exam, columns: Columns, place: int) -> str:
    """The option that a model chose."""
    return row.options[int(columns["choice"][place])]


MEASURE = Measure(
    name="multiple_choice",
    version=1,
    settings=("exam_prompt",),
    read=read_exams,
    score=score,
    figures=(
        Figure(
            "accuracy", "higher", "", "questions with the right option likeliest per byte", ratio("right")
        ),
        Figure(
            "accuracy_unnormalised",
            "higher",
            "",
            "questions with the right option likeliest as a whole",
            ratio("right_unnormalised"),
        ),
        Figure(
            "calibration_error",
            "lower",
            "",
            "how far the model's confidence is from its accuracy (expected calibration error)",
            calibration_error,
        ),
        Figure(
            "brier",
            "lower",
            "squared distance",
            "squared distance of the probabilities of the options from the truth, 0 to 2",
            ratio("brier"),
        ),
    ),
    comparisons=(
        Comparison(
            "negative_flips",
            "lower",
            "",
            "questions that it had right and now has wrong",
            flips("right", True),
        ),
        Comparison(
            "positive_flips",
            "higher",
            "",
            "questions that it had wrong and now has right",
            flips("right", False),
        ),
        Comparison(
            "inconsistency",
            "lower",
            "",
            "questions that it had wrong and now has wrong in another way",
            Share(differently_wrong),
        ),
    ),
    shown=shown,
    said=said,
    doc="Which of the given options the model finds likeliest.",
    paper="Brown et al. 2020, arXiv:2005.14165; Echterhoff et al. 2024, MUSCLE, arXiv:2407.09435",
)
