"""Tunability: how good the model is after a fixed short fine-tuning, and how it bears noise on its weights.

Springer et al. 2025, "Overtrained Language Models Are Harder to Fine-Tune" (arXiv:2503.19206): with long
training a model's weights become sensitive to any change, so that a better base gives a worse tuned model;
they show it by fine-tuning and by Gaussian noise on the weights. Sun and Dredze 2024, "Amuro and Char"
(arXiv:2408.06663): gains of continual pretraining may be latent until the model is fine-tuned, so that a
checkpoint is judged after a fixed fine-tuning, not before.

The fine-tuning is the trainer's, on the same conversations, steps and rate for every model. Different from
the papers: the noise on a matrix is in proportion to the root mean square of that matrix's own weights, so
that models of different scale compare; norms and biases get none. Both are done with several seeds: scores
are means over them, and the figures `<figure>_spread` say how far they differ, which intervals over items
cannot.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import math
from collections.abc import Mapping
from typing import Any

import numpy
import torch
from pydantic import Field, field_validator

from tasks.evaluate.measure import Array, Columns, Figure, ratio
from tasks.evaluate.probes.models import Probing, Progress, memory, models_of, part, per_model
from tasks.evaluate.probes.options import SeededOptions
from tasks.evaluate.probes.report import Found, write_probe
from tasks.evaluate.probes.scores import ScoredSet, read_scored, score
from tasks.evaluate.probes.seeds import spread_over_seeds, within_spread
from tasks.evaluate.probes.tuning import chat_rows, tune
from tasks.evaluate.scoring import Subject
from tasks.stage import Estimate, Method, Port, Result, StepContext, one

VERSION = 1
"""Raised whenever the same model and inputs would give other columns."""


class TunabilityOptions(SeededOptions):
    """Options of the short fine-tuning and of the noise."""

    limit: int = Field(
        48,
        ge=2,
        description="Most rows of the set that is scored; the first ones are taken.",
        json_schema_extra={"unit": "rows", "source": "bounds time: it is scored once a noise and tuning"},
    )
    steps: int = Field(
        20,
        ge=1,
        description="Optimiser steps of the fine-tuning.",
        json_schema_extra={"unit": "optimiser steps", "source": "bounds time"},
    )
    noise: list[float] = Field(
        [0.01, 0.03, 0.1],
        min_length=1,
        description="Sizes of the noise on each matrix, as shares of the root mean square of its weights.",
        json_schema_extra={
            "unit": "share of weights",
            "source": "arXiv:2503.19206, section 3, sweeps it too",
        },
    )

    @field_validator("noise")
    @classmethod
    def _sizes(cls, value: list[float]) -> list[float]:
        if any(not (math.isfinite(size) and size > 0) for size in value) or len({*value}) < len(value):
            raise ValueError(f"noise needs different sizes above 0, got {value}")
        return value


@torch.no_grad()
def add_noise(model: torch.nn.Module, size: float, seed: int) -> None:
    """Adds Gaussian noise of `size` times its root mean square to every matrix; a function of name and seed.

    Args:
        model: Changed in place; a tied matrix gets one noise.
        size: Standard deviation as a share of the matrix's root mean square.
        seed: Of the noise.
    """
    for name, parameter in model.named_parameters():
        if parameter.dim() < 2:
            continue
        salt = int.from_bytes(hashlib.sha256(f"{name}/{seed}".encode()).digest()[:8], "little") >> 1
        generator = torch.Generator().manual_seed(salt)
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
        parameter.add_(noise.to(parameter.dtype) * (size * parameter.float().square().mean().sqrt()))


def figures(scored: ScoredSet, options: TunabilityOptions) -> tuple[Figure, ...]:
    """What follows from the columns `before_sft`, `after_sft`, `noise_<size>`, `size` and those of seeds."""
    sign = 1.0 if scored.better == "lower" else -1.0

    def worse(columns: Columns, weights_RN: Array) -> Array:
        noisy_N = sum(columns[_noise_column(size)] for size in options.noise) / len(options.noise)
        lost: Array = sign * ratio("lost", "size")(
            {"lost": noisy_N - columns["before_sft"], "size": columns["size"]}, weights_RN
        )
        return lost

    def of(name: str, doc: str) -> Figure:
        return Figure(name, scored.better, scored.unit, doc, ratio(name, "size"))

    return (
        of("after_sft", f"the score after {options.steps} steps of fine-tuning, the same for every model"),
        Figure(
            "sensitivity",
            "lower",
            scored.unit,
            "how much worse the score gets by noise on the weights, mean over its sizes",
            worse,
        ),
        of("before_sft", "the score of the model as it is"),
        spread_over_seeds("after_sft", "after_seeds", options.seeds, scored.unit, "size"),
        spread_over_seeds("sensitivity", "noise_seeds", options.seeds, scored.unit, "size"),
        *(
            of(_noise_column(size), f"the score with noise of {size:g} of each matrix's weights")
            for size in options.noise
        ),
    )


def _noise_column(size: float) -> str:
    return f"noise_{size:g}"


def run(context: StepContext, options: TunabilityOptions) -> Result:
    """Score every model as it is, with noise, and after the fine-tuning.

    Raises:
        ConfigInvalid: A model has no chat template.
        DataInvalid: A set is empty or a row is broken.
    """
    models = models_of(context)
    chats, scored = one(context, "chats"), read_scored(one(context, "score"), options.limit)
    start = {item.digest: item.path for item in models.values()}
    passes = 1 + (1 + len(options.noise)) * options.seeds

    def work(subject: Subject, progress: Progress) -> Columns:
        columns = {"before_sft": score(subject, scored, options.batch_size, part(progress, 0, passes))}
        done = 1
        noises: list[list[Array]] = []
        for size in options.noise:
            drawn = []
            for draw in range(options.seeds):
                noisy = copy.deepcopy(subject.model)
                add_noise(noisy, size, context.seed + draw)
                other = dataclasses.replace(subject, model=noisy)
                drawn.append(score(other, scored, options.batch_size, part(progress, done, passes)))
                done += 1
            columns[_noise_column(size)] = numpy.mean(drawn, axis=0)
            noises.append(drawn)
        columns["noise_seeds"] = numpy.mean(noises, axis=0).T
        where = f"step '{context.step}', model '{subject.ref}'"
        rows = chat_rows(
            chats, subject.tokenizer, subject.window, options.steps * options.tuning_batch, where
        )
        scores = []
        for repeat in range(options.seeds):
            tuned = tune(context, start[subject.digest], rows, options.steps, options, repeat=repeat)
            after = dataclasses.replace(subject, model=tuned)
            scores.append(score(after, scored, options.batch_size, part(progress, done, passes)))
            done += 1
        columns["after_sft"], columns["after_seeds"] = numpy.mean(scores, axis=0), numpy.array(scores).T
        return {**columns, "size": scored.sizes_N}

    probing = Probing("tunability", VERSION, options, trains=True)
    columns = per_model(context, models, options.max_length, probing, work)
    found = Found(probing, scored.keys, columns, figures(scored, options))
    notes = [*within_spread(columns, found.figures, ("after_sft", "sensitivity"))]
    return write_probe(context, models, dataclasses.replace(found, notes=notes), options)


def estimate(options: TunabilityOptions, metas: Mapping[str, list[Mapping[str, Any]]]) -> Estimate:
    """A model as it is, and its copy in training: weights, gradients and two moments."""
    return memory(5, metas)


METHOD = Method(
    summary="The score after a fixed short fine-tuning, and under noise on the weights.",
    options=TunabilityOptions,
    inputs={
        "model": Port(("model",), "the model that is judged"),
        "baseline": Port(("model",), "what it should be no harder to tune than", optional=True),
        "champion": Port(("model",), "what is in production", optional=True),
        "chats": Port(("chats",), "the conversations of the short fine-tuning"),
        "score": Port(("documents", "exams", "chats"), "what is scored before and after"),
    },
    outputs={"probe": "probe"},
    figures={"": ("after_sft", "sensitivity", "before_sft", "after_sft_spread", "sensitivity_spread")},
    run=run,
    estimate=estimate,
    paper="Springer et al. 2025, arXiv:2503.19206; Sun and Dredze 2024, arXiv:2408.06663",
)
