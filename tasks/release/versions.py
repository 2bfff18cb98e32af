"""Semantic versions from what really changed (P463, "Towards Semantic Versioning of Open Pre-trained Language
Model Releases on Hugging Face"): the paper found 40.87 % of weight changes unrecorded in names, so here the
number is derived from the lineage and never chosen.

Another tokenizer or architecture: major. Newly trained weights: minor. Merging, quantisation, card: patch.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from tasks.recipe.failures import DataInvalid
from tasks.release.records import TRAINED, StepRecord, ancestors

SEMANTIC = re.compile(r"^(\d+)\.(\d+)\.(\d+)$")
SHAPES = ("vocab_size", "hidden", "layers", "parameters")


class LineageFacts(BaseModel):
    """What a version number depends on.

    Attributes:
        tokenizer: sha256 of tokenizer.json.
        architecture: The model's class.
        shapes: Vocabulary, width, depth, parameters.
        trained: Digests of the models that training steps made on the way to it.
        model: Digest of the released model itself.
        semantic: Its version; "" for a candidate that has none yet.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    tokenizer: str
    architecture: str
    shapes: dict[str, int]
    trained: frozenset[str]
    model: str
    semantic: str = ""


def lineage(records: Mapping[str, StepRecord], candidate: str) -> LineageFacts:
    """The facts of a candidate from the records of its run.

    Args:
        records: The run's records by step.
        candidate: The recipe's `release.candidate`: a step or `step.output`.

    Raises:
        DataInvalid: The model's facts are not on record.
    """
    step = candidate.partition(".")[0]
    output = records[step].output(candidate, "model")
    meta: Mapping[str, Any] = output.meta
    missing = [name for name in ("tokenizer", "architecture", *SHAPES) if name not in meta]
    if missing:
        raise DataInvalid(
            f"step '{step}': the record of its model lacks {', '.join(missing)}, from which the version "
            f"number is derived; run the step again (--refresh {step})"
        )
    trained = {
        made.digest
        for record in ancestors(records, step)
        if record.stage in TRAINED
        for made in record.outputs.values()
        if made.kind == "model"
    }
    return LineageFacts(
        tokenizer=str(meta["tokenizer"]),
        architecture=str(meta["architecture"]),
        shapes={name: int(meta[name]) for name in SHAPES},
        trained=frozenset(trained),
        model=output.digest,
    )


def next_version(
    champion: LineageFacts | None, candidate: LineageFacts, taken: Collection[str] = ()
) -> tuple[str, str]:
    """The candidate's semantic version and the reason for it.

    Args:
        champion: Facts of the model in production, with its version; None if there is none.
        candidate: Facts of the candidate.
        taken: Versions that other models were already registered under (candidates that were rejected):
            one number never names two models.

    Returns:
        The version, e.g. "1.3.0", and why, e.g. "new weights: 3 newly trained models".
    """
    if champion is None:
        numbers, level, reason = (1, 0, 0), 0, "first release"
    else:
        level, reason = _change(champion, candidate)
        numbers = _bump(_numbers(champion.semantic), level)
    while _text(numbers) in taken:
        numbers = _bump(numbers, level)
    return _text(numbers), reason


def _change(old: LineageFacts, new: LineageFacts) -> tuple[int, str]:
    if new.tokenizer != old.tokenizer:
        return 0, f"another tokenizer: {old.tokenizer[:12]} -> {new.tokenizer[:12]}"
    if new.architecture != old.architecture:
        return 0, f"another architecture: {old.architecture} -> {new.architecture}"
    changed = [
        f"{name} {old.shapes.get(name)} -> {new.shapes.get(name)}"
        for name in sorted(old.shapes.keys() | new.shapes.keys())
        if old.shapes.get(name) != new.shapes.get(name)
    ]
    if changed:
        return 0, f"another shape: {', '.join(changed)}"
    if new.trained != old.trained:
        return 1, f"new weights: {len(new.trained - old.trained)} newly trained models"
    if new.model != old.model:
        return 2, "the same trained weights, merged or stored in another way"
    return 2, "the same model with other evidence or another card"


def _numbers(semantic: str) -> tuple[int, int, int]:
    found = SEMANTIC.match(semantic)
    if found is None:
        raise DataInvalid(
            f"the champion's tag perennial.semantic_version is '{semantic}', which is no version (1.2.3); "
            f"set it right in MLflow"
        )
    return int(found[1]), int(found[2]), int(found[3])


def _bump(numbers: tuple[int, int, int], level: int) -> tuple[int, int, int]:
    major, minor, patch = numbers
    return [(major + 1, 0, 0), (major, minor + 1, 0), (major, minor, patch + 1)][level]


def _text(numbers: tuple[int, int, int]) -> str:
    return ".".join(map(str, numbers))
