"""What a measure is: it turns the rows of a set under one model into columns of numbers, and says which figures
follow from the columns.

Columns are kept per item (parquet), and every figure, interval, gate and comparison is computed from them, never
from the model again. A measure is one file of tasks/evaluate/measures/ and one line of its table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy

from tasks.stage import Input

Array = numpy.ndarray[Any, numpy.dtype[numpy.float64]]
"""Numbers in float64."""

Columns = Mapping[str, Array]
"""Name -> one number per item, shape (N,), or a fixed number of them, (N, K). NaN where an item has none."""

Estimate = Callable[[Columns, Array], Array]
"""From one model's columns and weights_RN (how often each item counts in each of R resamples; one row of ones is
the set itself) to the R values of a figure. NaN where a resample has no value."""

Contrast = Callable[[Columns, Columns, Array], Array]
"""The same for two models, the candidate's columns first: flips, inconsistency."""

Better = Literal["higher", "lower"]


class Keyed(Protocol):
    """A row of a set."""

    @property
    def key(self) -> str:
        """Names the row within its set."""

    @property
    def group(self) -> str:
        """The slice it belongs to (a dialect, a topic, a date), or ""."""


@dataclass(frozen=True)
class Figure:
    """A number about one model on one set; its difference between models is computed for it.

    Attributes:
        name: As gates and the report call it: `<set>.<name>`.
        better: Which way is better.
        unit: For people, "" for a share.
        doc: One line for the report and the catalogue.
        of: How it follows from the columns.
    """

    name: str
    better: Better
    unit: str
    doc: str
    of: Estimate


@dataclass(frozen=True)
class Comparison:
    """A number about the candidate and another model on one set: negative flips. It has no value of its own."""

    name: str
    better: Better
    unit: str
    doc: str
    of: Contrast


@dataclass(frozen=True)
class Measure:
    """One way to measure a model on a set.

    Attributes:
        name: Its name in the manifest and in the table of items.
        version: Raised whenever the same model and set would give other columns.
        settings: The names of the options that the columns depend on; they are part of the manifest. Options
            that change speed alone (batch_size) are not among them.
        read: The rows of a set, checked; at most the given number.
        score: The columns of the rows under a model. Deterministic in (model, rows, options, seed), and up to
            rounding independent of batch_size.
        figures: What follows for one model.
        comparisons: What follows for two.
        shown: What a person sees of a row in the restricted report: heading -> text.
        doc: One line.
        paper: The source, or "".
        applies: Whether the options ask for it at all (few-shot curves only where shots are given).
    """

    name: str
    version: int
    settings: tuple[str, ...]
    read: Callable[[Input, int | None], Sequence[Any]]
    score: Callable[[Any, Sequence[Any], Any, int, Callable[[float], None]], Columns]
    figures: tuple[Figure, ...]
    comparisons: tuple[Comparison, ...]
    shown: Callable[[Any], Mapping[str, str]]
    doc: str
    paper: str = ""
    applies: Callable[[Any], bool] = lambda options: True


def ratio(top: str, bottom: str | None = None) -> Estimate:
    """The ratio of two columns' sums, or the mean of one: bits over bytes, right answers over questions.

    Items whose top is NaN are left out.
    """

    def estimate(columns: Columns, weights_RN: Array) -> Array:
        tops_N = columns[top]
        bottoms_N = numpy.ones_like(tops_N) if bottom is None else columns[bottom]
        there_N = numpy.isfinite(tops_N)
        totals_R = weights_RN[:, there_N] @ bottoms_N[there_N]
        with numpy.errstate(divide="ignore", invalid="ignore"):
            values_R: Array = (weights_RN[:, there_N] @ tops_N[there_N]) / totals_R
        return numpy.where(totals_R > 0, values_R, numpy.nan)

    return estimate
