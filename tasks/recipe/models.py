"""The recipe as typed objects. Meaning that spans several keys is checked in check.py and its neighbours."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, StringConstraints, Tag

from tasks.recipe.gate_sets.options import GateSets

NAME = r"^[a-z][a-z0-9_-]*$"
"""Names of recipes, data, steps and gates: lower-case letters, digits, `_` and `-`, first a letter."""

RESERVED = frozenset({"champion", "data", "or"})
"""Words of the reference language, which no step can be called."""

Name = Annotated[str, StringConstraints(pattern=NAME)]
DataKind = Literal[
    "documents", "chats", "pairs", "exams", "facts", "questions", "programs", "requests", "prompts"
]
"""The kinds of data sets; the other kinds of artefact are made by steps, models also named by URI."""

Resources = Literal["cpu", "gpu", "large"]
"""Sizes of machine."""


def _one_or_many(value: Any) -> str:
    return "many" if isinstance(value, list) else "one"


Given = Annotated[Annotated[str, Tag("one")] | Annotated[list[str], Tag("many")], Discriminator(_one_or_many)]
"""An input: one reference or a list. The tags make an error speak of the branch that is meant."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class DataSource(_Part):
    """A named data set.

    Attributes:
        uri: Where it is: `s3://`, `file://`, `hf://`, `pydocs://`, `models:/`.
        kind: What it is; may be left out where the URI implies it.
        split: `train` and `heldout` divide by a hash of the rows' keys, so a row never changes sides.
        options: How to read it (format, columns); what there is depends on the source.
        license: Of the data, for the model's card; an SPDX name.
    """

    uri: str = Field(min_length=1)
    kind: DataKind | None = None
    split: Literal["all", "train", "heldout"] = "all"
    options: dict[str, Any] = {}
    license: str = ""


class Step(_Part):
    """A node of the recipe's graph.

    Attributes:
        stage: The kind of work: a folder of tasks/.
        method: One way of doing it; the stage's first where left out.
        inputs: Port -> reference, or a list of references where the port takes many.
        options: The method's options that differ from its defaults.
        resources: The size of machine: `cpu`, `gpu` or `large`.
        seed: The recipe's seed where left out.
    """

    stage: str
    method: str | None = None
    inputs: dict[str, Given] = {}
    options: dict[str, Any] = {}
    resources: Resources = "cpu"
    seed: int | None = Field(None, ge=0, lt=2**32)


class Schedule(_Part):
    """When the recipe runs by itself: at times, on new data, or whichever comes first.

    Attributes:
        cron: Five fields, UTC.
        on: Names of assets whose update starts a run.
    """

    cron: str | None = None
    on: list[str] = []


class Budget(_Part):
    """What a run may take: it is stopped, with everything kept, before it would take more.

    Attributes:
        device_hours: Hours of devices, all steps and attempts together.
        cost: By the price table, in its currency (tasks/release/prices.yaml).
    """

    device_hours: float | None = Field(None, gt=0)
    cost: float | None = Field(None, gt=0)


class Gate(_Part):
    """A rule that the evidence must satisfy. Exactly one of the four limits is given.

    Attributes:
        gate: The rule's name.
        measure: `<set>.<figure>` of the report, or a figure of the run: `run.device_hours`, `run.cost`,
            `model.bytes`, `model.parameters`, `model.latency_ms`.
        against: What the candidate's value is compared with; `none` judges the value itself.
        change: `relative` divides the difference by the other's value.
        at_most: The largest value (or change) that passes.
        at_least: The smallest value (or change) that passes.
        better_by: The change for the better, whichever way that is, must be larger than this.
        worse_by: The largest change for the worse that passes.
        bound: Which end of the report's interval is judged, or the value, where there is no `confidence`.
        confidence: With it the gate passes only if its limit is kept with this confidence, fails if it is
            broken with this confidence, and is undecided otherwise; one-sided, before `Release.correction`.
        severity: `stop` forbids the release, `warn` only says so.
        reason: Why the rule is there, for the person who reads the verdict.
    """

    gate: Name
    measure: str
    against: Literal["baseline", "champion", "none"] = "none"
    change: Literal["relative", "absolute"] = "absolute"
    at_most: float | None = None
    at_least: float | None = None
    better_by: float | None = Field(None, ge=0)
    worse_by: float | None = Field(None, ge=0)
    bound: Literal["value", "low", "high"] = "value"
    confidence: float | None = Field(None, gt=0.5, lt=1)
    severity: Literal["stop", "warn"] = "stop"
    reason: str = Field(min_length=1)


NOBODY = "nobody"
"""Who decided where no person did: a question that ran out of time rejects, and is asked again."""


class Smoke(_Part):
    """A test that a version must pass around its promotion: load it, give it a prompt, compare the answer.

    Attributes:
        prompt: The beginning of a text; with `chat`, a user's message.
        tokens: Tokens of the answer that are compared, at most.
        chat: The model's chat template renders the prompt.
    """

    prompt: str = Field(min_length=1)
    tokens: int = Field(16, ge=1, le=512)
    chat: bool = False


class Release(_Part):
    """What becomes a version of the model, on what evidence, and who decides.

    Attributes:
        candidate: The step whose model is released.
        report: The step whose report is the evidence.
        approval: `human` waits for a person, `none` promotes once the gates pass.
        approvals: How many different people must approve, 1 or 2.
        gates: The rules.
        gate_sets: Shipped sets of rules; in a plan they are written out among the gates.
        correction: `bonferroni` divides the error that each gate's confidence leaves by the number of gates
            with one, so that the confidence holds for all verdicts together; `none` does not.
        prices: Size of machine -> price of an hour, in the currency of the price table (PERENNIAL_PRICES),
            whose prices they take the place of: in the run's cost, its budget and the gate on `run.cost`.
        smoke: A test around the promotion: the model loads and gives the answer it was registered with.
        export: Forms in which a promoted version is handed over at once, into PERENNIAL_EXPORTS.
    """

    candidate: str
    report: str
    approval: Literal["human", "none"] = "human"
    approvals: Literal[1, 2] = 1
    gates: list[Gate] = []
    gate_sets: GateSets = GateSets()
    correction: Literal["bonferroni", "none"] = "bonferroni"
    prices: dict[Resources, Annotated[float, Field(ge=0)]] = {}
    smoke: Smoke | None = None
    export: list[Literal["huggingface", "gguf", "vllm"]] = []


class Recipe(_Part):
    """A recipe: data, a graph of steps, release rules, a schedule.

    Attributes:
        recipe: Its name; the DAG is `train__<name>`.
        model: The registered model that it maintains.
        description: For people.
        owner: Who answers for it.
        license: Of the model, for its card; an SPDX name.
        intended_use: What the model is for, and what it is not for; for its card.
        tags: For the lists in the user interfaces.
        schedule: When it runs by itself; only by hand where left out.
        seed: The seed of every step that has none of its own.
        data: Named data sets.
        steps: The graph.
        budget: What a run may take; it changes no result, so that raising it leaves all that is done valid.
        release: Without it, nothing is registered.
        form: `step.option` entries that the trigger form offers as typed fields.
    """

    recipe: Name
    model: Annotated[str, StringConstraints(pattern=r"^[^/:\s]+$")]
    description: str = ""
    owner: str = ""
    license: str = ""
    intended_use: str = ""
    tags: list[str] = []
    schedule: Schedule | None = None
    seed: int = Field(0, ge=0, lt=2**32)
    data: dict[Name, DataSource] = {}
    steps: dict[Name, Step]
    budget: Budget | None = None
    release: Release | None = None
    form: list[str] = []
