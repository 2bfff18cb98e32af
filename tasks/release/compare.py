"""What two versions differ in: lineage, option by option, and the figures that one report has of both."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from tasks.release.story import VersionStory

ABSENT = "-"
ASIDE = (
    "the two do not stand in one report; where torch is installed, `perennial compare` computes it from "
    "their items"
)
"""Why two models are not compared on a set where only what is on record can be told."""


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


def recorded(
    reports: Sequence[Path], first: str, second: str
) -> tuple[list[dict[str, Any]], list[tuple[str, str, str]]]:
    """The figures of two models from a report about the second in which the first has a part.

    What tasks/evaluate/versions.py computes from items, as far as it was computed before: for images without
    the libraries that the evaluation needs.

    Args:
        reports: Folders of report artefacts.
        first: Digest of the model that is compared with.
        second: Digest of the model that it is about.

    Returns:
        Entries as in report.json, the first model as `champion`; set, measure and why of what is left out.
    """
    found: dict[tuple[str, str], dict[str, Any]] = {}
    seen: dict[tuple[str, str], None] = {}
    for folder in reports:
        report = json.loads((folder / "report.json").read_bytes())
        held = {role: each["digest"] for role, each in report["models"].items() if each}
        seen |= dict.fromkeys((each["name"], each["measure"]) for each in report["sets"])
        roles = [role for role, digest in held.items() if digest == first and role != "model"]
        if held.get("model") == second and roles:
            for each in report["sets"]:
                found.setdefault((each["name"], each["measure"]), _beside(each, roles[-1]))
    return list(found.values()), [(*where, ASIDE) for where in seen if where not in found]


def _beside(entry: Mapping[str, Any], role: str) -> dict[str, Any]:
    """An entry of a report with the model of a role in the champion's place."""
    values, against = entry["values"], entry["against"]
    return {
        **entry,
        "values": {**values, "champion": values[role]},
        "against": {**against, "champion": against[role]},
    }


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
