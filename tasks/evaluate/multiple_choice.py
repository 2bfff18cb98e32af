"""Multiple choice by the log-likelihood of each option after the question.

The choice is the option with the largest log-likelihood per UTF-8 byte (lm-evaluation-harness, `acc_bytes`;
Brown et al. 2020, arXiv:2005.14165, section 2.4 normalise per token). The choice by plain log-likelihood is
kept too. The question is run once: its options follow it as the branches of one tree under a mask that hides
them from each other, which gives the same numbers as running question and option together.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy

from tasks.evaluate.rows import Exam
from tasks.evaluate.scoring import STEM, Row, Subject, log_probs
from tasks.recipe.failures import DataInvalid

TOLERANCE = 1e-4
"""Largest difference in nats between the tree and the plain sequences for the tree to be used."""
PROBED = 4
"""Questions that are scored both ways before the tree is used for the rest."""


@dataclass(frozen=True)
class ExamScore:
    """One question's outcome: log-likelihood of each option in nats, and the two choices."""

    log_likelihoods: tuple[float, ...]
    choice: int
    choice_unnormalised: int


@dataclass(frozen=True)
class Encoded:
    """A question in tokens: prefix, question and option together, per option.

    Attributes:
        sequences: One per option.
        start: Index from which the tokens belong to the option.
        shared: How many leading tokens all sequences have in common, at most `start`.
    """

    sequences: tuple[tuple[int, ...], ...]
    start: int
    shared: int


def encode(subject: Subject, exam: Exam, prompt: str) -> Encoded:
    """Tokenise a question with each of its options.

    Question and option are tokenised together and the option is what follows the question's own number of
    tokens, as lm-evaluation-harness does. A question too long for the window loses its first tokens.

    Raises:
        DataInvalid: If an option alone does not fit into the model's window.
    """
    context = prompt.replace("{question}", exam.question)
    sequences = [[*subject.prefix, *subject.encode(f"{context} {option}")] for option in exam.options]
    start = min(len(subject.prefix) + len(subject.encode(context)), min(map(len, sequences)) - 1)
    shared = 0
    while shared < start and len({sequence[shared] for sequence in sequences}) == 1:
        shared += 1
    excess = max(map(len, sequences)) - subject.window
    if excess > 0:
        head = len(subject.prefix)
        if shared - excess <= head:
            raise DataInvalid(
                f"question '{exam.key}' has an option that does not fit into the {subject.window} tokens of "
                f"model '{subject.ref}': shorten it, or leave the question out"
            )
        sequences = [[*sequence[:head], *sequence[head + excess :]] for sequence in sequences]
        start, shared = start - excess, shared - excess
    return Encoded(tuple(map(tuple, sequences)), start, shared)


def tree_row(encoded: Encoded) -> Row:
    """All options of a question behind their shared stem, scored in the options' order."""
    tokens = list(encoded.sequences[0][: encoded.shared])
    branches, positions = [STEM] * len(tokens), list(range(len(tokens)))
    scored: list[int] = []
    sources: list[int] = []
    for branch, sequence in enumerate(encoded.sequences):
        begin = len(tokens)
        for position in range(encoded.shared, len(sequence)):
            if position >= encoded.start:
                scored.append(len(tokens))
                sources.append(len(tokens) - 1 if len(tokens) > begin else encoded.shared - 1)
            tokens.append(sequence[position])
            positions.append(position)
            branches.append(branch)
    return Row(tokens, scored, sources, positions, branches)


def plain_rows(encoded: Encoded) -> list[Row]:
    """One sequence per option."""
    return [
        Row(sequence, range(encoded.start, len(sequence)), range(encoded.start - 1, len(sequence) - 1))
        for sequence in encoded.sequences
    ]


def score_tree(
    subject: Subject,
    questions: Sequence[Encoded],
    batch_size: int,
    progress: Callable[[float], None] = lambda done: None,
) -> list[list[float]]:
    """Log-likelihoods per question and option, each question run once."""
    found = []
    scores = log_probs(subject, [tree_row(question) for question in questions], batch_size, progress)
    for question, flat in zip(questions, scores, strict=True):
        ends = numpy.cumsum([len(sequence) - question.start for sequence in question.sequences])
        found.append([float(part.sum()) for part in numpy.split(flat, ends[:-1])])
    return found


def score_plain(
    subject: Subject,
    questions: Sequence[Encoded],
    batch_size: int,
    progress: Callable[[float], None] = lambda done: None,
) -> list[list[float]]:
    """Log-likelihoods per question and option, each option run with the whole question."""
    rows = [row for question in questions for row in plain_rows(question)]
    flat = iter(log_probs(subject, rows, batch_size, progress))
    return [[float(next(flat).sum()) for _ in question.sequences] for question in questions]


def honours_tree(subject: Subject, questions: Sequence[Encoded]) -> bool:
    """Whether the architecture gives the tree the same scores as plain sequences, tried on a few questions.

    Recurrent models, position biases built from the mask and windowed attention do not.
    """
    takes_positions = "position_ids" in inspect.signature(subject.model.forward).parameters
    if not takes_positions or not getattr(subject.model, "_supports_sdpa", False):
        return False
    probed = questions[:PROBED]
    tree, plain = score_tree(subject, probed, 1), score_plain(subject, probed, 1)
    return all(
        abs(one - other) <= TOLERANCE
        for pair in zip(tree, plain, strict=True)
        for one, other in zip(*pair, strict=True)
    )


def score_exams(
    subject: Subject,
    exams: Sequence[Exam],
    prompt: str,
    batch_size: int,
    progress: Callable[[float], None] = lambda done: None,
) -> tuple[list[ExamScore], str]:
    """Score every question.

    Args:
        subject: The model.
        exams: The set.
        prompt: The text before an option, with `{question}` in it; a space joins the two.
        batch_size: Most questions in a batch.
        progress: Called with the share done.

    Returns:
        The scores, and how questions were run, in words for the manifest.
    """
    questions = [encode(subject, exam, prompt) for exam in exams]
    if honours_tree(subject, questions):
        how, found = (
            "question once, options as branches",
            score_tree(subject, questions, batch_size, progress),
        )
    else:
        how, found = "question with each option", score_plain(subject, questions, batch_size, progress)
    scores = []
    for exam, values in zip(exams, found, strict=True):
        per_byte = [value / len(o.encode()) for value, o in zip(values, exam.options, strict=True)]
        scores.append(ExamScore(tuple(values), int(numpy.argmax(per_byte)), int(numpy.argmax(values))))
    return scores, how
