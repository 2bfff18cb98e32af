"""Suite: bits per byte on document sets and multiple choice on exam sets, for up to three models.

The estimators and their sources are in tasks/evaluate/bits_per_byte.py, multiple_choice.py and bootstrap.py.
All models are scored on the same items; models with one digest are scored once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from tasks.evaluate.bits_per_byte import DocumentScore, score_documents
from tasks.evaluate.multiple_choice import ExamScore, score_exams
from tasks.evaluate.page import change, page
from tasks.evaluate.report import (
    ROLES,
    Measure,
    SetScores,
    digest,
    model_entries,
    plain_name,
    set_entry,
    write_items,
    write_json,
)
from tasks.evaluate.rows import Document, Exam, read_documents, read_exams, read_lines
from tasks.evaluate.scoring import load_subject
from tasks.evaluate.trainings import read_training
from tasks.recipe.failures import ConfigInvalid, DataInvalid, Preempted
from tasks.stage import Estimate, Input, Method, Options, Port, Result, StepContext

Scores = dict[str, Sequence[DocumentScore] | Sequence[ExamScore]]
"""Set name -> the score of each item."""

VERSION = 1
"""Of the measurement: raised whenever the same model and sets would give other scores."""


class SuiteOptions(Options):
    """Options of the evaluation."""

    batch_size: int = Field(
        default=16,
        ge=1,
        description="most sequences run at once; changes speed and memory, not the scores",
        json_schema_extra={"unit": "sequences", "source": "fits small models into caches of a CPU"},
    )
    max_length: int = Field(
        default=1024,
        ge=2,
        description="longest window; the model's own limit where that is smaller",
        json_schema_extra={
            "unit": "tokens",
            "source": "bounds memory; models with longer context gain little",
        },
    )
    stride: int | None = Field(
        default=None,
        ge=1,
        description="new tokens in each further window of a long document; half a window where not given",
        json_schema_extra={"unit": "tokens", "source": "every token has half a window of context"},
    )
    exam_prompt: str = Field(
        default="Question: {question}\nAnswer:",
        description="text before an option; {question} is replaced, a space joins it to the option",
        json_schema_extra={"source": "Brown et al. 2020, section 2.4"},
    )
    limit: int | None = Field(
        default=None,
        ge=1,
        description="use only the first rows of each set, for a quick look",
        json_schema_extra={"unit": "rows"},
    )
    resamples: int = Field(
        default=2000,
        ge=100,
        description="bootstrap resamples",
        json_schema_extra={"source": "Efron and Tibshirani 1993: 1,000 or more for percentile intervals"},
    )
    confidence: float = Field(
        default=0.95,
        gt=0.5,
        lt=1.0,
        description="coverage of the intervals",
        json_schema_extra={"unit": "share"},
    )


@dataclass(frozen=True)
class Sets:
    """What is measured: name -> the input and its rows."""

    documents: Mapping[str, tuple[Input, list[Document]]]
    exams: Mapping[str, tuple[Input, list[Exam]]]


def run(context: StepContext, options: SuiteOptions) -> Result:
    """Score the models on every set and write the report.

    Raises:
        ConfigInvalid: If there is no set, two sets have one name, the prompt lacks `{question}`, or a model
            cannot be loaded.
        DataInvalid: If a set is empty or a row is broken.
    """
    if "{question}" not in options.exam_prompt:
        raise ConfigInvalid(f"step '{context.step}': options.exam_prompt must contain {{question}}")
    sets = _read_sets(context, options)
    logs = {_step_of(item): _read_log(item) for item in context.inputs.get("logs", [])}
    told = {_step_of(item): read_training(item) for item in context.inputs.get("logs", [])}
    models = {role: context.inputs[role][0] for role in ROLES if context.inputs.get(role)}

    scores: dict[str, Scores] = {}
    measured: dict[str, Any] = {}
    distinct = {item.digest: item for item in models.values()}
    for place, item in enumerate(distinct.values()):

        def report_progress(done: float, place: int = place, ref: str = item.ref) -> None:
            if context.stopping():
                raise Preempted(f"step '{context.step}': stopped while scoring '{ref}'")
            context.progress(0.95 * (place + done) / len(distinct), f"scoring {ref}")

        scores[item.digest], measured[item.digest] = _score(item, sets, options, report_progress)

    by_role = {role: scores[item.digest] for role, item in models.items()}
    found = [
        *(_collect(name, "bits_per_byte", items, by_role) for name, (_, items) in sets.documents.items()),
        *(_collect(name, "accuracy", items, by_role) for name, (_, items) in sets.exams.items()),
    ]
    manifest = _manifest(sets, options, context.seed)
    report = {
        "models": model_entries(models),
        "sets": [set_entry(each, context.seed, options.resamples, options.confidence) for each in found],
        "trainings": {step: facts for step, facts in told.items() if facts is not None},
        "manifest": manifest,
        "manifest_digest": digest(manifest),
        "measured": {role: measured[item.digest] for role, item in models.items()},
    }
    out = context.output("report")
    write_json(out / "report.json", report)
    (out / "report.html").write_text(page(report, logs), encoding="utf-8")
    for each in found:
        write_items(out / "items", each)
    context.progress(1.0)
    return Result(_figure(report), _metrics(report), {"report": {"manifest": report["manifest_digest"]}})


def _read_sets(context: StepContext, options: SuiteOptions) -> Sets:
    documents, exams = context.inputs.get("documents", []), context.inputs.get("exams", [])
    names = [item.name for item in (*documents, *exams)]
    if not names:
        raise ConfigInvalid(
            f"step '{context.step}': give inputs.documents or inputs.exams something to measure on"
        )
    for name in names:
        if names.count(name) > 1:
            raise ConfigInvalid(
                f"step '{context.step}': two sets are called '{name}'; give each a name of its own"
            )
    return Sets(
        {item.name: (item, read_documents(item, options.limit)) for item in documents},
        {item.name: (item, read_exams(item, options.limit)) for item in exams},
    )


def _step_of(log: Input) -> str:
    """The training step of a log: `adapted.log` is `adapted`."""
    return log.ref.removesuffix(".log")


def _read_log(log: Input) -> list[tuple[float, float]]:
    points = []
    for number, row in read_lines(log.path / "training.jsonl", f"log '{log.ref}'"):
        try:
            points.append((float(row["tokens"]), float(row["loss"])))
        except (KeyError, TypeError, ValueError) as error:
            raise DataInvalid(f"log '{log.ref}': line {number} has no tokens and loss: {error}") from error
    if not points:
        raise DataInvalid(f"log '{log.ref}' is empty")
    return points


def _score(
    item: Input, sets: Sets, options: SuiteOptions, progress: Callable[[float], None]
) -> tuple[Scores, dict[str, Any]]:
    """All sets' scores under one model, and the facts of how it was run; the model is dropped afterwards."""
    subject = load_subject(item, options.max_length)
    facts: dict[str, Any] = {"prefix": subject.prefix_policy, "window": subject.window, "exams": {}}
    scores: Scores = {}
    count = len(sets.documents) + len(sets.exams)

    def part(done: float) -> None:
        progress((len(scores) + done) / count)

    for name, (_, documents) in sets.documents.items():
        scores[name] = score_documents(subject, documents, options.batch_size, options.stride, part)
    for name, (_, exams) in sets.exams.items():
        scores[name], facts["exams"][name] = score_exams(
            subject, exams, options.exam_prompt, options.batch_size, part
        )
    return scores, facts


