"""What every reference in a recipe points at: the typed edges of the graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tasks.recipe import graph
from tasks.recipe.catalogue import Catalogue, MethodEntry, PortEntry
from tasks.recipe.failures import ConfigInvalid
from tasks.recipe.loading import Path_
from tasks.recipe.models import DataSource, Recipe, Step
from tasks.recipe.problems import did_you_mean
from tasks.recipe.references import Reference, implied_kind, parse_reference


@dataclass(frozen=True)
class Link:
    """One alternative of one input, resolved.

    Attributes:
        reference: As written, but naming the output where the step hands on and the reference was bare.
        kind: The kind of artefact; None where a problem reported elsewhere keeps it unknown.
        step: For references to steps.
        output: The output of that step.
        label: What the input is called, whatever it came through: `news` for `data.news` and `checked.news`.
    """

    reference: Reference
    kind: str | None
    step: str | None = None
    output: str | None = None
    label: str = ""


@dataclass
class Links:
    """All inputs of a recipe.

    Attributes:
        inputs: Step -> port -> items -> alternatives.
        outputs: Step -> output -> kind (None while unknown), the main output first.
        handed: Step -> those of its outputs that are inputs handed on.
        faults: Path of the offending key, message, remedy.
    """

    inputs: dict[str, dict[str, list[list[Link]]]] = field(default_factory=dict)
    outputs: dict[str, dict[str, str | None]] = field(default_factory=dict)
    handed: dict[str, set[str]] = field(default_factory=dict)
    faults: list[tuple[Path_, str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Known:
    """What references can point at.

    Attributes:
        data: Data sets that can be looked into.
        steps: Steps, likewise.
        catalogue: What their methods take and give.
        broken_steps: Names of steps whose own problems are reported elsewhere.
        broken_data: Names of data sets, likewise.
    """

    data: Mapping[str, DataSource]
    steps: Mapping[str, Step]
    catalogue: Catalogue
    broken_steps: frozenset[str] = frozenset()
    broken_data: frozenset[str] = frozenset()


def method_of(step: Step, catalogue: Catalogue) -> MethodEntry | None:
    """The step's method, or None where the catalogue has no such stage or method."""
    stage = catalogue.stages.get(step.stage)
    return stage.methods.get(step.method or stage.default) if stage else None


def kind_of(source: DataSource) -> str | None:
    """The kind of a data set: as written, or implied by its URI."""
    return source.kind or implied_kind(source.uri)


def written_references(step: Step) -> list[tuple[str, int | None, str]]:
    """Every reference of a step: port, position in a list or None, text."""
    found: list[tuple[str, int | None, str]] = []
    for port, given in step.inputs.items():
        if isinstance(given, str):
            found.append((port, None, given))
        else:
            found += [(port, number, text) for number, text in enumerate(given)]
    return found


def dependencies(steps: Mapping[str, Step]) -> dict[str, list[str]]:
    """Step -> the steps that it reads from, alternatives included, what cannot be parsed left out."""
    found: dict[str, list[str]] = {}
    for name, step in steps.items():
        needs: dict[str, None] = {}
        for _, _, text in written_references(step):
            try:
                references = list(parse_reference(text))
            except ConfigInvalid:
                continue
            needs.update(
                {each.name: None for each in references if each.kind == "step" and each.name in steps}
            )
        found[name] = list(needs)
    return found


def link(known: Known) -> Links:
    """Resolve every reference, in an order in which what is read has been resolved before."""
    links = Links()
    needs = dependencies(known.steps)
    in_order = graph.ordered_part(needs)
    for name in [*in_order, *(name for name in known.steps if name not in in_order)]:
        step = known.steps[name]
        method = method_of(step, known.catalogue)
        links.inputs[name] = {}
        for port, number, text in written_references(step):
            path: Path_ = ("steps", name, "inputs", port)
            path = path if number is None else (*path, number)
            entry = method.inputs.get(port) if method else None
            linked = _link_one(text, path, entry, known, links)
            links.inputs[name].setdefault(port, []).append(linked)
        links.outputs[name] = _outputs(name, step, method, links) if method else {}
    return links


def linked_recipe(recipe: Recipe, catalogue: Catalogue) -> Links:
    """Resolve the references of a recipe that has been checked."""
    return link(Known(recipe.data, recipe.steps, catalogue))


def _outputs(name: str, step: Step, method: MethodEntry, links: Links) -> dict[str, str | None]:
    outputs: dict[str, str | None] = {output.name: output.kind for output in method.outputs}
    if not method.hands_on:
        return outputs
    handed = links.handed.setdefault(name, set())
    items = (alternatives for many in links.inputs[name].values() for alternatives in many)
    for (port, number, text), alternatives in zip(written_references(step), items, strict=True):
        # Where the reference is at fault its name still counts, so that nobody reports it missing as well.
        word = alternatives[0].reference.word if alternatives else text.rsplit(".", 1)[-1]
        if word in outputs:
            path: Path_ = ("steps", name, "inputs", port)
            message = f"two outputs of this step would be called '{word}'"
            remedy = "what it hands on keeps its name: give one of the two another name under data:"
            links.faults.append((path if number is None else (*path, number), message, remedy))
        outputs[word] = alternatives[0].kind if alternatives else None
        handed.add(word)
    return outputs


