"""What scores depend on beside the model: equal manifests make them comparable, and fit to be used again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from tasks.evaluate.measure import Keyed, Measure
from tasks.evaluate.options import TEMPLATES, SuiteOptions
from tasks.stage import Input

VERSION = 3
"""Of what all measures share (scoring.py): raised whenever the same model and set would give other scores."""

LIBRARIES = ("torch", "transformers", "tokenizers")
PREFIX = "beginning of text, else end of text, else none; once before each document and prompt"
BATCHES = "longest first; padded on the right, on the left to generate; a score does not depend on the batch"


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
        "scoring": VERSION,
        "measure": task.measure.name,
        **_frozen(task, options, seed),
        "items": {"count": len(task.rows), "digest": items_digest(task.rows)},
        "settings": {name: getattr(options, name) for name in task.measure.settings},
        "max_length": options.max_length,
        "seed": seed,
        **arithmetic(),
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
                "items_digest": items_digest(task.rows),
                "port": task.port,
                "measures": {
                    each.measure.name: _frozen(each, options, seed)
                    for each in tasks
                    if each.item is task.item
                },
            }
            for task in tasks
        },
        "exam_prompt": options.exam_prompt,
        "exam_choice": "largest log-likelihood per UTF-8 byte of the option",
        **arithmetic(),
        "batches": {
            "sequences": options.batch_size,
            "tokens": options.batch_tokens,
        },
        "window": {"max_length": options.max_length, "stride": options.stride},
        "settings": {name: getattr(options, name) for task in tasks for name in task.measure.settings},
        "limit": options.limit,
        "bootstrap": {"resamples": options.resamples, "confidence": options.confidence, "seed": seed},
    }


def digest(content: Mapping[str, Any]) -> str:
    """sha256 of the content as canonical JSON."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def items_digest(rows: Sequence[Keyed]) -> str:
    """sha256 of the rows that are used, in their order: two sets of the same rows are the same items."""
    return hashlib.sha256(json.dumps([vars(row) for row in rows], sort_keys=True).encode()).hexdigest()


def _frozen(task: Task, options: SuiteOptions, seed: int) -> dict[str, Any]:
    """A measure's version, the digests of the templates that it puts questions by, and its few-shot seed.

    A chat template is the model's own: it is part of the model's digest, and the report says which it was.
    """
    templates = {
        name: hashlib.sha256(json.dumps(getattr(options, name), ensure_ascii=False).encode()).hexdigest()
        for name in task.measure.settings
        if name in TEMPLATES
    }
    shots = {"few_shot_seed": seed} if "shots" in task.measure.settings else {}
    return {"version": task.measure.version, "templates": templates, **shots}


def arithmetic() -> dict[str, Any]:
    """What every score depends on beside model, items and options: the policies, the dtype, the libraries."""
    libraries = {name: version(name).partition("+")[0] for name in LIBRARIES}
    return {
        "prefix": PREFIX,
        "dtype": "float32",
        "device": "CPU",
        "batch_policy": BATCHES,
        "libraries": libraries,
    }
