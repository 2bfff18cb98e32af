"""The contract between the runner and the stages.

A stage is a folder of tasks/ whose `__init__.py` holds `METHODS`, a plain dictionary of `Method`; the first
entry is the stage's default. A method's `run` gets a `StepContext` (verified inputs, empty output
directories, a deterministic scratch directory, checkpoints) and its validated options, fills its outputs and
returns a `Result`. It never talks to the store, to MLflow or to Airflow: the runner does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict

from tasks.recipe.failures import ConfigInvalid

KINDS = (
    "documents",  # rows.jsonl: {"key": str, "text": str}
    "chats",  # rows.jsonl: {"key": str, "messages": [{"role": "user"|"assistant"|"system", "content": str}]}
    "pairs",  # rows.jsonl: {"key": str, "prompt": [message...], "chosen": [message], "rejected": [message]}
    "exams",  # rows.jsonl: {"key": str, "question": str, "options": [str, ...], "answer": int}
    "facts",  # rows.jsonl: {"key": str, "prompt": str, "answer": str, "aliases"?: [str], "relation"?: str}
    "questions",  # rows.jsonl: {"key": str, "question": str, "answers": [str, ...]}
    "programs",  # rows.jsonl: {"key": str, "prompt": str, "tests": str, "entry_point"?: str}
    "requests",  # rows.jsonl: {"key": str, "prompt": str, "refuse": bool}
    "prompts",  # rows.jsonl: {"key": str, "prompt": str}
    "validation",  # result.json, page.html
    "tokens",  # a memory-mapped token cache, packed (tasks/prepare)
    "model",  # a Hugging Face causal LM directory: config.json, *.safetensors, tokenizer.json, ...
    "adapter",  # adapter_config.json, adapter_model.safetensors (peft's), base.json: the model it is bound to
    "training_log",  # training.jsonl: {"step", "samples", "tokens", "loss", "lr", ...}, no wall-clock times
    "reference",  # reference log-probabilities of preference pairs (tasks/align)
    "report",  # report.json, report.html, items/*.parquet, restricted/* with text (tasks/evaluate)
    "probe",  # probe.json, items/*.parquet: figures that a report takes in (tasks/evaluate/probes)
    "canaries",  # rows.jsonl: {"key", "planted": bool, "prompt", "secret", "twins": [str]} (tasks/prepare)
)
"""The kinds of artefact. Datasets are one file `rows.jsonl`, UTF-8, one JSON object a line; every row may
have a `group`, the slice that it belongs to in an evaluation."""


class Options(BaseModel):
    """Base of every method's options: unknown keys are refused, values are never coerced silently.

    Options are flat scalars, or lists of scalars, each declared with `Field(default, description=...)`,
    bounds (`ge`, `gt`, `le`, `lt`), and `json_schema_extra={"unit": ..., "source": ...}` for the unit and
    where the default comes from.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True)
class Port:
    """One named input of a method.

    Attributes:
        kinds: The kinds of artefact it takes.
        doc: What it is for, one line.
        many: Takes a list of references instead of one.
        optional: May be left out, or be a `champion` reference while there is no champion yet.
    """

    kinds: tuple[str, ...]
    doc: str = ""
    many: bool = False
    optional: bool = False


