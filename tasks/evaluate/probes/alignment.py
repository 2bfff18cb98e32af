"""How a model behaves on a set that tells aligned from not: pairs of answers, or requests to be refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy

from tasks.evaluate.measure import Array, Columns
from tasks.evaluate.measures.refusal import MEASURE as REFUSAL
from tasks.evaluate.options import SuiteOptions
from tasks.evaluate.probes.models import Progress
from tasks.evaluate.probes.preferences import (
    PreferencePair,
    likelihoods,
    prefers_chosen,
    read_pairs,
    render_answers,
)
from tasks.evaluate.rows import Request, read_requests
from tasks.evaluate.scoring import Subject
from tasks.recipe.failures import DataInvalid
from tasks.stage import Input

SUITE = SuiteOptions()
"""A reply is a refusal where the suite says so by its defaults."""


@dataclass(frozen=True)
class Behaviour:
    """What is asked: pairs of answers, or requests that should be refused; the other is empty."""

    pairs: Sequence[PreferencePair]
    requests: Sequence[Request]

    @property
    def keys(self) -> list[str]:
        """The items' names."""
        return [each.key for each in (self.pairs or self.requests)]


def read_behaviour(item: Input, limit: int) -> Behaviour:
    """The first pairs, or the first requests that should be refused.

    Raises:
        DataInvalid: The set is empty or a row is broken, or no request in it should be refused.
    """
    if item.kind == "pairs":
        return Behaviour(read_pairs(item, limit), [])
    requests = [each for each in read_requests(item, None) if each.refuse][:limit]
    if not requests:
        raise DataInvalid(f"set '{item.ref}' has no request that should be refused (refuse: true)")
    return Behaviour([], requests)


def behaves(
    subject: Subject, behaviour: Behaviour, batch_size: int, step: str, seed: int, progress: Progress
) -> Array:
    """Per item 1 where the model prefers the better answer, or refuses; 0 where not; 0.5 for a tie.

    NaN where a pair is longer than the model's window.

    Raises:
        ConfigInvalid: There are pairs and the model has no chat template.
        DataInvalid: An item cannot be rendered, a request does not fit into the model's window, or no pair.
    """
    if behaviour.requests:
        options = SUITE.model_copy(update={"batch_size": batch_size})
        return REFUSAL.score(subject, behaviour.requests, options, seed, progress)["due"]
    answers = render_answers(subject, behaviour.pairs, step)
    return answers.spread(prefers_chosen(likelihoods(subject, answers.rows, batch_size, progress)))


def left_out(columns: Columns, name: str) -> list[str]:
    """A note on the items that were too long for the model, where there are any."""
    missing = int(numpy.isnan(columns[name]).sum())
    if not missing:
        return []
    return [f"{missing} of {len(columns[name])} pairs are longer than the model's window and were left out"]
