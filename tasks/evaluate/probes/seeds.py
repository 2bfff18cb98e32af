"""The spread over seeds: how far a figure of a probe that trains depends on luck.

An interval over items does not hold it, for all items are scored after the same trainings. Samples of
generation need none: each item is drawn with random numbers of its own, so that its luck is in the interval.

Shapes: N items, S seeds, R resamples of the items.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy

from tasks.evaluate.measure import Array, Columns, Figure

SPREAD = "_spread"
"""Behind a figure's name: its standard deviation over seeds."""


def spread_over_seeds(figure: str, column: str, seeds: int, unit: str, bottom: str | None = None) -> Figure:
    """The figure that says how far another one differs between seeds.

    Args:
        figure: The other one's name.
        column: What it is computed from, a number per item and seed, (N, S).
        seeds: How many there are, for the words.
        unit: Of the figure.
        bottom: The column whose sum divides, (N,); the number of items where None.
    """

    def spread(columns: Columns, weights_RN: Array) -> Array:
        there_N = numpy.isfinite(columns[column].sum(axis=1))
        tops_NS = numpy.where(there_N[:, None], columns[column], 0.0)
        sizes_N = numpy.where(there_N, 1.0 if bottom is None else columns[bottom], 0.0)
        with numpy.errstate(divide="ignore", invalid="ignore"):
            values_RS = (weights_RN @ tops_NS) / (weights_RN @ sizes_N)[:, None]
        found_R: Array = values_RS.std(axis=1, ddof=1)
        return found_R

    doc = f"how far {figure} differs between {seeds} seeds: its standard deviation"
    return Figure(f"{figure}{SPREAD}", "lower", unit, doc, spread)


def within_spread(
    columns: Mapping[str, Columns], figures: Sequence[Figure], names: Sequence[str]
) -> Iterator[str]:
    """A note for every difference between models that is no larger than what another seed changes.

    Args:
        columns: Role -> columns.
        figures: The probe's, the spreads among them.
        names: The figures that have a spread.
    """
    known = {figure.name: figure.of for figure in figures}
    for role, other in columns.items():
        own = columns["model"]
        if role == "model" or other is own:
            continue
        for name in names:
            once_N = numpy.ones((1, len(next(iter(own.values())))))
            apart = float(known[name](own, once_N)[0] - known[name](other, once_N)[0])
            spread = max(float(known[f"{name}{SPREAD}"](each, once_N)[0]) for each in (own, other))
            if abs(apart) <= spread:
                yield (
                    f"{name}: the difference from the {role} ({apart:+.3g}) is no larger than the spread "
                    f"over seeds ({spread:.3g})"
                )
