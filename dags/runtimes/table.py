"""Which runtime a step runs on: PERENNIAL_RUNTIME, for Airflow's DAG processor and workers alike.

One name for all steps (`process`, the default), or one for each size of machine:
`cpu=kubernetes,gpu=kubernetes,large=trainjob`. A size that is left out is one that the installation does not
have: recipes that ask for it are refused when they are read (shared/recipes.py).
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping

from airflow.sdk import BaseOperator

from runtimes.steps import StepTask
from tasks.recipe.failures import ConfigInvalid
from tasks.recipe.problems import did_you_mean

RUNTIMES: Mapping[str, str] = {
    "process": "runtimes.process_step",
    "container": "runtimes.container",
    "kubernetes": "runtimes.kubernetes",
    "trainjob": "runtimes.trainjob",
}
"""Name -> the file, whose `make` gives the Airflow task of a step. Only what is used is imported: a laptop
has neither Kubernetes' client nor a need for it."""

SIZES = ("cpu", "gpu", "large")


def runtime_of(resources: str) -> str:
    """The runtime for steps of a size.

    Raises:
        ConfigInvalid: PERENNIAL_RUNTIME names a runtime or a size that there is not, or leaves one out.
    """
    given = os.environ.get("PERENNIAL_RUNTIME") or "process"
    chosen = dict.fromkeys(SIZES, given)
    if "=" in given:
        pairs = [pair.partition("=") for pair in given.split(",")]
        chosen = {size.strip(): name.strip() for size, _, name in pairs}
    for size, name in chosen.items():
        if size not in SIZES:
            raise ConfigInvalid(
                f"PERENNIAL_RUNTIME: no step has the size '{size}'; {did_you_mean(size, SIZES)}"
            )
        if name not in RUNTIMES:
            raise ConfigInvalid(
                f"PERENNIAL_RUNTIME: there is no runtime '{name}'; {did_you_mean(name, list(RUNTIMES))}"
            )
    if resources not in chosen:
        raise ConfigInvalid(
            f"PERENNIAL_RUNTIME ({given}) names no runtime for steps of the size '{resources}': this "
            f"installation has none; use another size ({', '.join(chosen)}), or name one for it where there "
            "are such machines"
        )
    return chosen[resources]


def make_step(task: StepTask) -> BaseOperator:
    """The Airflow task of a step, on the runtime that is chosen for its size.

    A command that is no step is one pod where steps of its size are jobs of several.
    """
    name = runtime_of(task.resources)
    if task.command is not None and name == "trainjob":
        name = "kubernetes"
    make: Callable[[StepTask], BaseOperator] = importlib.import_module(RUNTIMES[name]).make
    return make(task)