def _link_one(text: str, path: Path_, port: PortEntry | None, known: Known, links: Links) -> list[Link]:
    try:
        references = list(parse_reference(text))
    except ConfigInvalid as error:
        message, _, remedy = str(error).partition("; ")
        links.faults.append((path, message, remedy))
        return []
    found: list[Link] = []
    for reference in references:
        linked = _resolve(reference, path, port, known, links)
        if linked is None:
            continue
        found.append(linked)
        if port and linked.kind and linked.kind not in port.kinds:
            message = f"takes {' or '.join(port.kinds)}, but '{reference}' is {_article(linked.kind)}"
            remedy = _fitting(port.kinds, path, known, links)
            if reference.kind == "uri":
                remedy = "a URI in an input is a model; name a data set under data: and write data.<name>"
            links.faults.append((path, message, remedy))
    return found


def _resolve(
    reference: Reference, path: Path_, port: PortEntry | None, known: Known, links: Links
) -> Link | None:
    if reference.kind == "data":
        if reference.name in known.data:
            return Link(reference, kind_of(known.data[reference.name]), label=reference.name)
        if reference.name not in known.broken_data:
            names = [*known.data, *known.broken_data]
            remedy = did_you_mean(reference.name, names, "name it under data:")
            links.faults.append((path, f"there is no data set '{reference.name}'", remedy))
        return None
    if reference.kind == "uri":
        kind = implied_kind(reference.name)
        if kind not in (None, "model"):
            remedy = "name it under data: and write data.<name>"
            links.faults.append((path, f"'{reference}' is a data set; a URI in an input is a model", remedy))
            return None
        return Link(reference, "model")
    if reference.kind == "champion":
        # A step that this recipe no longer has may still have made the champion: its kind is not known here.
        step = known.steps.get(reference.name)
        method = method_of(step, known.catalogue) if step else None
        kind = method.outputs[0].kind if method else None if reference.name else "model"
        if reference.output is not None:
            kinds = {output.name: output.kind for output in method.outputs} if method else {}
            kind = kinds.get(reference.output)
            if method and kind is None and not method.hands_on:
                message = f"step '{reference.name}' has no output '{reference.output}'"
                links.faults.append((path, message, did_you_mean(reference.output, list(kinds))))
                return None
        return Link(reference, kind, label=str(reference).partition(".")[2] or "champion")
    if reference.name in known.steps:
        return _resolve_step(reference, path, port, links)
    if reference.name not in known.broken_steps:
        remedy = did_you_mean(reference.name, [*known.steps, *known.broken_steps])
        if reference.name in known.data:
            remedy = f"did you mean 'data.{reference.name}'?"
        links.faults.append((path, f"there is no step '{reference.name}'", remedy))
    return None


def _resolve_step(reference: Reference, path: Path_, port: PortEntry | None, links: Links) -> Link | None:
    outputs = links.outputs.get(reference.name)
    if not outputs:
        # On a cycle, or of an unknown method: reported there.
        return Link(reference, None, reference.name, reference.output, str(reference))
    if reference.output is not None:
        if reference.output not in outputs:
            message = f"step '{reference.name}' has no output '{reference.output}'"
            links.faults.append((path, message, did_you_mean(reference.output, list(outputs))))
            return None
        return _of_output(reference, reference.output, outputs, links)
    main = next(iter(outputs))
    handed = links.handed.get(reference.name)
    if not handed or port is None:
        return Link(reference, outputs[main], reference.name, main, reference.name)
    fitting = [output for output in outputs if outputs[output] in port.kinds]
    if len(fitting) > 1:
        choices = ", ".join(f"{reference.name}.{output}" for output in fitting)
        message = f"'{reference.name}' hands on several that fit: {choices}"
        links.faults.append((path, message, f"name one: {reference.name}.{fitting[0]}"))
        return None
    if not fitting:
        if None in outputs.values():
            return None
        message = f"takes {' or '.join(port.kinds)}, and '{reference.name}' hands on none"
        remedy = f"give it to '{reference.name}' first; it hands on {', '.join(sorted(handed))}"
        links.faults.append((path, message, remedy))
        return None
    named = Reference("step", reference.name, fitting[0])
    return _of_output(named, fitting[0], outputs, links)


def _of_output(reference: Reference, output: str, outputs: Mapping[str, str | None], links: Links) -> Link:
    label = output if output in links.handed.get(reference.name, ()) else str(reference)
    return Link(reference, outputs[output], reference.name, output, label)


def _fitting(kinds: Sequence[str], path: Path_, known: Known, links: Links) -> str:
    """A remedy that lists what would fit."""
    own = path[1]
    fits = [f"data.{name}" for name, source in known.data.items() if kind_of(source) in kinds]
    for name, outputs in links.outputs.items():
        main = next(iter(outputs), None)
        if name != own:
            fits += [
                name if output == main else f"{name}.{output}"
                for output, kind in outputs.items()
                if kind in kinds
            ]
    return f"what fits: {', '.join(fits)}" if fits else f"nothing in this recipe is {_article(kinds[0])}"


def _article(kind: str) -> str:
    """`a model`, `documents`: a kind in a sentence."""
    return kind if kind.endswith("s") else f"a {kind.replace('_', ' ')}"
