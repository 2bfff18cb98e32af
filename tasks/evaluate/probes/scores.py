"""The score of a model on one set, per item: bits per byte of documents, or right answers of exams."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy

from tasks.evaluate.bits_per_byte import score_documents
from tasks.evaluate.measure import Array, Better
from tasks.evaluate.multiple_choice import score_exams
from tasks.evaluate.options import SuiteOptions
from tasks.evaluate.probes.models import Progress
from tasks.evaluate.rows import Document, Exam, read_documents, read_exams
from tasks.evaluate.scoring import Subject
from tasks.stage import Input

EXAM_PROMPT = SuiteOptions().exam_prompt
"""The suite's default."""


@dataclass(frozen=True)
class ScoredSet:
    """A set that models are scored on.

    Attributes:
        keys: Its items.
        better: Which way its score is better.
        unit: Of the score.
        rows: Its documents or its questions.
    """

    keys: Sequence[str]
    better: Better
    unit: str
    rows: Sequence[Document] | Sequence[Exam]


def read_scored(item: Input, limit: int) -> ScoredSet:
    """The first rows of a set of documents or exams.

    Raises:
        DataInvalid: The set is empty or a row is broken.
    """
    if item.kind == "exams":
        exams = read_exams(item, limit)
        return ScoredSet([exam.key for exam in exams], "higher", "", exams)
    documents = read_documents(item, limit)
    return ScoredSet([document.key for document in documents], "lower", "bits/byte", documents)


def sizes(scored: ScoredSet) -> Array:
    """What the score divides by, per item: bytes of a document, 1 for a question."""
    return numpy.array(
        [float(len(row.text.encode())) if isinstance(row, Document) else 1.0 for row in scored.rows]
    )


def score(subject: Subject, scored: ScoredSet, batch_size: int, progress: Progress) -> Array:
    """Bits of every document, or 1 for a right answer and 0 for a wrong one."""
    documents = [row for row in scored.rows if isinstance(row, Document)]
    if documents:
        found = score_documents(subject, documents, batch_size, None, progress)
        return numpy.array([each.nats for each in found]) / numpy.log(2)
    exams = [row for row in scored.rows if isinstance(row, Exam)]
    answers, _ = score_exams(subject, exams, EXAM_PROMPT, batch_size, progress)
    return numpy.array(
        [float(given.choice == exam.answer) for given, exam in zip(answers, exams, strict=True)]
    )
