"""The parts of plans, step records and reports that a release reads. Unknown fields are others' business."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tasks.recipe.failures import ConfigInvalid, DataInvalid
from tasks.recipe.models import Gate
from tasks.recipe.plan import Rate

TRAINED = ("pretrain", "sft", "align", "distill")
"""Stages whose models have newly trained weights."""

MAIN_KINDS = ("adapter", "model", "report", "tokens", "reference", "validation", "training_log")
"""A step's main output is its first of these kinds (records do not keep the order of a method's outputs)."""


PARENTS = ("model", "adapter")
"""Kinds of artefact that a model can be made from."""


class Facts(BaseModel):
    """Base of what is read here."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Output(Facts):
    """One output of a step: its artefact's digest, kind and facts."""

    digest: str
    kind: str
    meta: dict[str, Any] = Field(default_factory=dict)


class StepRecord(Facts):
    """What a step did in a run."""

    fingerprint: str
    step: str
    stage: str
    method: str
    options: dict[str, Any] = Field(default_factory=dict)
    inputs: dict[str, list[str]] = Field(default_factory=dict)
    outputs: dict[str, Output]
    metrics: dict[str, float] = Field(default_factory=dict)
    figure: str = ""
    cached: bool = False
    reasons: list[str] = Field(default_factory=list)
    device_seconds: float = 0.0
    image: str = ""
    resources: str = ""
    cost: float | None = None
    energy_kwh: float | None = None
    mlflow_run: str | None = None

    def main(self) -> Output:
        """The output that stands for the step."""
        ranked = sorted(self.outputs, key=lambda name: (_rank(self.outputs[name].kind), name))
        return self.outputs[ranked[0]]

    def output(self, reference: str, kind: str) -> Output:
        """The output that `step` or `step.output` refers to; ConfigInvalid where it has not that kind.

        An adapter stands for the model that it makes of its base.
        """
        name = reference.partition(".")[2]
        found = self.outputs.get(name) if name else self.main()
        if found is None or (found.kind != kind and (found.kind, kind) != ("adapter", "model")):
            held = ", ".join(f"{key} ({value.kind})" for key, value in self.outputs.items())
            raise ConfigInvalid(f"release: '{reference}' is no {kind}; step '{self.step}' has {held}")
        return found


class Pinned(Facts):
    """An artefact that a plan names by digest."""

    digest: str
    kind: str = ""
    meta: dict[str, Any] = Field(default_factory=dict)


class ReleaseRules(Facts):
    """The recipe's `release` part, as the plan has it: with the gates of shipped sets written out."""

    candidate: str
    report: str
    approval: Literal["human", "none"] = "human"
    approvals: Literal[1, 2] = 1
    gates: list[Gate] = Field(default_factory=list)
    correction: Literal["bonferroni", "none"] = "bonferroni"


class PlannedStep(Facts):
    """A step of the plan, and the size of machine that it runs on."""

    name: str
    resources: str = "cpu"


class PlanFacts(Facts):
    """What a release reads of a frozen plan.

    Attributes:
        intent: Digest of what the plan sets out to do, the same for equal recipe, data and code.
        data: Every data set by name.
        recipe_digest: Digest of the recipe as resolved.
        uris: Every model that the recipe names by URI.
        bindings: What each champion reference stood for.
        created: When the plan was frozen; ISO 8601.
        effective: The recipe as it ran; the card reads what it states: owner, licence, intended use.
        code: Step -> digests of its code by folder.
        steps: What runs where.
        rates: What an hour of a device of each size took, when the run was planned.
        currency: Of the rates' prices.
    """

    run: str
    recipe: str
    model: str
    intent: str
    release: ReleaseRules
    data: dict[str, Pinned] = Field(default_factory=dict)
    uris: dict[str, Pinned] = Field(default_factory=dict)
    bindings: dict[str, Pinned | None] = Field(default_factory=dict)
    recipe_digest: str = ""
    created: str = ""
    description: str = ""
    code: dict[str, Any] = Field(default_factory=dict)
    effective: dict[str, Any] = Field(default_factory=dict)
    steps: list[PlannedStep] = Field(default_factory=list)
    rates: dict[str, Rate] = Field(default_factory=dict)
    currency: str = ""

    def licence_of(self, data: str) -> str:
        """What the recipe says of the licence of one of its data sets, "" where it says nothing."""
        return str((self.effective.get("data") or {}).get(data, {}).get("license") or "")

    def stated(self, name: str) -> str:
        """What the recipe says under a top-level key, "" where it says nothing."""
        return str(self.effective.get(name) or "")


class Value(Facts):
    """A measured value with the ends of its interval, and its distribution where the report keeps it."""

    value: float
    low: float | None = None
    high: float | None = None
    quantiles: dict[str, float] | None = None


class Delta(Facts):
    """The candidate's value less another's, and the same divided by the other's value.

    Attributes:
        quantiles: Probability -> the difference below which it lies with that probability.
        detectable: The smallest difference that the items would show.
    """

    difference: float
    low: float | None = None
    high: float | None = None
    relative: float | None = None
    relative_low: float | None = None
    relative_high: float | None = None
    quantiles: dict[str, float] | None = None
    relative_quantiles: dict[str, float] | None = None
    p_value: float | None = None
    detectable: float | None = None


class MeasuredSet(Facts):
    """One named set of the report with its measure."""

    name: str
    measure: str
    unit: str = ""
    better: Literal["lower", "higher"]
    items: int
    values: dict[str, Value | None]
    against: dict[str, Delta | None] = Field(default_factory=dict)


class ChangedItems(Facts):
    """The items of a set that became worse and better than under another model, by key.

    Attributes:
        set: The set's name.
        figure: What was looked at item by item.
        figures: The other figures of the set that follow from it.
        counts: How many items are `worse` and `better`.
        worse: Their keys: all of them, or those that changed most.
        better: Likewise.
    """

    set: str
    figure: str
    figures: list[str] = Field(default_factory=list)
    against: str
    counts: dict[Literal["worse", "better"], int]
    worse: list[str]
    better: list[str]


class Report(Facts):
    """report.json of the evaluate stage."""

    manifest_digest: str = ""
    models: dict[str, dict[str, Any] | None] = Field(default_factory=dict)
    sets: list[MeasuredSet]
    changed: list[ChangedItems] = Field(default_factory=list)

    def same_model(self, role: str) -> bool:
        """The model in this role is the candidate itself."""
        own, other = self.models.get("model"), self.models.get(role)
        return own is not None and other is not None and own.get("digest") == other.get("digest")


def read_report(path: Path) -> Report:
    """A report.json; DataInvalid where it is none."""
    try:
        return Report.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise DataInvalid(f"{path}: not a report of the evaluate stage: {error}") from error


def ancestors(records: Mapping[str, StepRecord], step: str) -> Iterator[StepRecord]:
    """The records of a step and of every step of the run that it was made from, each once."""
    makers: dict[str, str] = {}
    for record in records.values():
        for output in record.outputs.values():
            makers.setdefault(output.digest, record.step)
    waiting, seen = [step], {step}
    while waiting:
        record = records[waiting.pop()]
        yield record
        for digest in (digest for many in record.inputs.values() for digest in many):
            maker = makers.get(digest)
            if maker is not None and maker not in seen:
                seen.add(maker)
                waiting.append(maker)


def _rank(kind: str) -> int:
    return MAIN_KINDS.index(kind) if kind in MAIN_KINDS else len(MAIN_KINDS)
