"""What scores depend on beside the model: equal manifests make them comparable, and fit to be used again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from tasks.evaluate.measure import Keyed, Measure
from tasks.evaluate.options import SuiteOptions
from tasks.stage import Input

VERSION = 2
"""Of what all measures share (scoring.py): raised whenever the same model and set would give other scores."""

LIBRARIES = ("torch", "transformers", "tokenizers")
PREFIX = "beginning of text, else end of text, else none; once before each document and prompt"


@dataclass(frozen=True)
class Task:
    """A measure on a set.

    Attributes:
        port: The port that the set came by.
        measure: How it is measured.
        item: The set.
        rows: Its rows, as many as are used.
    """

    port: str
    measure: Measure
    item: Input
    rows: Sequence[Keyed]


def of_task(task: Task, options: SuiteOptions, seed: int) -> dict[str, Any]:
    """Everything that a measure's columns on a set depend on beside the model."""
    return {
        "version": VERSION,
        "measure": task.measure.name,
        "measure_version": task.measure.version,
        "set": task.item.digest,
        "items": len(task.rows),
        "settings": {name: getattr(options, name) for name in task.measure.settings},
        "max_length": options.max_length,
        "seed": seed,
        **_arithmetic(),
    }


def of_report(tasks: Iterable[Task], options: SuiteOptions, seed: int) -> dict[str, Any]:
    """The whole report's manifest."""
    tasks = list(tasks)
    return {
        "version": VERSION,
        "sets": {
            task.item.name: {
                "digest": task.item.digest,
                "items": len(task.rows),
                "port": task.port,
                "measures": {
                    each.measure.name: each.measure.version for each in tasks if each.item is task.item
                },
            }
            for task in tasks
        },
        "exam_prompt": options.exam_prompt,
        "exam_choice": "largest log-likelihood per UTF-8 byte of the option",
        **_arithmetic(),
        "batches": {
            "sequences": options.batch_size,
            "tokens": options.batch_tokens,
            "order": "longest first",
            "padding": "right",
        },
        "window": {"max_length": options.max_length, "stride": options.stride},
        "settings": {name: getattr(options, name) for task in tasks for name in task.measure.settings},
        "limit": options.limit,
        "bootstrap": {"resamples": options.resamples, "confidence": options.confidence, "seed": seed},
    }


def digest(content: Mapping[str, Any]) -> str:
    """sha256 of the content as canonical JSON."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def _arithmetic() -> dict[str, Any]:
    libraries = {name: version(name).partition("+")[0] for name in LIBRARIES}
    return {"prefix": PREFIX, "dtype": "float32", "device": "CPU", "libraries": libraries}