def _collect(
    name: str, measure: Measure, items: Sequence[Document] | Sequence[Exam], by_role: Mapping[str, Scores]
) -> SetScores:
    return SetScores(name, measure, items, {role: scores[name] for role, scores in by_role.items()})


def _manifest(sets: Sets, options: SuiteOptions, seed: int) -> dict[str, Any]:
    """Everything that the scores depend on beside the models; equal manifests make comparable reports."""
    return {
        "version": VERSION,
        "sets": {
            name: {"digest": item.digest, "items": len(rows), "measure": measure}
            for measure, group in (("bits_per_byte", sets.documents), ("accuracy", sets.exams))
            for name, (item, rows) in group.items()
        },
        "exam_prompt": options.exam_prompt,
        "exam_choice": "largest log-likelihood per UTF-8 byte of the option",
        "prefix": "beginning of text, else end of text, else none; once before each document and prompt",
        "dtype": "float32",
        "device": "CPU",
        "batches": {"sequences": options.batch_size, "order": "longest first", "padding": "right"},
        "window": {"max_length": options.max_length, "stride": options.stride},
        "limit": options.limit,
        "bootstrap": {"resamples": options.resamples, "confidence": options.confidence, "seed": seed},
    }


def _figure(report: Mapping[str, Any]) -> str:
    """The first set's figure, and how it stands to the baseline or else to the champion."""
    entry = report["sets"][0]
    value = entry["values"]["model"]["value"]
    bits = entry["measure"] == "bits_per_byte"
    text = f"{entry['name']} " + (f"{value:.2f} bits/byte" if bits else f"{value:.0%} right")
    for role in ROLES[1:]:
        found = change(entry, role)
        if found is not None:
            unit, difference, *_ = found
            return f"{text} ({difference:+.0f} {unit} vs {report['models'][role]['ref']})"
    return text


def _metrics(report: Mapping[str, Any]) -> dict[str, float]:
    metrics = {}
    for entry in report["sets"]:
        name = f"{plain_name(entry['name'])}.{entry['measure']}"
        metrics[name] = entry["values"]["model"]["value"]
        for role in ROLES[1:]:
            if entry["against"][role] is not None:
                metrics[f"{name}.against_{role}"] = entry["against"][role]["difference"]
    return metrics


def estimate(options: SuiteOptions, metas: Mapping[str, list[Mapping[str, Any]]]) -> Estimate:
    """Memory of the largest model in fp32 and one batch's logits; models are loaded one after the other."""
    models = [meta for role in ROLES for meta in metas.get(role, [])]
    weights = max((4 * int(meta.get("parameters", 0)) for meta in models), default=0)
    return Estimate(memory_bytes=weights + 2 * 2**28)


METHOD = Method(
    summary="Bits per byte and multiple choice, compared with baseline and champion.",
    options=SuiteOptions,
    inputs={
        "model": Port(("model",), "the model that the report is about"),
        "baseline": Port(("model",), "what it should improve on", optional=True),
        "champion": Port(("model",), "what is in production", optional=True),
        "documents": Port(("documents",), "sets for bits per byte", many=True, optional=True),
        "exams": Port(("exams",), "sets for multiple choice", many=True, optional=True),
        "logs": Port(("training_log",), "loss curves to show", many=True, optional=True),
    },
    outputs={"report": "report"},
    figures={"documents": ("bits_per_byte",), "exams": ("accuracy",)},
    run=run,
    estimate=estimate,
    paper="Gao et al. 2020, The Pile, arXiv:2101.00027; Koehn 2004, statistical significance tests",
)
