"""The score of a model on one set, per item: bits per byte of documents or of answers, or right exams."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy

from tasks.evaluate.bits_per_byte import score_documents
from tasks.evaluate.measure import Array, Better
from tasks.evaluate.multiple_choice import score_exams
from tasks.evaluate.options import SuiteOptions
from tasks.evaluate.probes.models import Progress
from tasks.evaluate.probes.preferences import supervised
from tasks.evaluate.rows import Document, Exam, read_documents, read_exams
from tasks.evaluate.scoring import Row, Subject, log_probs
from tasks.recipe.failures import DataInvalid
from tasks.stage import Input
from tasks.training.render import render, require_template
from tasks.training.rows import read_rows

EXAM_PROMPT = SuiteOptions().exam_prompt
"""The suite's default."""


@dataclass(frozen=True)
class ScoredSet:
    """A set that models are scored on: one of the three lists has rows.

    Attributes:
        keys: Its items.
        better: Which way its score is better.
        unit: Of the score.
        sizes_N: What the score divides by: bytes of a document or of answers, 1 for a question.
    """

    keys: Sequence[str]
    better: Better
    unit: str
    sizes_N: Array
    documents: Sequence[Document] = ()
    exams: Sequence[Exam] = ()
    chats: Sequence[Mapping[str, Any]] = ()


def read_scored(item: Input, limit: int) -> ScoredSet:
    """The first rows of a set of documents, exams or chats.

    Raises:
        DataInvalid: The set is empty or a row is broken.
    """
    if item.kind == "exams":
        exams = read_exams(item, limit)
        return ScoredSet([exam.key for exam in exams], "higher", "", numpy.ones(len(exams)), exams=exams)
    if item.kind == "chats":
        chats = list(read_rows(item.path))[:limit]
        if not chats:
            raise DataInvalid(f"set '{item.ref}' is empty: nothing can be measured on it")
        broken = [number for number, chat in enumerate(chats, 1) if not _answers(chat)]
        if broken:
            raise DataInvalid(f"set '{item.ref}': line {broken[0]} has no messages with an answer")
        sizes = numpy.array([float(len(_answers(chat).encode())) for chat in chats])
        return ScoredSet([str(chat["key"]) for chat in chats], "lower", "bits/byte", sizes, chats=chats)
    documents = read_documents(item, limit)
    sizes = numpy.array([float(len(document.text.encode())) for document in documents])
    keys = [document.key for document in documents]
    return ScoredSet(keys, "lower", "bits/byte", sizes, documents=documents)


def score(subject: Subject, scored: ScoredSet, batch_size: int, progress: Progress) -> Array:
    """Bits of every document or of a conversation's answers; or 1 for a right answer and 0 for a wrong one.

    Raises:
        ConfigInvalid: There are conversations and the model has no chat template.
        DataInvalid: A row cannot be rendered or does not fit into the model's window.
    """
    if scored.documents:
        found = score_documents(subject, scored.documents, batch_size, None, progress)
        return numpy.array([each.nats / math.log(2) for each in found])
    if scored.chats:
        rows = [_row(subject, chat) for chat in scored.chats]
        scores = log_probs(subject, rows, batch_size, progress)
        return numpy.array([-float(each.sum()) / math.log(2) for each in scores])
    answers, _ = score_exams(subject, scored.exams, EXAM_PROMPT, batch_size, progress)
    return numpy.array(
        [float(given.choice == exam.answer) for given, exam in zip(answers, scored.exams, strict=True)]
    )


def _answers(chat: Mapping[str, Any]) -> str:
    """What the assistant says, and so what is scored; how an answer ends costs bits and has no bytes."""
    messages = chat.get("messages", [])
    return "".join(message["content"] for message in messages if message["role"] == "assistant")


def _row(subject: Subject, chat: Mapping[str, Any]) -> Row:
    """A conversation with its answers to be scored."""
    require_template(subject.tokenizer, f"model '{subject.ref}'")
    rendered = render(subject.tokenizer, chat["messages"], str(chat["key"]))
    if len(rendered.input_ids) > subject.window:
        raise DataInvalid(
            f"conversation '{chat['key']}' has {len(rendered.input_ids)} tokens and model '{subject.ref}' is "
            f"given {subject.window}; raise max_length, or leave it out"
        )
    at = supervised(rendered)
    return Row(rendered.input_ids, at, [position - 1 for position in at])
