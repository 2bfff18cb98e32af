"""Put scores together into report.json and the tables of items."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy
import pyarrow
import pyarrow.parquet

from tasks.evaluate.bits_per_byte import DocumentScore
from tasks.evaluate.bootstrap import Array, Comparison, Difference, Interval, compare
from tasks.evaluate.multiple_choice import ExamScore
from tasks.evaluate.rows import Document, Exam
from tasks.stage import Input

Measure = Literal["bits_per_byte", "accuracy"]
ROLES = ("model", "baseline", "champion")
"""The models of a report; the first is the one that the report is about."""


@dataclass(frozen=True)
class SetScores:
    """One set's outcome for every model that is there.

    Attributes:
        name: The set's name.
        measure: What its value is.
        items: Its rows.
        scores: Role -> score of each item, in the items' order.
    """

    name: str
    measure: Measure
    items: Sequence[Document] | Sequence[Exam]
    scores: Mapping[str, Sequence[DocumentScore] | Sequence[ExamScore]]


def set_entry(found: SetScores, seed: int, resamples: int, confidence: float) -> dict[str, Any]:
    """The set's entry of report.json: values with intervals, and the paired differences."""
    sums: dict[str, Array] = {}
    extra: dict[str, dict[str, float]] = {}
    sizes = numpy.ones(len(found.items))
    for role, scores in found.scores.items():
        if found.measure == "bits_per_byte":
            documents = [score for score in scores if isinstance(score, DocumentScore)]
            sums[role] = numpy.array([score.nats / math.log(2) for score in documents])
            sizes = numpy.array([float(score.bytes) for score in documents])
            extra[role] = {"tokens": sum(score.tokens for score in documents)}
        else:
            answers = [item.answer for item in found.items if isinstance(item, Exam)]
            exams = [score for score in scores if isinstance(score, ExamScore)]
            right = [score.choice == answer for score, answer in zip(exams, answers, strict=True)]
            plain = [
                score.choice_unnormalised == answer for score, answer in zip(exams, answers, strict=True)
            ]
            sums[role] = numpy.array(right, dtype=numpy.float64)
            extra[role] = {"unnormalised": sum(plain) / len(plain)}
    compared = compare(sums, sizes, name=found.name, seed=seed, resamples=resamples, confidence=confidence)
    return {
        "name": found.name,
        "measure": found.measure,
        "better": "lower" if found.measure == "bits_per_byte" else "higher",
        "items": len(found.items),
        "values": {
            role: {**_interval(compared.values[role]), **extra[role]} if role in sums else None
            for role in ROLES
        },
        "against": {role: _difference(compared, role) for role in ROLES[1:]},
    }


def _interval(interval: Interval) -> dict[str, float]:
    return {"value": interval.value, "low": interval.low, "high": interval.high}


def _difference(compared: Comparison, role: str) -> dict[str, float | None] | None:
    found: Difference | None = compared.differences.get(role)
    if found is None:
        return None
    return {
        "difference": found.absolute.value,
        "low": found.absolute.low,
        "high": found.absolute.high,
        "relative": found.relative.value if found.relative else None,
        "relative_low": found.relative.low if found.relative else None,
        "relative_high": found.relative.high if found.relative else None,
    }


def model_entries(inputs: Mapping[str, Input]) -> dict[str, dict[str, str] | None]:
    """The models of the report by role; None for one that is not there."""
    return {
        role: {"digest": inputs[role].digest, "ref": inputs[role].ref} if role in inputs else None
        for role in ROLES
    }


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write canonical JSON: the same content gives the same bytes."""
    path.write_text(
        json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8"
    )


def digest(content: Mapping[str, Any]) -> str:
    """sha256 of the content as canonical JSON."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def plain_name(name: str) -> str:
    """A set's name for file and metric names: a set given by address keeps letters, digits, `_`, `.`, `-`."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", name)


def write_items(directory: Path, found: SetScores) -> None:
    """One parquet file a set: a row per item, columns per model; keys only, no text."""
    columns: dict[str, Any] = {"key": [item.key for item in found.items]}
    if found.measure == "accuracy":
        columns["answer"] = [item.answer for item in found.items if isinstance(item, Exam)]
    for role, scores in found.scores.items():
        for score_column in _columns(scores):
            columns[f"{role}.{score_column}"] = [getattr(score, score_column) for score in scores]
    directory.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table(columns), directory / f"{plain_name(found.name)}.parquet")


def _columns(scores: Sequence[DocumentScore] | Sequence[ExamScore]) -> tuple[str, ...]:
    if isinstance(scores[0], DocumentScore):
        return ("nats", "tokens", "bytes")
    return ("log_likelihoods", "choice", "choice_unnormalised")
