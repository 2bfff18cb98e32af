"""The release section: the candidate, the evidence, and gates that the evidence can answer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tasks.recipe.catalogue import Catalogue
from tasks.recipe.gate_sets.expand import RUN_FIGURES, Evidence, expanded
from tasks.recipe.gate_sets.faults import set_faults
from tasks.recipe.gate_sets.options import GateSets
from tasks.recipe.links import Links, linked_recipe, method_of
from tasks.recipe.loading import Path_
from tasks.recipe.models import Gate, Recipe, Release
from tasks.recipe.problems import did_you_mean
from tasks.recipe.structure import Fault

MODELS = ("baseline", "champion")
"""The ports of a report step with what the candidate is compared with."""

ONLY_WITH = (("few_shot", "shots"), ("wording_unseen_", "wordings_unseen"), ("wording_", "wordings"))
"""Figures by their start, and the option of the report step without which they are not computed."""

PROBES = "probes"
"""The port of a report step that takes the outcomes of probes, each a step of its own."""


def release_faults(
    recipe: Recipe, links: Links, catalogue: Catalogue, broken_steps: frozenset[str], raw: Any
) -> list[Fault]:
    """What is wrong with the release section."""
    release = recipe.release
    assert release is not None
    faults: list[Fault] = []
    if release.approvals > 1 and release.approval == "none":
        message = f"asks for {release.approvals} people, but 'approval: none' asks nobody"
        faults.append((("release", "approvals"), message, "leave it out, or write approval: human"))
    for key, step, kind in (
        ("candidate", release.candidate, "model"),
        ("report", release.report, "report"),
    ):
        faults += _role_faults(key, step, kind, recipe, links, broken_steps)
    if release.report in recipe.steps and "report" in links.outputs[release.report].values():
        evidence = evidence_of(recipe, links, catalogue)
        faults += _evidence_faults(release, links, catalogue, recipe)
        faults += _gate_faults(release, links, evidence, raw)
        faults += _empty_set_faults(raw)
        faults += set_faults(recipe, evidence, sure=not _unsure(release, links))
    faults += _twice_faults(raw)
    return faults


def evidence_of(recipe: Recipe, links: Links, catalogue: Catalogue) -> Evidence:
    """The named sets that the recipe's report step computes with their figures, and what it compares with."""
    assert recipe.release is not None
    report = recipe.release.report
    ports = links.inputs[report]
    method = method_of(recipe.steps[report], catalogue)
    found: dict[str, tuple[str, ...]] = {}
    probed: dict[str, list[str]] = {}
    options = recipe.steps[report].options
    for port, figures in (method.figures if method else {}).items():
        for word in _words(links, report, port):
            found[word] = tuple(figure for figure in figures if _asked(figure, options))
    for probe in _words(links, report, PROBES):
        step = recipe.steps.get(probe)
        made = method_of(step, catalogue) if step else None
        if made is not None:
            found[probe] = tuple(made.figures.get("", ()))
            probed[probe] = [port for port in MODELS if port in links.inputs[probe]]
    return Evidence(found, [port for port in MODELS if port in ports], probed)


def _asked(figure: str, options: Mapping[str, Any]) -> bool:
    """Whether the options ask for a figure, where it takes an option to have it."""
    for start, option in ONLY_WITH:
        if figure.startswith(start) and not options.get(option):
            return False
    shots = re.fullmatch(r"accuracy_(\d+)", figure)
    return shots is None or int(shots[1]) in (options.get("shots") or ())


def with_gates(recipe: Recipe, catalogue: Catalogue) -> Release | None:
    """The release rules of a recipe that has been checked, with the gates of its sets written out."""
    release = recipe.release
    if release is None:
        return None
    evidence = evidence_of(recipe, linked_recipe(recipe, catalogue), catalogue)
    return release.model_copy(update={"gates": expanded(release, evidence), "gate_sets": GateSets()})


def _words(links: Links, report: str, port: str) -> list[str]:
    """What the sets of a port, or the steps of the probes, are called."""
    first = [alternatives[0] for alternatives in links.inputs[report].get(port, []) if alternatives]
    return [(each.step or each.reference.word) if port == PROBES else each.reference.word for each in first]


def _role_faults(
    key: str, step: str, kind: str, recipe: Recipe, links: Links, broken_steps: frozenset[str]
) -> list[Fault]:
    path: Path_ = ("release", key)
    kinds = ("model", "adapter") if kind == "model" else (kind,)  # an adapter stands for the model it makes
    fitting = [name for name, outputs in links.outputs.items() if next(iter(outputs.values()), None) in kinds]
    if step in broken_steps:
        return []
    if step not in recipe.steps:
        near = did_you_mean(step, fitting, f"add a step that makes a {kind}")
        return [(path, f"there is no step '{step}'", near)]
    main = next(iter(links.outputs[step].values()), kind)
    if main not in kinds:
        remedy = did_you_mean(step, fitting, f"add a step that makes a {kind}")
        return [(path, f"step '{step}' makes {main}, not a {kind}", remedy)]
    return []


