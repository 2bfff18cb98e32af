"""Options by their log-likelihood after a text.

The text is run once: its options follow it as the branches of one tree under a mask that hides them from each
other, which gives the same numbers as running text and option together.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy

from tasks.evaluate.rows import Exam
from tasks.evaluate.scoring import BATCH_TOKENS, STEM, Row, Subject, log_probs
from tasks.recipe.failures import DataInvalid

TOLERANCE = 1e-4
"""Largest difference in nats between the tree and the plain sequences for the tree to be used."""
TREE, PLAIN = "question once, options as branches", "question with each option"


@dataclass(frozen=True)
class Asked:
    """A text and the options that may follow it; a space joins them.

    Attributes:
        key: Names the item in errors.
        context: What comes before an option, whole: prompt, question, examples.
        options: What is scored.
    """

    key: str
    context: str
    options: tuple[str, ...]


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


def asked(exam: Exam, prompt: str) -> Asked:
    """A question in a prompt, with its options."""
    return Asked(exam.key, prompt.replace("{question}", exam.question), exam.options)


def encode(subject: Subject, questions: Sequence[Asked]) -> list[Encoded]:
    """Tokenise every text with each of its options.

    Text and option are tokenised together and the option is what follows the text's own number of tokens, as
    lm-evaluation-harness does. A text too long for the window loses its first tokens.

    Raises:
        DataInvalid: If an option alone does not fit into the model's window.
    """
    texts = []
    for question in questions:
        texts += [question.context, *(f"{question.context} {option}" for option in question.options)]
    ids = iter(subject.encode_all(texts))
    return [
        _encoded(subject, question, next(ids), [next(ids) for _ in question.options])
        for question in questions
    ]


def _encoded(subject: Subject, question: Asked, context: list[int], wholes: list[list[int]]) -> Encoded:
    sequences = [[*subject.prefix, *whole] for whole in wholes]
    start = min(len(subject.prefix) + len(context), min(map(len, sequences)) - 1)
    shared = 0
    while shared < start and len({sequence[shared] for sequence in sequences}) == 1:
        shared += 1
    excess = max(map(len, sequences)) - subject.window
    if excess > 0:
        head = len(subject.prefix)
        if shared - excess <= head:
            raise DataInvalid(
                f"question '{question.key}' has an option that does not fit into the {subject.window} tokens "
                f"of model '{subject.ref}': shorten it, or leave the question out"
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
    batch_tokens: int = BATCH_TOKENS,
) -> list[list[float]]:
    """Log-likelihoods per question and option, each question run once."""
    rows = [tree_row(question) for question in questions]
    found = []
    scores = log_probs(subject, rows, batch_size, progress, batch_tokens)
    for question, flat in zip(questions, scores, strict=True):
        ends = numpy.cumsum([len(sequence) - question.start for sequence in question.sequences])
        found.append([float(part.sum()) for part in numpy.split(flat, ends[:-1])])
    return found


def score_plain(
    subject: Subject,
    questions: Sequence[Encoded],
    batch_size: int,
    progress: Callable[[float], None] = lambda done: None,
    batch_tokens: int = BATCH_TOKENS,
) -> list[list[float]]:
    """Log-likelihoods per question and option, each option run with the whole question."""
    rows = [row for question in questions for row in plain_rows(question)]
    flat = iter(log_probs(subject, rows, batch_size, progress, batch_tokens))
    return [[float(next(flat).sum()) for _ in question.sequences] for question in questions]


def takes_tree(subject: Subject) -> bool:
    """Whether the architecture takes positions and a mask of one's own at all; recurrent models do not."""
    takes_positions = "position_ids" in inspect.signature(subject.model.forward).parameters
    return takes_positions and bool(getattr(subject.model, "_supports_sdpa", False))


def tree_holds(subject: Subject, questions: Sequence[Encoded], found: Sequence[Sequence[float]]) -> bool:
    """Whether the tree gave the scores of plain sequences, tried on the last option of the longest question.

    Position biases built from the mask and windowed attention do not. The last branch is the one farthest
    from its place in a plain sequence, and the longest question the one that a window cuts.
    """
    longest = max(range(len(questions)), key=lambda place: max(map(len, questions[place].sequences)))
    plain = log_probs(subject, plain_rows(questions[longest])[-1:], 1)[0].sum()
    return abs(found[longest][-1] - float(plain)) <= TOLERANCE


def score_options(
    subject: Subject,
    questions: Sequence[Asked],
    batch_size: int,
    progress: Callable[[float], None] = lambda done: None,
    batch_tokens: int = BATCH_TOKENS,
) -> tuple[list[list[float]], str]:
    """The log-likelihood of every option of every question in nats, and how they were run (TREE or PLAIN)."""
    encoded = encode(subject, questions)
    if takes_tree(subject):
        found = score_tree(subject, encoded, batch_size, progress, batch_tokens)
        if tree_holds(subject, encoded, found):
            return found, TREE
    return score_plain(subject, encoded, batch_size, progress, batch_tokens), PLAIN


def choose(log_likelihoods: Sequence[float], options: Sequence[str]) -> int:
    """The option with the largest log-likelihood per UTF-8 byte."""
    per_byte = [value / len(o.encode()) for value, o in zip(log_likelihoods, options, strict=True)]
    return int(numpy.argmax(per_byte))


def score_exams(
    subject: Subject,
    exams: Sequence[Exam],
    prompt: str,
    batch_size: int,
    progress: Callable[[float], None] = lambda done: None,
    batch_tokens: int = BATCH_TOKENS,
) -> tuple[list[ExamScore], str]:
    """Score every question.

    Args:
        subject: The model.
        exams: The set.
        prompt: The text before an option, with `{question}` in it; a space joins the two.
        batch_size: Most questions in a batch.
        progress: Called with the share done.
        batch_tokens: Most tokens in a batch, padding included.

    Returns:
        The scores, and how questions were run (TREE or PLAIN).
    """
    questions = [asked(exam, prompt) for exam in exams]
    found, how = score_options(subject, questions, batch_size, progress, batch_tokens)
    scores = [
        ExamScore(tuple(values), choose(values, exam.options), int(numpy.argmax(values)))
        for exam, values in zip(exams, found, strict=True)
    ]
    return scores, how
