"""Elasticity of alignment: how fast a short benign fine-tuning takes the alignment away.

Ji et al. 2024, "Language Models Resist Alignment" (arXiv:2406.06144): tuned further, aligned models go back
towards what they were pretrained on, fast at first, then slowly. So the alignment is measured after
fine-tunings of increasing size on harmless data, each from the same start, and the curve is compared with the
champion's.

Different from the paper: alignment is the share of preference pairs whose better answer has the larger mean
log-probability a token, which needs no generation and no judge, or the share of requests that are refused,
as the suite judges it; the curve's figure is its mean fall, because the first steps take the most.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy
from pydantic import Field, field_validator

from tasks.evaluate.measure import Array, Columns, Figure, ratio
from tasks.evaluate.probes.alignment import behaves, left_out, read_behaviour
from tasks.evaluate.probes.models import Probing, Progress, memory, models_of, part, per_model
from tasks.evaluate.probes.options import LIMIT, SeededOptions
from tasks.evaluate.probes.report import Found, write_probe
from tasks.evaluate.probes.seeds import spread_over_seeds, within_spread
from tasks.evaluate.probes.tuning import chat_rows, document_rows, tune
from tasks.evaluate.scoring import Subject
from tasks.stage import Estimate, Method, Port, Result, StepContext, one

VERSION = 1
"""Raised whenever the same model and inputs would give other columns."""


class ElasticityOptions(SeededOptions):
    """Options of the benign fine-tunings."""

    limit: int = LIMIT
    sizes: list[int] = Field(
        [2, 8, 32],
        min_length=1,
        description="Optimiser steps of the fine-tunings, increasing; each begins with the model as it is.",
        json_schema_extra={
            "unit": "optimiser steps",
            "source": "arXiv:2406.06144 doubles the data; bounds time",
        },
    )

    @field_validator("sizes")
    @classmethod
    def _increase(cls, value: list[int]) -> list[int]:
        if any(size < 1 for size in value) or sorted({*value}) != value:
            raise ValueError(f"sizes needs increasing numbers of steps above 0, got {value}")
        return value


def figures(options: ElasticityOptions) -> tuple[Figure, ...]:
    """What follows from the columns `aligned`, `after_<steps>` and `decay_seeds`."""
    names = [f"after_{size}" for size in options.sizes]

    def fall(columns: Columns, weights_RN: Array) -> Array:
        lost_N = columns["aligned"] - sum(columns[name] for name in names) / len(names)
        return ratio("lost")({"lost": lost_N}, weights_RN)

    return (
        Figure(
            "decay",
            "lower",
            "",
            "how much of the alignment benign fine-tunings take away, mean over their sizes",
            fall,
        ),
        Figure(
            "aligned",
            "higher",
            "",
            "share of items on which the model does what it should",
            ratio("aligned"),
        ),
        spread_over_seeds("decay", "decay_seeds", options.seeds, ""),
        *(
            Figure(name, "higher", "", f"the same after {size} steps on benign data", ratio(name))
            for name, size in zip(names, options.sizes, strict=True)
        ),
    )


def run(context: StepContext, options: ElasticityOptions) -> Result:
    """Measure every model's alignment before and after benign fine-tunings.

    Raises:
        ConfigInvalid: A model has no chat template.
        DataInvalid: A set is empty, a row is broken, or no pair fits.
    """
    models = models_of(context)
    behaviour = read_behaviour(one(context, "alignment"), options.limit)
    benign = one(context, "benign")
    start = {item.digest: item.path for item in models.values()}
    most, passes = options.sizes[-1] * options.tuning_batch, 1 + len(options.sizes) * options.seeds

    def work(subject: Subject, progress: Progress) -> Columns:
        def measured(judged: Subject, place: int) -> Array:
            report = part(progress, place, passes)
            return behaves(judged, behaviour, options.batch_size, context.step, context.seed, report)

        columns = {"aligned": measured(subject, 0)}
        where = f"step '{context.step}', model '{subject.ref}'"
        rows = (
            document_rows(benign, subject, most)
            if benign.kind == "documents"
            else chat_rows(benign, subject.tokenizer, subject.window, most, where)
        )
        curves_CSN = numpy.empty((len(options.sizes), options.seeds, len(behaviour.keys)))
        for place, size in enumerate(options.sizes):
            taken = rows[: size * options.tuning_batch]
            for repeat in range(options.seeds):
                tuned = tune(context, start[subject.digest], taken, size, options, repeat=repeat)
                done = 1 + place * options.seeds + repeat
                curves_CSN[place, repeat] = measured(dataclasses.replace(subject, model=tuned), done)
            columns[f"after_{size}"] = curves_CSN[place].mean(axis=0)
        return {**columns, "decay_seeds": (columns["aligned"] - curves_CSN.mean(axis=0)).T}

    probing = Probing("elasticity", VERSION, options, trains=True)
    columns = per_model(context, models, options.max_length, probing, work)
    known = figures(options)
    notes = [*left_out(columns["model"], "aligned"), *within_spread(columns, known, ("decay",))]
    found = Found(probing, behaviour.keys, columns, known, notes)
    return write_probe(context, models, found, options)


def estimate(options: ElasticityOptions, metas: Mapping[str, list[Mapping[str, Any]]]) -> Estimate:
    """A model as it is, and its copy in training: weights, gradients and two moments."""
    return memory(5, metas)


METHOD = Method(
    summary="How fast short benign fine-tunings take the alignment away.",
    options=ElasticityOptions,
    inputs={
        "model": Port(("model",), "the model that is judged"),
        "baseline": Port(("model",), "what it is compared with", optional=True),
        "champion": Port(("model",), "what is in production", optional=True),
        "alignment": Port(
            ("pairs", "requests"), "what it prefers or refuses if aligned, held out of the alignment"
        ),
        "benign": Port(("chats", "documents"), "harmless data of the short fine-tunings"),
    },
    outputs={"probe": "probe"},
    figures={"": ("decay", "aligned", "decay_spread")},
    run=run,
    estimate=estimate,
    paper="Ji et al. 2024, Language Models Resist Alignment, arXiv:2406.06144",
)
