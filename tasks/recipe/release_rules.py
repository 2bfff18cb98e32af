"""The release section: the candidate, the evidence, and gates that the evidence can answer."""

from __future__ import annotations

from typing import Any

from tasks.recipe.links import Links
from tasks.recipe.loading import Path_
from tasks.recipe.models import Gate, Recipe, Release
from tasks.recipe.problems import did_you_mean
from tasks.recipe.structure import Fault

MEASURES = {"documents": "bits_per_byte", "exams": "accuracy"}
"""The ports of a report step that hold named sets, and the measure of each."""


def release_faults(recipe: Recipe, links: Links, broken_steps: frozenset[str], raw: Any) -> list[Fault]:
    """What is wrong with the release section."""
    release = recipe.release
    assert release is not None
    faults: list[Fault] = []
    for key, step, kind in (
        ("candidate", release.candidate, "model"),
        ("report", release.report, "report"),
    ):
        faults += _role_faults(key, step, kind, recipe, links, broken_steps)
    if release.report in recipe.steps and "report" in links.outputs[release.report].values():
        faults += _evidence_faults(release, links)
        faults += _gate_faults(release, links, raw)
    faults += _twice_faults(raw)
    return faults


def sets_of(report: str, links: Links) -> dict[str, str]:
    """The named sets that a report step computes: name -> measure."""
    return {
        f"{alternatives[0].reference.word}.{measure}": port
        for port, measure in MEASURES.items()
        for alternatives in links.inputs[report].get(port, [])
        if alternatives
    }


def _role_faults(
    key: str, step: str, kind: str, recipe: Recipe, links: Links, broken_steps: frozenset[str]
) -> list[Fault]:
    path: Path_ = ("release", key)
    fitting = [name for name, outputs in links.outputs.items() if next(iter(outputs.values()), None) == kind]
    if step in broken_steps:
        return []
    if step not in recipe.steps:
        near = did_you_mean(step, fitting, f"add a step that makes a {kind}")
        return [(path, f"there is no step '{step}'", near)]
    main = next(iter(links.outputs[step].values()), kind)
    if main != kind:
        remedy = did_you_mean(step, fitting, f"add a step that makes a {kind}")
        return [(path, f"step '{step}' makes {main}, not a {kind}", remedy)]
    return []


def _evidence_faults(release: Release, links: Links) -> list[Fault]:
    """The report must be about the candidate, and its sets must have names of their own."""
    faults: list[Fault] = []
    ports = links.inputs[release.report]
    judged = [each for alternatives in ports.get("model", []) for each in alternatives]
    if judged and release.candidate not in [each.step for each in judged]:
        message = f"judges '{judged[0].reference}', not the candidate '{release.candidate}'"
        place: Path_ = ("steps", release.report, "inputs", "model")
        faults.append((place, message, f"write model: {release.candidate}"))
    for port in MEASURES:
        words: list[str] = []
        for number, alternatives in enumerate(ports.get(port, [])):
            word = alternatives[0].reference.word if alternatives else None
            if word is not None and word in words:
                place = ("steps", release.report, "inputs", port, number)
                message = f"two sets would be called '{word}'"
                faults.append((place, message, "give one of the two another name under data:"))
            words += [word] if word is not None else []
    return faults


def _gate_faults(release: Release, links: Links, raw: Any) -> list[Fault]:
    faults: list[Fault] = []
    sets = sets_of(release.report, links)
    ports = links.inputs[release.report]
    # A set whose reference is at fault is reported there; gates on it would only repeat that.
    unsure = any(not alternatives for port in MEASURES for alternatives in ports.get(port, []))
    for gate in release.gates:
        path: Path_ = ("release", "gates", _position(gate, raw))
        faults += _rule_faults(gate, path)
        if gate.measure not in sets and not unsure:
            message = f"step '{release.report}' computes no '{gate.measure}'"
            word = gate.measure.partition(".")[0]
            same = [name for name in sets if name.partition(".")[0] == word]
            remedy = did_you_mean(gate.measure, same or sets, "give the report step documents or exams")
            faults.append(((*path, "measure"), message, remedy))
        if gate.against != "none" and gate.against not in ports:
            message = f"step '{release.report}' has no input '{gate.against}' to compare with"
            remedy = f"add {gate.against}: <model> to its inputs, or write against: none"
            faults.append(((*path, "against"), message, remedy))
    return faults


def _rule_faults(gate: Gate, path: Path_) -> list[Fault]:
    faults: list[Fault] = []
    if (gate.at_most is None) == (gate.at_least is None):
        faults.append((path, "needs exactly one of at_most and at_least", "say which value passes"))
    if gate.against == "none" and gate.change == "relative":
        remedy = "write against: baseline or champion, or change: absolute"
        faults.append(((*path, "change"), "'relative' has nothing to be relative to", remedy))
    return faults


def _written_gates(raw: Any) -> list[Any]:
    written = raw["release"].get("gates") if isinstance(raw.get("release"), dict) else None
    return written if isinstance(written, list) else []


def _position(gate: Gate, raw: Any) -> int:
    """Where a gate stands in the file: broken ones before it were cut out."""
    return next(
        (
            number
            for number, each in enumerate(_written_gates(raw))
            if isinstance(each, dict)
            and each.get("gate") == gate.gate
            and each.get("measure") == gate.measure
        ),
        0,
    )


def _twice_faults(raw: Any) -> list[Fault]:
    faults: list[Fault] = []
    names: list[Any] = []
    for number, each in enumerate(_written_gates(raw)):
        name = each.get("gate") if isinstance(each, dict) else None
        if isinstance(name, str) and name in names:
            place: Path_ = ("release", "gates", number, "gate")
            faults.append((place, f"there are two gates '{name}'", "give one another name"))
        names.append(name)
    return faults