def _evidence_faults(release: Release, links: Links, catalogue: Catalogue, recipe: Recipe) -> list[Fault]:
    """The report must be about the candidate, and its sets must have names of their own."""
    faults: list[Fault] = []
    ports = links.inputs[release.report]
    judged = [each for alternatives in ports.get("model", []) for each in alternatives]
    if judged and release.candidate not in [each.step for each in judged]:
        message = f"judges '{judged[0].reference}', not the candidate '{release.candidate}'"
        place: Path_ = ("steps", release.report, "inputs", "model")
        faults.append((place, message, f"write model: {release.candidate}"))
    method = method_of(recipe.steps[release.report], catalogue)
    for port in method.figures if method else ():
        words: list[str] = []
        for number, alternatives in enumerate(ports.get(port, [])):
            word = alternatives[0].reference.word if alternatives else None
            if word is not None and word in words:
                place = ("steps", release.report, "inputs", port, number)
                message = f"two sets would be called '{word}'"
                faults.append((place, message, "give one of the two another name under data:"))
            words += [word] if word is not None else []
    return faults


def _gate_faults(release: Release, links: Links, evidence: Evidence, raw: Any) -> list[Fault]:
    faults: list[Fault] = []
    known = [*evidence.measures, *RUN_FIGURES]
    unsure = _unsure(release, links)
    for gate in release.gates:
        path: Path_ = ("release", "gates", _position(gate, raw))
        faults += _rule_faults(gate, path)
        word = gate.measure.rpartition(".")[0]
        if gate.measure not in known and not unsure:
            message = f"step '{release.report}' computes no '{gate.measure}'"
            same = [name for name in known if name.rpartition(".")[0] == word]
            near = same or evidence.measures
            remedy = did_you_mean(gate.measure, near, "give the report step documents or exams")
            faults.append(((*path, "measure"), message, remedy))
        if gate.measure in RUN_FIGURES and (gate.against != "none" or gate.confidence is not None):
            message = f"'{gate.measure}' is one known number: there is nothing to compare or to be sure of"
            remedy = "leave against and confidence out; limit it with at_most"
            faults.append((path, message, remedy))
        elif gate.against != "none" and gate.against not in evidence.models(word):
            step = word if word in evidence.probed else release.report
            message = f"step '{step}' has no input '{gate.against}' to compare with"
            remedy = f"add {gate.against}: <model> to its inputs, or write against: none"
            faults.append(((*path, "against"), message, remedy))
    if release.correction != "bonferroni" and not any(
        gate.confidence is not None for gate in expanded(release, evidence)
    ):
        remedy = "give gates a confidence, or leave it out"
        faults.append((("release", "correction"), "corrects nothing: no gate has a confidence", remedy))
    return faults


def _unsure(release: Release, links: Links) -> bool:
    """A set whose reference is at fault is reported there; gates on it would only repeat that."""
    ports = links.inputs[release.report]
    return any(not alternatives for port in ports for alternatives in ports[port])


def _rule_faults(gate: Gate, path: Path_) -> list[Fault]:
    faults: list[Fault] = []
    limits = (gate.at_most, gate.at_least, gate.better_by, gate.worse_by)
    if sum(limit is not None for limit in limits) != 1:
        message = "needs exactly one of at_most, at_least, better_by and worse_by"
        faults.append((path, message, "say which value or change passes"))
    if gate.against == "none":
        for name in ("better_by", "worse_by"):
            if getattr(gate, name) is not None:
                remedy = "write against: baseline or champion, or limit the value with at_most or at_least"
                faults.append(((*path, name), f"'{name}' has nothing to compare with", remedy))
        if gate.change == "relative":
            remedy = "write against: baseline or champion, or change: absolute"
            faults.append(((*path, "change"), "'relative' has nothing to be relative to", remedy))
    if gate.confidence is not None and gate.bound != "value":
        remedy = "leave 'bound' out: with a confidence the gate's own interval is judged"
        faults.append(((*path, "bound"), "has no effect beside a confidence", remedy))
    return faults


def _empty_set_faults(raw: Any) -> list[Fault]:
    written = raw["release"].get("gate_sets") if isinstance(raw.get("release"), dict) else None
    return [
        (
            ("release", "gate_sets", name),
            "is empty",
            f"write {name}: {{}} to take it as it is, or leave it out",
        )
        for name, rules in (written.items() if isinstance(written, dict) else ())
        if rules is None
    ]


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
