"""Plans: a recipe with every reference, default and parameter resolved and frozen for one run.

Pure: what the world holds (data, the champion, models by URI, code) is passed in, and nothing reads a clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

from tasks.recipe import graph
from tasks.recipe.catalogue import Catalogue
from tasks.recipe.failures import ConfigInvalid
from tasks.recipe.fingerprints import canonical, digest
from tasks.recipe.links import Link, Links, dependencies, linked_recipe
from tasks.recipe.models import Budget, Recipe, Release
from tasks.recipe.options import resolved
from tasks.recipe.overrides import overrides_arguments
from tasks.recipe.release_rules import with_gates

FORMAT = 1


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Pinned(_Frozen):
    """An artefact that exists.

    Attributes:
        digest: Its name.
        kind: What it is.
        meta: Small facts: rows, tokens, parameters.
    """

    digest: str
    kind: str
    meta: dict[str, Any] = {}


class Rate(_Frozen):
    """What a device of one size of machine takes: price of an hour (None: not known) and power in watts."""

    price: float | None = None
    watts: float | None = None


class PlannedInput(_Frozen):
    """One input of a planned step: an artefact that exists (`digest`) or an output of a step before.

    Attributes:
        ref: The reference that was chosen, e.g. `checked.news`.
        kind: The kind of artefact.
        label: What it is called whatever it came through; part of the fingerprint.
        step: The step that makes it.
        output: The output of that step.
        digest: The artefact, for data, the champion and URIs.
    """

    ref: str
    kind: str
    label: str = ""
    step: str | None = None
    output: str | None = None
    digest: str | None = None


class PlannedStep(_Frozen):
    """One step with everything decided.

    Attributes:
        name: The step's name in the recipe.
        stage: The kind of work.
        method: The way of doing it.
        options: Every option of the method, defaults filled in.
        seed: The step's own or the recipe's.
        resources: `cpu`, `gpu` or `large`.
        inputs: Port -> inputs.
        outputs: Output -> kind, the main output first, then what is handed on.
        hands_on: It hands its inputs on.
    """

    name: str
    stage: str
    method: str
    options: dict[str, Any]
    seed: int
    resources: str
    inputs: dict[str, list[PlannedInput]]
    outputs: dict[str, str]
    hands_on: bool


class Plan(_Frozen):
    """A run, frozen: written once, read by every step.

    Attributes:
        format: Of this file.
        run: The id of the run.
        created: When it was frozen; ISO 8601.
        recipe: The recipe's name.
        model: The registered model.
        description: The recipe's text.
        owner: Who answers for the recipe.
        license: Of the model.
        recipe_digest: Of the effective recipe (sha256 of its canonical JSON).
        effective: The recipe as it runs, overrides included.
        overrides: What was changed for this run, as `key=value`.
        refresh: Steps to run although nothing changed.
        steps: In an order in which they can run.
        data: The pinned data sets.
        uris: The pinned models named by URI.
        bindings: What each champion reference stood for; None while there was no champion.
        release: The release rules, the gates of shipped sets written out.
        code: Step -> digests of its code by folder, and `versions` of libraries.
        budget: What the run may take, as the recipe has it.
        rates: Size of machine -> what it took when this was planned.
        currency: Of the prices.
        intent: Of everything that determines the results but the champion: equal intents are the same work.
    """

    format: int = FORMAT
    run: str
    created: str
    recipe: str
    model: str
    description: str
    owner: str = ""
    license: str = ""
    recipe_digest: str
    effective: dict[str, Any]
    overrides: list[str]
    refresh: list[str]
    steps: list[PlannedStep]
    data: dict[str, Pinned]
    uris: dict[str, Pinned]
    bindings: dict[str, Pinned | None]
    release: Release | None
    code: dict[str, dict[str, Any]]
    intent: str
    budget: Budget | None = None
    rates: dict[str, Rate] = {}
    currency: str = ""

    def to_bytes(self) -> bytes:
        """The plan as canonical JSON."""
        return canonical(self.model_dump(mode="json"))

    @classmethod
    def from_bytes(cls, data: bytes) -> Plan:
        """Read a plan; raises ConfigInvalid if it is of another format."""
        plan = cls.model_validate_json(data)
        if plan.format != FORMAT:
            raise ConfigInvalid(
                f"the plan is of format {plan.format}, this program reads {FORMAT}: plan anew"
            )
        return plan


@dataclass(frozen=True)
class _World:
    """What exists outside of the recipe."""

    data: Mapping[str, Pinned]
    champion: Mapping[str, Pinned | None]
    uris: Mapping[str, Pinned]


def resolve(
    recipe: Recipe,
    catalogue: Catalogue,
    data: Mapping[str, Pinned],
    champion: Mapping[str, Pinned | None],
    uris: Mapping[str, Pinned],
    *,
    code: Mapping[str, Mapping[str, Any]],
    run: str,
    created: str,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    refresh: Sequence[str] = (),
    rates: Mapping[str, Rate] | None = None,
    currency: str = "",
) -> Plan:
    """Freeze a recipe that has been checked.

    Args:
        recipe: The recipe, overrides applied.
        catalogue: The methods.
        data: Name -> artefact of every data set that the steps read.
        champion: `champion`, `champion.<step>` or `champion.<step>.<output>` -> artefact, None while there
            is none.
        uris: URI -> artefact of every model named by URI.
        code: Step -> digests of its code.
        run: The id of the run.
        created: When; ISO 8601.
        overrides: What was changed for this run, for the record.
        refresh: Steps to run although nothing changed.
        rates: What each size of machine takes.
        currency: Of the rates' prices.

    Raises:
        ConfigInvalid: A reference stands for nothing, or for something of the wrong kind.
    """
    links = linked_recipe(recipe, catalogue)
    if links.faults:
        path, message, remedy = links.faults[0]
        raise ConfigInvalid(f"{'.'.join(str(part) for part in path)}: {message}; {remedy}")
    world = _World(data, champion, uris)
    steps: list[PlannedStep] = []
    for name in graph.order(dependencies(recipe.steps)):
        steps.append(_step(name, recipe, catalogue, links, world, steps))
    release = with_gates(recipe, catalogue)
    effective = recipe.model_dump(mode="json", exclude_unset=True)
    arguments = overrides_arguments(overrides) if isinstance(overrides, Mapping) else list(overrides)
    return Plan(
        run=run,
        created=created,
        recipe=recipe.recipe,
        model=recipe.model,
        description=recipe.description,
        owner=recipe.owner,
        license=recipe.license,
        recipe_digest=digest(effective),
        effective=effective,
        overrides=arguments,
        refresh=list(refresh),
        steps=steps,
        data=dict(data),
        uris=dict(uris),
        bindings=dict(champion),
        release=release,
        code={name: dict(code[name]) for name in recipe.steps},
        intent=_intent(recipe, release, steps, links, world, code),
        budget=recipe.budget,
        rates=dict(rates or {}),
        currency=currency,
    )


def _step(
    name: str,
    recipe: Recipe,
    catalogue: Catalogue,
    links: Links,
    world: _World,
    before: Sequence[PlannedStep],
) -> PlannedStep:
    step = recipe.steps[name]
    method = catalogue.method(step.stage, step.method)
    made = {planned.name: planned.outputs for planned in before}
    inputs: dict[str, list[PlannedInput]] = {}
    outputs = {output.name: output.kind for output in method.outputs}
    for port, items in links.inputs[name].items():
        entry = method.inputs[port]
        for alternatives in items:
            place = f"steps.{name}.inputs.{port}"
            chosen = _choose(alternatives, place, world, made, optional=entry.optional)
            if chosen is None:
                continue
            if chosen.kind not in entry.kinds:
                kinds = " or ".join(entry.kinds)
                raise ConfigInvalid(f"{place}: takes {kinds}, but '{chosen.ref}' is of kind {chosen.kind}")
            inputs.setdefault(port, []).append(chosen)
            if method.hands_on:
                outputs[chosen.ref.rsplit(".", 1)[-1]] = chosen.kind
    return PlannedStep(
        name=name,
        stage=step.stage,
        method=step.method or catalogue.default_method(step.stage),
        options=resolved(method, step.options),
        seed=recipe.seed if step.seed is None else step.seed,
        resources=step.resources,
        inputs=inputs,
        outputs=outputs,
        hands_on=method.hands_on,
    )


def _choose(
    alternatives: Sequence[Link],
    place: str,
    world: _World,
    made: Mapping[str, Mapping[str, str]],
    *,
    optional: bool,
) -> PlannedInput | None:
    """The first alternative that exists; None for an optional input while there is no champion."""
    for link in alternatives:
        name = str(link.reference)
        if link.reference.kind == "step":
            step, output = str(link.step), str(link.output)
            if output not in made[step]:
                raise ConfigInvalid(
                    f"{place}: '{name}' is not there, since '{step}' had no champion to hand on"
                )
            return PlannedInput(ref=name, kind=made[step][output], label=link.label, step=step, output=output)
        pin = _pin(link, place, world)
        if pin is not None:
            return PlannedInput(ref=name, kind=pin.kind, label=link.label, digest=pin.digest)
    if optional:
        return None
    wanted = str(alternatives[0].reference)
    instead = wanted.partition(".")[2] or "<step>"
    raise ConfigInvalid(
        f"{place}: there is no '{wanted}' yet, and the step cannot do without; "
        f'write "{wanted} or {instead}" to say what the first run takes'
    )


def _pin(link: Link, place: str, world: _World) -> Pinned | None:
    reference = link.reference
    pins: Mapping[str, Pinned | None] = {
        "data": world.data,
        "champion": world.champion,
        "uri": world.uris,
    }[reference.kind]
    name = reference.name if reference.kind == "data" else str(reference)
    if name not in pins:
        raise ConfigInvalid(f"{place}: '{reference}' was not pinned; plan the recipe again")
    return pins[name]


def _intent(
    recipe: Recipe,
    release: Release | None,
    steps: Sequence[PlannedStep],
    links: Links,
    world: _World,
    code: Mapping[str, Mapping[str, Any]],
) -> str:
    """The digest of the work that a plan means, whatever the champion is at the moment."""

    def means(link: Link) -> list[str]:
        if link.reference.kind in ("data", "uri"):
            pins = world.data if link.reference.kind == "data" else world.uris
            return [link.label, pins[link.reference.name].digest]
        return [link.label, str(link.reference)]

    return digest(
        {
            "format": FORMAT,
            "model": recipe.model,
            "release": release.model_dump(mode="json") if release else None,
            "steps": {
                step.name: {
                    "stage": step.stage,
                    "method": step.method,
                    "options": step.options,
                    "seed": step.seed,
                    "code": code[step.name],
                    "inputs": {
                        port: [[means(link) for link in alternatives] for alternatives in items]
                        for port, items in links.inputs[step.name].items()
                    },
                }
                for step in steps
            },
        }
    )
