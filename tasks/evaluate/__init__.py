"""Measure a model on named sets beside its baseline and the champion, with intervals, into a report."""

from __future__ import annotations

import tasks.training  # noqa: F401 - settles the accelerator before transformers is imported
from tasks.evaluate.methods import (
    canaries,
    contrastive,
    disalignment,
    elasticity,
    intruders,
    lm_eval,
    membership,
    suite,
    toxicity,
    tunability,
)
from tasks.stage import Method

METHODS: dict[str, Method] = {
    "suite": suite.METHOD,
    "lm_eval": lm_eval.METHOD,
    "membership": membership.METHOD,
    "canaries": canaries.METHOD,
    "toxicity": toxicity.METHOD,
    "tunability": tunability.METHOD,
    "elasticity": elasticity.METHOD,
    "disalignment": disalignment.METHOD,
    "contrastive": contrastive.METHOD,
    "intruders": intruders.METHOD,
}
"""The methods by name; the first is the default."""
