"""What a measure is: from the rows of a set under one model columns of numbers, and from these the figures.

Columns are kept per item (parquet), and every figure, interval, gate and comparison is computed from them,
never from the model again. A measure is one file of tasks/evaluate/measures/ and one line of its table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast

import numpy

from tasks.stage import Input

Array = numpy.ndarray[Any, numpy.dtype[numpy.float64]]
"""Numbers in float64."""

Columns = Mapping[str, Array]
"""Name -> one number per item, shape (N,), or a fixed number of them, (N, K). NaN where an item has none.

A column of `texts` is what a model said; figures are computed from numbers alone.
"""


def texts(said: Sequence[Any] | numpy.ndarray[Any, Any]) -> Array:
    """A column of texts, (N,) or (N, K): what a model said, for restricted eyes.

    Args:
        said: A text per item, or the same number of texts for each.
    """
    return cast(Array, numpy.array(said, dtype=object))


def is_text(column: Array) -> bool:
    """Whether a column holds texts."""
    return column.dtype == object


Estimate = Callable[[Columns, Array], Array]
"""From one model's columns and weights_RN (how often each item counts in each of R resamples; one row of ones
is the set itself) to the R values of a figure. NaN where a resample has no value."""

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
        applies: Whether the options ask for it (the accuracy at four shots only where four are among them).
        asked: How many items it follows from; where None, those with a number (`Ratio`), or all.
    """

    name: str
    better: Better
    unit: str
    doc: str
    of: Estimate
    applies: Callable[[Any], bool] = lambda options: True
    asked: Callable[[Columns], int] | None = None


@dataclass(frozen=True)
class Comparison:
    """A number about the candidate and another model on one set (negative flips); neither has it alone."""

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
        said: What a model said of the row at a place, from its columns, for the restricted report.
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
    said: Callable[[Any, Columns, int], str] | None = None


@dataclass(frozen=True)
class Ratio:
    """The ratio of two columns' sums, or the mean of one: bits over bytes, right answers over questions.

    Items whose top is NaN are left out. An `Estimate`.

    Attributes:
        top: The column that is summed.
        bottom: The one that it is divided by; the number of items where None.
        factor: What the ratio is multiplied with, for another unit.
    """

    top: str
    bottom: str | None = None
    factor: float = 1.0

    def __call__(self, columns: Columns, weights_RN: Array) -> Array:
        """The ratio in every resample; NaN where nothing was drawn."""
        tops_N = columns[self.top]
        there_N = numpy.isfinite(tops_N)
        bottoms_N = numpy.ones_like(tops_N) if self.bottom is None else columns[self.bottom]
        totals_R = weights_RN @ numpy.where(there_N, bottoms_N, 0.0)
        with numpy.errstate(divide="ignore", invalid="ignore"):
            values_R: Array = (weights_RN @ numpy.where(there_N, tops_N, 0.0)) / totals_R * self.factor
        return numpy.where(totals_R > 0, values_R, numpy.nan)

    def outcomes(self, columns: Columns) -> Array | None:
        """Right (1) or wrong (0) per item, NaN where it has none; None for a figure of another sort."""
        if self.bottom is not None or self.factor != 1.0:
            return None
        return _outcomes(columns[self.top])


@dataclass(frozen=True)
class Share:
    """The share of items of which something is true about two models. A `Contrast`.

    Attributes:
        true_of: From both models' columns, 1 or 0 per item, NaN where the question does not arise.
        column: The column of rights and wrongs that it is about, where it is about one.
    """

    true_of: Callable[[Columns, Columns], Array]
    column: str = ""

    def __call__(self, columns: Columns, other: Columns, weights_RN: Array) -> Array:
        """The share in every resample."""
        return Ratio("true")({"true": self.true_of(columns, other)}, weights_RN)

    def outcomes(self, columns: Columns, other: Columns) -> Array | None:
        """As `Ratio.outcomes`."""
        return _outcomes(self.true_of(columns, other))


def asked(figure: Figure, columns: Columns) -> int:
    """How many items a figure follows from: requests that should be refused, of all requests."""
    if figure.asked is not None:
        return figure.asked(columns)
    if isinstance(figure.of, Ratio):
        return int(numpy.isfinite(columns[figure.of.top]).sum())
    return len(next(iter(columns.values())))


def ratio(top: str, bottom: str | None = None, factor: float = 1.0) -> Ratio:
    """The ratio of two columns' sums times a factor, or the mean of one column."""
    return Ratio(top, bottom, factor)


def flips(right: str, was: bool) -> Share:
    """The share of items that the other model has right and the candidate wrong (`was`), or the reverse."""

    def changed(columns: Columns, other: Columns) -> Array:
        now_N, then_N = columns[right], other[right]
        flipped_N = (then_N == float(was)) & (now_N == float(not was))
        return numpy.where(numpy.isfinite(now_N + then_N), flipped_N.astype(numpy.float64), numpy.nan)

    return Share(changed, right)


def _outcomes(column_N: Array) -> Array | None:
    known_N = column_N[numpy.isfinite(column_N)]
    return column_N if numpy.isin(known_N, (0.0, 1.0)).all() else None
