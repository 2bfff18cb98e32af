"""What can be wrong with the shipped sets in a recipe: unknown names, rules that have no effect."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tasks.recipe.gate_sets.expand import Evidence, set_gates
from tasks.recipe.gate_sets.options import UpdateGates
from tasks.recipe.loading import Path_
from tasks.recipe.models import Gate, Recipe, Release
from tasks.recipe.problems import did_you_mean
from tasks.recipe.structure import Fault

LATENCY_OPTION = "latency_tokens"
"""The option of the report step without which there is no `model.latency_ms`."""

_NEEDS = {
    "update": "give the report step the sets that are named, and a baseline or a champion to compare with",
    "safety": "give the report step sets or probes that measure safety, and a baseline or a champion",
    "compatibility": "add champion: champion to the inputs of the report step",
    "budget": "limit something: device_hours, cost, bytes, parameters or latency_ms",
}


def set_faults(recipe: Recipe, evidence: Evidence, *, sure: bool) -> list[Fault]:
    """The faults of `release.gate_sets`.

    Args:
        recipe: With a release.
        evidence: What its report step computes.
        sure: Every input of the report step is known; otherwise names are not judged.
    """
    release = recipe.release
    assert release is not None
    faults: list[Fault] = []
    own = [gate.gate for gate in release.gates]
    for name, gates in set_gates(release, evidence).items():
        rules = getattr(release.gate_sets, name)
        path: Path_ = ("release", "gate_sets", name)
        against = getattr(rules, "against", None)
        if against is not None and against not in evidence.against:
            message = f"step '{release.report}' has no input '{against}' to compare with"
            faults.append(((*path, "against"), message, f"add {against}: <model> to its inputs"))
        elif not gates and sure:
            faults.append((path, f"nothing of '{name}' applies to step '{release.report}'", _NEEDS[name]))
        elif sure:
            faults += _name_faults(rules, path, release, evidence)
            for number, word in _written(rules, "warn"):
                if word in evidence.figures and not any(_about(gate, word) for gate in gates):
                    remedy = "leave it out, or name the set in new, old or safety"
                    faults.append(((*path, "warn", number), f"no gate is about '{word}'", remedy))
        for gate in gates:
            if gate.gate in own:
                message = f"has a gate '{gate.gate}', and the recipe has one of that name"
                faults.append((path, message, "give the recipe's another name"))
    return [*faults, *_latency_faults(recipe)]


def _name_faults(rules: Any, path: Path_, release: Release, evidence: Evidence) -> Iterator[Fault]:
    known = list(evidence.figures)
    parts = ("new", "old", "safety") if isinstance(rules, UpdateGates) else ()
    judged = [((*path, part, number), name) for part in parts for number, name in _written(rules, part)]
    named = [*judged, *(((*path, "warn", number), name) for number, name in _written(rules, "warn"))]
    margins = getattr(rules, "margins", {})
    named += [((*path, "margins", name), name) for name in margins]
    for place, name in named:
        if name not in known:
            message = f"step '{release.report}' has no set '{name}'"
            yield place, message, did_you_mean(name, known, "give it to the report step")
    seen: set[str] = set()
    for place, name in judged:
        if name in seen:
            yield place, f"'{name}' is there twice", "a set is new, old or about safety"
        elif name in known and evidence.chosen(name, rules.against) is None:
            message = f"'{name}' is compared with no {rules.against or 'other model'}"
            yield place, message, f"add {rules.against or 'baseline'}: <model> to the inputs of step '{name}'"
        seen.add(name)
    for name in margins:
        place = (*path, "margins", name)
        if name in known and name not in seen:
            remedy = "name the set in new, old or safety, or leave the margin out"
            yield place, "has no effect: no gate asks what this set gains or loses", remedy


def _about(gate: Gate, name: str) -> bool:
    return gate.measure.rpartition(".")[0] == name


def _written(rules: Any, part: str) -> list[tuple[int, str]]:
    return list(enumerate(getattr(rules, part, ())))


def _latency_faults(recipe: Recipe) -> Iterator[Fault]:
    """A limit on latency needs a report step that measures it."""
    release = recipe.release
    assert release is not None
    if recipe.steps[release.report].options.get(LATENCY_OPTION):
        return
    budget = release.gate_sets.budget
    places: list[Path_] = []
    if budget is not None and budget.latency_ms is not None:
        places.append(("release", "gate_sets", "budget", "latency_ms"))
    asked = enumerate(release.gates)
    places += [("release", "gates", at) for at, gate in asked if gate.measure == "model.latency_ms"]
    for place in places:
        remedy = f"add {LATENCY_OPTION}: 32 to its options"
        yield place, f"step '{release.report}' measures no latency", remedy
