"""Is a step's result already there? A hit is proven by the bytes, and a miss says why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tasks.artefacts import Store, problems
from tasks.recipe.fingerprints import explain, fingerprint
from tasks.runner.records import StepRecord, latest_key, read_record, record_key


@dataclass(frozen=True)
class Lookup:
    """The answer of the cache.

    Attributes:
        fingerprint: Of the step as it is now.
        record: The record to reuse, or None on a miss.
        reasons: On a miss, what changed or is missing; on a hit, which run made the result.
    """

    fingerprint: str
    record: StepRecord | None
    reasons: list[str]


def look_up(
    store: Store, recipe: str, step: str, ingredients: Mapping[str, Any], *, refresh_run: str | None = None
) -> Lookup:
    """Find the result of a step by its fingerprint and verify that every object of it is still whole.

    Args:
        refresh_run: The user asked to run the step again in this run: only a record made by this very run
            counts (so that a retry after a failed log does not train again).
    """
    print_ = fingerprint(dict(ingredients))
    record = read_record(store, record_key(print_))
    if record is None:
        last = read_record(store, latest_key(recipe, step))
        return Lookup(print_, None, explain(last.ingredients if last else None, dict(ingredients)))
    if refresh_run is not None and record.run != refresh_run:
        return Lookup(print_, None, ["asked to run again (refresh)"])
    broken = [
        f"{name}: {problem}"
        for name, output in record.outputs.items()
        for problem in problems(store, output.digest)
    ]
    if broken:
        return Lookup(print_, None, broken)
    return Lookup(print_, record, [f"nothing changed since run {record.run}"])