@dataclass(frozen=True)
class Input:
    """One fetched and verified input: `path` is a read-only directory with the artefact's files."""

    ref: str
    digest: str
    kind: str
    path: Path
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The last word of the reference: `data.news` is `news`, `adapted.log` is `log`."""
        return self.ref.rsplit(".", 1)[-1]


@dataclass(frozen=True)
class Result:
    """What a method returns beside the files in its outputs.

    Attributes:
        figure: The step's main figure as a person reads it, e.g. "loss 4.24" or "2 of 14 rules warn".
        metrics: Final figures, finite floats, names of letters, digits, `_`, `.`, `/` and `-`.
        meta: Per output name, small JSON facts that go into its manifest (rows, tokens, parameters...).
        passed: Outputs that are an input handed on unchanged, by reference: output name -> input.
    """

    figure: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    meta: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    passed: Mapping[str, Input] = field(default_factory=dict)


class Checkpoints(Protocol):
    """Where a method keeps its checkpoints; complete ones survive the process and the machine."""

    def save(self, directory: Path, position: int, keep: Sequence[int] = ()) -> None:
        """Publish a complete checkpoint at `position` (samples done); atomic.

        What is older than the newest complete one and not in `keep` (positions) is removed; with an empty
        `keep`, the newest two stay.
        """

    def newest(self) -> tuple[Path, int] | None:
        """A verified local copy of the newest complete checkpoint and its position, or None."""

    def recorded(self) -> int:
        """The highest position ever recorded for this step; 0 if none."""


class StepContext(Protocol):
    """What a running method may use."""

    step: str
    seed: int
    work: Path
    """Scratch directory of this step's fingerprint: the same path after a restart."""
    cache: Path
    """Scratch directory shared by all steps, for caches keyed by content (tokenised text)."""
    inputs: Mapping[str, list[Input]]
    checkpoints: Checkpoints
    fresh: bool
    """The user allowed a restart from step 0 although progress had been recorded."""

    def output(self, name: str) -> Path:
        """The empty directory that becomes the artefact of output `name` when the method returns."""

    def metric(self, name: str, value: float, step: int) -> None:
        """Log a point of a curve (buffered; never raises because the tracking server is away)."""

    def progress(self, done: float, figure: str = "") -> None:
        """Say how far the step is (0 to 1) and its main figure so far."""

    def note(self, text: str) -> None:
        """Say something once to whoever reads the terminal or the log: a plan, a warning, a decision."""

    def stopping(self) -> bool:
        """True once it has to stop (SIGTERM, the budget): checkpoint at the next step, raise `Preempted`."""

    def recall(self, key: str) -> Path | None:
        """What any step ever kept under a key, verified just now and only to be read; None if nothing was.

        Args:
            key: `<digest of a model>/<digest of all else that it depends on>`; kept as long as the model is.
        """

    def remember(self, key: str, path: Path) -> None:
        """Keep a file under a key (see `recall`), so that what it holds need never be computed again."""


def one(context: StepContext, port: str) -> Input:
    """The single input of `port`; raises ConfigInvalid where it is missing."""
    found = context.inputs.get(port, [])
    if len(found) != 1:
        raise ConfigInvalid(
            f"step '{context.step}': input '{port}' needs exactly one artefact, got {len(found)}"
        )
    return found[0]


def maybe(context: StepContext, port: str) -> Input | None:
    """The single input of an optional `port`, or None."""
    return context.inputs[port][0] if context.inputs.get(port) else None


@dataclass(frozen=True)
class Estimate:
    """What a step will need, computed before anything runs.

    Attributes:
        tokens: Tokens that training will process (all epochs), or None where the step does not train.
        optimiser_steps: Optimiser steps, or None.
        memory_bytes: Peak memory of the process.
        disk_bytes: Scratch and output bytes.
        meta: Predicted facts of each output (the same keys as `Result.meta`), input to later estimates.
    """

    tokens: int | None = None
    optimiser_steps: int | None = None
    memory_bytes: int | None = None
    disk_bytes: int | None = None
    meta: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Method:
    """One way of doing a stage.

    Attributes:
        summary: One line for the catalogue, the form and docs/methods.md.
        options: The pydantic model of its options, a subclass of `Options`.
        inputs: Its ports by name.
        outputs: Output name -> kind; the first is what a bare reference to the step means.
        run: Does the work.
        estimate: From options and the facts of the inputs (port -> list of meta), what the step will need.
        paper: The source of the method, or "".
    """

    summary: str
    options: type[Options]
    inputs: Mapping[str, Port]
    outputs: Mapping[str, str]
    run: Callable[[StepContext, Any], Result]
    estimate: Callable[[Any, Mapping[str, list[Mapping[str, Any]]]], Estimate] | None = None
    paper: str = ""
    figures: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """What a report of this step computes: port -> the figures of each set of that port, "" -> figures under
    the step's own name. Gates name them as `<set>.<figure>`."""
    hands_on: bool = False
    """Every input is also an output, unchanged, under the input's name (validate). A bare reference to such a
    step means the one handed-on input whose kind fits the port that refers to it."""
