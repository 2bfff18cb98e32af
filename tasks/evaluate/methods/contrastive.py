"""Contrastive generation: text that shows what the update newly taught.

Isonuma and Titov 2024, "What's New in My Data? Novelty Exploration via Contrastive Generation"
(arXiv:2410.14765): text drawn token by token by log p_new - log p_old shows what the new model learnt that
the old one does not know, without access to the training data. Drawn again and again it would all be alike,
so the old model is tuned on the samples of a round before the next is drawn, which then shows something else.

Different from the paper: a round draws several samples at once, and every round's old model is tuned from
the original one on all samples so far. Novelty is always measured against the original.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy
from pydantic import Field

from tasks.evaluate.generation import stop_tokens
from tasks.evaluate.measure import Array, Figure, ratio
from tasks.evaluate.probes.models import Probing, memory, models_of
from tasks.evaluate.probes.options import TuningOptions
from tasks.evaluate.probes.report import Found, write_probe
from tasks.evaluate.probes.sampling import novel, sample
from tasks.evaluate.probes.tuning import all_supervised, tune
from tasks.evaluate.scoring import Row, Subject, load_subject, log_probs
from tasks.recipe.failures import ConfigInvalid, Preempted
from tasks.stage import Estimate, Method, Port, Result, StepContext, one
from tasks.training.models import tokenizer_digest

VERSION = 1
"""Raised whenever the same models and options would give other samples."""


class ContrastiveOptions(TuningOptions):
    """Options of the drawing."""

    rounds: int = Field(
        3,
        ge=1,
        description="How often samples are drawn; between rounds the old model learns what was drawn.",
        json_schema_extra={"unit": "rounds", "source": "arXiv:2410.14765, the iterative version"},
    )
    samples: int = Field(8, ge=1, description="Samples of a round.", json_schema_extra={"unit": "samples"})
    tokens: int = Field(
        40, ge=2, description="Most tokens of a sample.", json_schema_extra={"unit": "tokens"}
    )
    plausible: float = Field(
        0.1,
        gt=0,
        le=1,
        description="Least probability of a token under the new model, as a share of its likeliest token's.",
        json_schema_extra={"unit": "share", "source": "arXiv:2210.15097, section 3.3"},
    )
    temperature: float = Field(
        1.0,
        gt=0,
        description="Divides the contrast; smaller keeps closer to the most novel token.",
    )
    steps: int = Field(
        10,
        ge=1,
        description="Optimiser steps by which the old model learns the samples so far.",
        json_schema_extra={"unit": "optimiser steps", "source": "bounds time"},
    )


FIGURES = (
    Figure(
        "novelty",
        "lower",
        "nats/token",
        "how much likelier the new model finds its samples than the old one, mean over samples",
        ratio("novelty"),
    ),
)


def novelty(new: Subject, old: Subject, texts: Sequence[Sequence[int]], batch_size: int) -> Array:
    """Mean of log p_new - log p_old over each text's tokens, shape (N,).

    Args:
        new: The new model.
        old: The original old one.
        texts: Token ids, the first of which is the prompt's.
        batch_size: Most texts a batch.
    """
    rows = [Row(ids, range(1, len(ids)), range(len(ids) - 1)) for ids in texts]
    both = zip(log_probs(new, rows, batch_size), log_probs(old, rows, batch_size), strict=True)
    return numpy.array([float((ours - theirs).mean()) for ours, theirs in both])


def run(context: StepContext, options: ContrastiveOptions) -> Result:
    """Draw samples of what is new, and say how new they are.

    Raises:
        ConfigInvalid: The models have different tokenizers, or none starts a text.
    """
    models = models_of(context)
    item, before = one(context, "model"), one(context, "origin")
    if tokenizer_digest(item.path) != tokenizer_digest(before.path):
        raise ConfigInvalid(
            f"step '{context.step}': '{item.ref}' has another tokenizer than '{before.ref}', so that their "
            "predictions are about other tokens. Give the model that it was trained from"
        )
    new, old = load_subject(item, options.max_length), load_subject(before, options.max_length)
    if not new.prefix:
        raise ConfigInvalid(
            f"step '{context.step}': the tokenizer of '{item.ref}' has neither a beginning-of-text nor an "
            "end-of-text token, so there is nothing to begin a sample with"
        )
    room = min(options.tokens, new.window - len(new.prefix))
    combine, stops = novel(options.plausible), stop_tokens(new, chat=False)
    against = old
    texts: list[list[int]] = []
    rounds: list[int] = []
    for number in range(options.rounds):
        if context.stopping():
            raise Preempted(f"step '{context.step}' was asked to stop after {number} rounds of samples")
        context.progress(0.95 * number / options.rounds, f"round {number + 1}")
        if number:
            learnt = [all_supervised(ids) for ids in texts]
            tuned = tune(context, before.path, learnt, options.steps, options)
            against = dataclasses.replace(old, model=tuned)
        drawn = sample(
            new,
            against,
            new.prefix,
            combine,
            count=options.samples,
            tokens=room,
            temperature=options.temperature,
            stops=stops,
            seed=context.seed + number,
        )
        texts += [[*new.prefix, *ids] for ids in drawn if ids]
        rounds += [number + 1 for ids in drawn if ids]
        if not texts:
            raise ConfigInvalid(
                f"step '{context.step}': every sample of '{item.ref}' ended before its first token: the "
                "model writes nothing after its beginning-of-text token"
            )
    scores = novelty(new, old, texts, options.batch_size)
    samples = [
        {
            "round": number,
            "novelty": float(value),
            "text": new.tokenizer.decode(ids[len(new.prefix) :], skip_special_tokens=True),
        }
        for number, value, ids in zip(rounds, scores, texts, strict=True)
    ]
    keys = [f"round-{number}/{place}" for place, number in enumerate(rounds)]
    columns = {"model": {"novelty": scores, "round": numpy.array(rounds, dtype=numpy.float64)}}
    probing = Probing("contrastive", VERSION, options, trains=True)
    found = Found(probing, keys, columns, FIGURES, samples=samples)
    return write_probe(context, models, found, options)


def estimate(options: ContrastiveOptions, metas: Mapping[str, list[Mapping[str, Any]]]) -> Estimate:
    """Both models, the tuned old one, and what its training needs."""
    return memory(6, metas)


METHOD = Method(
    summary="Samples that show what the update newly taught.",
    options=ContrastiveOptions,
    inputs={
        "model": Port(("model",), "the model after the update"),
        "origin": Port(("model",), "the model before it"),
    },
    outputs={"probe": "probe"},
    figures={"": ("novelty",)},
    run=run,
    estimate=estimate,
    paper="Isonuma and Titov 2024, What's New in My Data?, arXiv:2410.14765",
)
