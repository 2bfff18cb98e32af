"""What every runtime is given to make the Airflow task of a step from, and what they decide alike.

A task may be another command of `perennial` than a step, one that needs a step's image.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from runtimes.failures import StepFailed
from runtimes.process import answer, plan_of
from tasks.recipe.failures import ConfigInvalid, Failure

TRAINING = ("pretrain", "sft", "align", "distill")
"""The stages that run in the trainer's image; every other runs in the image for the CPU."""

PASSED = (
    "PERENNIAL_STORE",
    "MLFLOW_TRACKING_URI",
    "MLFLOW_S3_ENDPOINT_URL",
    "AWS_ENDPOINT_URL",
    "AWS_REGION",
    "PERENNIAL_TRUSTED_CODE",
)
"""Settings that a container gets from the worker's environment. None is a secret: those are mounted."""

POOLS = {"cpu": "default_pool", "gpu": "gpu", "large": "gpu"}
"""A step's `resources` -> the pool that limits how many of its kind run at once."""


@dataclass(frozen=True)
class StepTask:
    """A step, or another command in a step's image, as a runtime needs it.

    Attributes:
        name: The step's, which is the task's id too.
        recipe: The recipe's name.
        model: The registered model that the recipe maintains.
        owner: Who answers for the recipe; the team in labels.
        stage: The kind of work.
        resources: `cpu`, `gpu` or `large`.
        doc_md: The task's documentation.
        trigger_rule: Airflow's.
        command: From Airflow's context: what `perennial` is called with, where it is no step. What it raises
            as AirflowSkipException skips the task.
        words: What `command` gave; `filled_in` sets it.
    """

    name: str
    recipe: str
    model: str
    owner: str
    stage: str
    resources: str
    doc_md: str
    trigger_rule: str = "all_success"
    command: Callable[[Any], Sequence[str]] | None = None
    words: tuple[str, ...] = ()

    @property
    def common(self) -> dict[str, Any]:
        """Arguments of every operator."""
        return {
            "task_id": self.name,
            "pool": POOLS[self.resources],
            "doc_md": self.doc_md,
            "trigger_rule": self.trigger_rule,
        }

    def filled_in(self, context: Any) -> StepTask:
        """With the words of its command, where it is one; every operator begins with this."""
        return replace(self, words=tuple(self.command(context))) if self.command else self

    def arguments(self, run_id: str) -> list[str]:
        """What `perennial` is called with: the same on every runtime."""
        if self.command is not None:
            return list(self.words)
        return ["step", "--plan", plan_of(self.recipe, run_id), "--step", self.name]


def image(task: StepTask) -> str:
    """The image of a step: PERENNIAL_IMAGE_TRAINER or PERENNIAL_IMAGE_CPU.

    Raises:
        ConfigInvalid: It is not set.
    """
    name = "PERENNIAL_IMAGE_TRAINER" if task.stage in TRAINING else "PERENNIAL_IMAGE_CPU"
    found = os.environ.get(name)
    if not found:
        raise ConfigInvalid(
            f"step '{task.name}' runs in a container, and {name} does not say in which image; set it for "
            "Airflow, by digest (repository@sha256:...)"
        )
    return found


def settings() -> dict[str, str]:
    """The settings of PASSED that are set here."""
    return {name: os.environ[name] for name in PASSED if os.environ.get(name)}


def conclude(
    task: StepTask,
    run_id: str,
    attempt: str,
    seen: Failure | None,
    words: str,
    killed_for_memory: bool = False,
) -> None:
    """Decide how an attempt ended, from the step's record in the store before anything else.

    A pod that vanished after its step was committed is a success; one that says it succeeded, but committed
    nothing, is not. A command that is no step leaves no record: there the runtime is believed.

    Args:
        task: The step.
        run_id: Airflow's.
        attempt: What the container was given as PERENNIAL_ATTEMPT.
        seen: The class of failure that the runtime saw (an exit code, an eviction), or None.
        words: What it saw, for people: the reason, the node, the image.
        killed_for_memory: The container was killed for using too much memory: it could not say so itself.

    Raises:
        StepFailed: The step is not done; with the class of its failure.
    """
    if task.command is not None:
        if seen is not None:
            raise StepFailed(task.name, seen, words)
        return
    more = ["--killed-for-memory"] if killed_for_memory else []
    told: Mapping[str, Any] = json.loads(
        answer("outcome", *task.arguments(run_id)[1:], "--attempt", attempt, *more)
    )
    if told["state"] == "done":
        return
    if told["state"] == "failed":
        raise StepFailed(task.name, Failure[told["failure"]], f"{told['message']} ({words})")
    failure = Failure.INFRASTRUCTURE if seen is None else seen
    raise StepFailed(task.name, failure, f"{words}; the step left no record in the store")
