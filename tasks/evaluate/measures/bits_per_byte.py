"""Bits per byte of the documents of a set; a set stands for one source and date, or has them as groups."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy

from tasks.evaluate.bits_per_byte import score_documents
from tasks.evaluate.measure import Columns, Figure, Measure, ratio
from tasks.evaluate.options import SuiteOptions
from tasks.evaluate.rows import Document, read_documents
from tasks.evaluate.scoring import Subject


def score(
    subject: Subject,
    rows: Sequence[Document],
    options: SuiteOptions,
    seed: int,
    progress: Callable[[float], None],
) -> Columns:
    """Nats, tokens and UTF-8 bytes of every document."""
    found = score_documents(subject, rows, options.batch_size, options.stride, progress, options.batch_tokens)
    return {
        "nats": numpy.array([each.nats for each in found]),
        "tokens": numpy.array([float(each.tokens) for each in found]),
        "bytes": numpy.array([float(each.bytes) for each in found]),
    }


def shown(row: Document) -> Mapping[str, str]:
    """The document."""
    return {"text": row.text}


MEASURE = Measure(
    name="bits_per_byte",
    version=1,
    settings=("stride",),
    read=read_documents,
    score=score,
    figures=(
        Figure(
            "bits_per_byte",
            "lower",
            "bits/byte",
            "bits that the model needs for a byte of the text",
            ratio("nats", "bytes", 1 / math.log(2)),
        ),
    ),
    comparisons=(),
    shown=shown,
    doc="What the text costs under the model, comparable between tokenizers.",
    paper="Gao et al. 2020, The Pile, arXiv:2101.00027, section 3.1",
)
