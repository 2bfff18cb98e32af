"""What two versions differ in beside their figures: lineage, option by option. Pure functions over plans."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from tasks.release.story import VersionStory

ABSENT = "-"


class Difference(BaseModel):
    """One thing that is not the same in two versions.

    Attributes:
        what: E.g. `tokenizer`, `data.news`, `steps.tuned.options.lr`.
        a: In the first version.
        b: In the second.
    """

    model_config = ConfigDict(frozen=True)

    what: str
    a: str
    b: str


def lineage_differences(
    a: VersionStory, b: VersionStory, plans: tuple[Mapping[str, Any], Mapping[str, Any]]
) -> list[Difference]:
    """What differs in where two versions come from; [] for two of the same origin.

    Args:
        a: The first version.
        b: The second.
        plans: Their frozen plans; an empty one where it is gone.
    """
    first, second = (dict(_facts(story, plan)) for story, plan in zip((a, b), plans, strict=True))
    return [
        Difference(what=name, a=first.get(name, ABSENT), b=second.get(name, ABSENT))
        for name in dict.fromkeys([*first, *second])
        if first.get(name, ABSENT) != second.get(name, ABSENT)
    ]


def _facts(story: VersionStory, plan: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    lineage = story.tags.get("perennial.lineage")
    yield "model", story.digest
    yield "recipe", story.recipe
    yield "license", story.license
    yield "image", story.image
    if lineage:
        from_lineage: dict[str, Any] = _parsed(lineage)
        yield "tokenizer", str(from_lineage.get("tokenizer", ABSENT))
        yield "architecture", str(from_lineage.get("architecture", ABSENT))
        yield from ((f"shape.{name}", str(size)) for name, size in from_lineage.get("shapes", {}).items())
    yield "base", ", ".join(story.base) or ABSENT
    yield from ((f"data.{name}", digest) for name, digest in story.data.items())
    for step in plan.get("steps", ()):
        place = f"steps.{step['name']}"
        yield place, f"{step['stage']}/{step['method']}"
        yield from ((f"{place}.options.{name}", str(value)) for name, value in step["options"].items())
        yield f"{place}.seed", str(step["seed"])
        yield f"{place}.inputs", ", ".join(_inputs(step))
    for step, folders in plan.get("code", {}).items():
        for folder, digest in folders.items():
            if folder == "versions":
                yield from ((f"library {name}", version) for name, version in digest.items())
            else:
                yield f"code of {step}: {folder}", str(digest)


def _inputs(step: Mapping[str, Any]) -> list[str]:
    return [f"{port}={given['ref']}" for port, many in step["inputs"].items() for given in many]


def _parsed(text: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text)
    return found
