"""Canaries: does the model know secrets that were planted in its training data.

Carlini et al. 2019, "The Secret Sharer" (arXiv:1802.08232): the exposure of a canary is log2 of the number of
possible secrets less log2 of its rank among them by likelihood (definition 4), here estimated among a sample
of secrets of the same format that were never planted (section 4.3). About 1.4 bits on average mean nothing
was memorised; log2 of the number of twins and one is the most that can be seen. A canary is extracted where
greedy generation from the text before it gives the secret, token by token.

The canaries come from step prepare/canaries. Those that were never planted are the control.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
from pydantic import Field

from tasks.evaluate.measure import Array, Figure, ratio
from tasks.evaluate.probes.forward import distributions
from tasks.evaluate.probes.models import Probing, Progress, memory, models_of, part, per_model
from tasks.evaluate.probes.options import ScoringOptions
from tasks.evaluate.probes.report import Found, write_probe
from tasks.evaluate.rows import read_lines
from tasks.evaluate.scoring import Row, Subject, log_probs
from tasks.recipe.failures import DataInvalid
from tasks.stage import Estimate, Input, Method, Port, Result, StepContext, one

VERSION = 1
"""Raised whenever the same model and inputs would give other columns."""


class CanariesOptions(ScoringOptions):
    """Options of the search for canaries."""

    limit: int = Field(
        32,
        ge=1,
        description="Most planted canaries, and most controls, that are looked for: the first ones.",
        json_schema_extra={"unit": "canaries", "source": "bounds time: each is scored with all its twins"},
    )


@dataclass(frozen=True)
class Canary:
    """A secret, the text before it, and other secrets that might stand in its place."""

    key: str
    planted: bool
    prompt: str
    secret: str
    twins: tuple[str, ...]


FIGURES = (
    Figure(
        "exposure",
        "lower",
        "bits",
        "how far planted secrets stand out among others, mean; about 1.4 where nothing was memorised",
        ratio("exposure"),
    ),
    Figure(
        "extracted", "lower", "", "share of planted secrets that greedy generation gives", ratio("extracted")
    ),
    Figure(
        "control_exposure",
        "lower",
        "bits",
        "the same of secrets that were never planted: what is no memory",
        ratio("control_exposure"),
    ),
)


def read_canaries(item: Input, limit: int) -> list[Canary]:
    """The first `limit` planted canaries and as many controls.

    Raises:
        DataInvalid: A row is broken, or there is no planted canary.
    """
    found: dict[bool, list[Canary]] = {True: [], False: []}
    for number, row in read_lines(item.path / "rows.jsonl", f"canaries '{item.ref}'"):
        prompt, secret, twins = row.get("prompt"), row.get("secret"), row.get("twins")
        if not (isinstance(prompt, str) and prompt and isinstance(secret, str) and secret):
            raise DataInvalid(f"canaries '{item.ref}': line {number} has no prompt and secret")
        if not isinstance(twins, list) or not twins or not all(isinstance(twin, str) for twin in twins):
            raise DataInvalid(f"canaries '{item.ref}': line {number} has no twins to rank the secret among")
        planted = bool(row.get("planted"))
        if len(found[planted]) < limit:
            found[planted].append(Canary(str(row.get("key")), planted, prompt, secret, tuple(twins)))
    if not found[True]:
        raise DataInvalid(f"canaries '{item.ref}': none of them was planted; there is nothing to look for")
    return [*found[True], *found[False]]


def exposure(secret: float, twins: Array) -> float:
    """Bits by which a secret stands out: log2(|R|) - log2(rank), |R| counting it and its twins.

    Equal likelihoods count half: a model that knows nothing does not make the secret the first of all.
    """
    rank = 1.0 + float((twins > secret).sum()) + 0.5 * float((twins == secret).sum())
    return math.log2(len(twins) + 1) - math.log2(rank)


def score_canaries(
    subject: Subject, canaries: Sequence[Canary], batch_size: int, progress: Progress
) -> dict[str, Array]:
    """Columns of the canaries: `exposure` and `extracted` of planted ones, `control_exposure` of the others.

    Raises:
        DataInvalid: A canary is longer than the model's window.
    """
    rows, lengths = [], []
    greedy: list[tuple[list[int], int]] = []
    for canary in canaries:
        start = len(subject.prefix) + len(subject.encode(canary.prompt))
        for number, secret in enumerate((canary.secret, *canary.twins)):
            ids = [*subject.prefix, *subject.encode(canary.prompt + secret)]
            if len(ids) > subject.window:
                raise DataInvalid(
                    f"canary '{canary.key}' has {len(ids)} tokens and model '{subject.ref}' is given "
                    f"{subject.window}; raise max_length or plant shorter ones"
                )
            begin = max(1, min(start, len(ids) - 1))
            rows.append(Row(ids, range(begin, len(ids)), range(begin - 1, len(ids) - 1)))
            if number == 0:
                greedy.append((ids, begin))
        lengths.append(1 + len(canary.twins))
    likelihoods = [
        float(scores.sum()) for scores in log_probs(subject, rows, batch_size, part(progress, 0, 2))
    ]
    extracted = numpy.zeros(len(canaries))
    for done, (index, log_probs_TV) in enumerate(
        distributions(subject, [ids for ids, _ in greedy], batch_size)
    ):
        ids, begin = greedy[index]
        extracted[index] = float(log_probs_TV[begin - 1 : -1].argmax(dim=1).tolist() == ids[begin:])
        part(progress, 1, 2)(done / len(greedy))
    exposures = numpy.empty(len(canaries))
    at = 0
    for index, length in enumerate(lengths):
        exposures[index] = exposure(likelihoods[at], numpy.array(likelihoods[at + 1 : at + length]))
        at += length
    planted = numpy.array([canary.planted for canary in canaries])
    return {
        "exposure": numpy.where(planted, exposures, numpy.nan),
        "extracted": numpy.where(planted, extracted, numpy.nan),
        "control_exposure": numpy.where(planted, numpy.nan, exposures),
    }


def run(context: StepContext, options: CanariesOptions) -> Result:
    """Look for the canaries in every model.

    Raises:
        DataInvalid: A row is broken, nothing was planted, or a canary is too long.
    """
    models = models_of(context)
    canaries = read_canaries(one(context, "canaries"), options.limit)
    probing = Probing("canaries", VERSION, options)
    columns = per_model(
        context,
        models,
        options.max_length,
        probing,
        lambda subject, progress: score_canaries(subject, canaries, options.batch_size, progress),
    )
    least = min(len(canary.twins) for canary in canaries)
    notes = [f"at most {math.log2(least + 1):.1f} bits can be seen with {least} twins"]
    keys = [canary.key for canary in canaries]
    return write_probe(context, models, Found(probing, keys, columns, FIGURES, notes), options)


def estimate(options: CanariesOptions, metas: Mapping[str, list[Mapping[str, Any]]]) -> Estimate:
    """One model at a time."""
    return memory(1, metas)


METHOD = Method(
    summary="Does the model know secrets that were planted in its training data.",
    options=CanariesOptions,
    inputs={
        "model": Port(("model",), "the model that is judged"),
        "baseline": Port(("model",), "one trained without them", optional=True),
        "champion": Port(("model",), "what is in production", optional=True),
        "canaries": Port(("canaries",), "what prepare/canaries planted"),
    },
    outputs={"probe": "probe"},
    figures={"": ("exposure", "extracted", "control_exposure")},
    run=run,
    estimate=estimate,
    paper="Carlini et al. 2019, The Secret Sharer, arXiv:1802.08232",
)
