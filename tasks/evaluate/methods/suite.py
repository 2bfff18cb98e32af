"""Suite: every measure on every set, for up to three models, with what differs between them.

The measures are in tasks/evaluate/measures/, the statistics in tasks/evaluate/statistics/. All models are
scored on the same items; a model that was scored before on the same manifest is not scored again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tasks.evaluate.changed import changed_entries, write_changed
from tasks.evaluate.items import plain_name, read_columns, write_columns, write_items, write_said
from tasks.evaluate.latency import latencies
from tasks.evaluate.manifest import Task, digest, of_report, of_task
from tasks.evaluate.measure import Columns
from tasks.evaluate.measures import KINDS, PORTS, figure_names
from tasks.evaluate.options import SuiteOptions
from tasks.evaluate.page import write_pages
from tasks.evaluate.page.plots import curve_points
from tasks.evaluate.probed import copy_items, read_probe
from tasks.evaluate.report import ROLES, SCHEMA, Measured, entries, model_entries, write_json
from tasks.evaluate.rows import read_lines
from tasks.evaluate.scoring import load_subject
from tasks.evaluate.trainings import read_training
from tasks.recipe.failures import ConfigInvalid, DataInvalid, Preempted
from tasks.stage import Estimate, Input, Method, Port, Result, StepContext
from tasks.training.render import template_digest

Facts = dict[str, Any]


def run(context: StepContext, options: SuiteOptions) -> Result:
    """Score the models on every set and write the report.

    Raises:
        ConfigInvalid: If there is no set, two sets have one name, the prompt lacks `{question}`, options ask
            for a measure whose sets are missing, a probe is of another model, or a model cannot be loaded.
        DataInvalid: If a set is empty or a row is broken.
    """
    if "{question}" not in options.exam_prompt:
        raise ConfigInvalid(f"step '{context.step}': options.exam_prompt must contain {{question}}")
    tasks = _tasks(context, options)
    models = {role: context.inputs[role][0] for role in ROLES if context.inputs.get(role)}
    probes = {_step_of(item): read_probe(item, models) for item in context.inputs.get("probes", [])}
    logs = {_step_of(item): _read_log(item) for item in context.inputs.get("logs", [])}
    told = {_step_of(item): read_training(item) for item in context.inputs.get("logs", [])}

    columns: dict[str, list[Columns]] = {}
    facts: dict[str, Facts] = {}
    distinct = {item.digest: item for item in models.values()}
    for place, item in enumerate(distinct.values()):

        def report_progress(done: float, place: int = place, ref: str = item.ref) -> None:
            if context.stopping():
                raise Preempted(f"step '{context.step}': stopped while scoring '{ref}'")
            context.progress(0.95 * (place + done) / len(distinct), f"scoring {ref}")

        columns[item.digest], facts[item.digest] = _measure(context, item, tasks, options, report_progress)

    measured = [
        Measured(task, {role: columns[item.digest][place] for role, item in models.items()})
        for place, task in enumerate(tasks)
    ]
    manifest = of_report(tasks, options, context.seed)
    manifest["probes"] = {step: probe.content.get("manifest") for step, probe in probes.items()}
    sets = [entry for each in measured for entry in entries(each, options, context.seed)]
    report: dict[str, Any] = {
        "schema": SCHEMA,
        "models": model_entries(models),
        "sets": sets + [entry for step, probe in probes.items() for entry in probe.entries(step)],
        "probes": {step: probe.facts for step, probe in probes.items()},
        "changed": [
            *(entry for each in measured for entry in changed_entries(each)),
            *(entry for step, probe in probes.items() for entry in probe.changed(step)),
        ],
        "trainings": {step: found for step, found in told.items() if found is not None},
        "curves": {step: curve_points(points) for step, points in logs.items()},
        "manifest": manifest,
        "manifest_digest": digest(manifest),
        "measured": {role: facts[item.digest] for role, item in models.items()},
    }
    _refuse_twice(context.step, report["sets"])
    out = context.output("report")
    write_json(out / "report.json", report)
    for together in _by_set(measured):
        write_items(out / "items", together)
        write_changed(out / "restricted", together)
        write_said(out / "restricted" / "said", together)
    for step, probe in probes.items():
        copy_items(probe, step, out)
    write_pages(out, report, logs)
    metrics = _metrics(report) | _latency(context, models, options)
    context.progress(1.0)
    return Result(_figure(report), metrics, {"report": {"manifest": report["manifest_digest"]}})


def _tasks(context: StepContext, options: SuiteOptions) -> list[Task]:
    """What is measured: every measure that applies on every set of its port."""
    for port, measures in PORTS.items():
        for measure in measures:
            asked_for = measure.applies(options) and not measure.applies(SuiteOptions())
            if asked_for and not context.inputs.get(port):
                raise ConfigInvalid(
                    f"step '{context.step}': options.{measure.settings[-1]} asks for the measure "
                    f"{measure.name}, which needs inputs.{port}; give it sets, or leave the option out"
                )
    items = [item for port in PORTS for item in context.inputs.get(port, [])]
    if not items and not context.inputs.get("probes"):
        ports = ", ".join(f"inputs.{port}" for port in PORTS)
        raise ConfigInvalid(f"step '{context.step}': give one of {ports} something to measure on")
    names = [plain_name(item.name) for item in items]
    for name in names:
        if names.count(name) > 1:
            raise ConfigInvalid(
                f"step '{context.step}': two sets are called '{name}'; give each a name of its own"
            )
    return [
        Task(port, measure, item, measure.read(item, options.limit))
        for port, measures in PORTS.items()
        for item in context.inputs.get(port, [])
        for measure in measures
        if measure.applies(options)
    ]


def _measure(
    context: StepContext,
    item: Input,
    tasks: Sequence[Task],
    options: SuiteOptions,
    progress: Callable[[float], None],
) -> tuple[list[Columns], Facts]:
    """A model's columns for every task, and how it was run; it is loaded only where some are not kept."""
    subject = None
    found: list[Columns] = []
    facts: Facts = {}
    kept = 0

    def part(done: float) -> None:
        progress((len(found) + done) / len(tasks))

    for task in tasks:
        key = f"{item.digest}/{digest(of_task(task, options, context.seed))}"
        before = context.recall(key)
        if before is not None:
            columns, facts = read_columns(before)
            kept += 1
        else:
            if subject is None:
                subject = load_subject(item, options.max_length)
                facts = {
                    "prefix": subject.prefix_policy,
                    "window": subject.window,
                    "chat_template": template_digest(subject.tokenizer)
                    if subject.tokenizer.chat_template
                    else None,
                }
            columns = dict(task.measure.score(subject, task.rows, options, context.seed, part))
            path = context.work / "columns.parquet"
            write_columns(path, columns, facts)
            context.remember(key, path)
        found.append(columns)
        part(0.0)
    if kept:
        context.note(f"{item.ref}: {kept} of {len(tasks)} measurements were made before and are used again")
    return found, facts


def _latency(context: StepContext, models: Mapping[str, Input], options: SuiteOptions) -> dict[str, float]:
    """`latency_ms` of the candidate, `latency_ms.<role>` of the others; nothing where none is asked for."""
    if not options.latency_tokens:
        return {}
    distinct = {item.digest: item for item in models.values()}
    subjects = {digest_: load_subject(item, options.max_length) for digest_, item in distinct.items()}
    found = latencies(subjects, options.latency_tokens)
    return {
        "latency_ms" if role == ROLES[0] else f"latency_ms.{role}": found[item.digest]
        for role, item in models.items()
    }


def _by_set(measured: Sequence[Measured]) -> list[list[Measured]]:
    found: dict[str, list[Measured]] = {}
    for each in measured:
        found.setdefault(each.name, []).append(each)
    return list(found.values())


def _refuse_twice(step: str, sets: Sequence[Mapping[str, Any]]) -> None:
    names = [f"{entry['name']}.{entry['measure']}" for entry in sets]
    for name in names:
        if names.count(name) > 1:
            raise ConfigInvalid(
                f"step '{step}': two figures are called '{name}'; give the set or the probe another name"
            )


def _step_of(item: Input) -> str:
    """The step that an input was made by: `adapted.log` is of `adapted`."""
    return item.ref.removesuffix(".log").removesuffix(".probe")


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


def _figure(report: Mapping[str, Any]) -> str:
    """The first set's figure, and how it stands to the baseline or else to the champion."""
    entry = report["sets"][0]
    held = entry["values"]["model"]
    if held is None:
        return f"{len(report['sets'])} figures"
    share = entry["unit"] == ""
    words = "right" if entry["measure"] == "accuracy" else entry["measure"].replace("_", " ")
    text = f"{entry['name']} " + (
        f"{held['value']:.0%} {words}" if share else f"{held['value']:.2f} {entry['unit']}"
    )
    for role in ROLES[1:]:
        against = entry["against"][role]
        if against is not None:
            relative = not share and against["relative"] is not None
            change = 100 * (against["relative"] if relative else against["difference"])
            unit = "%" if relative else "points"
            return f"{text} ({change:+.0f} {unit} vs {report['models'][role]['ref']})"
    return text


def _metrics(report: Mapping[str, Any]) -> dict[str, float]:
    metrics = {}
    for entry in report["sets"]:
        name = f"{plain_name(entry['name'])}.{entry['measure']}"
        if entry["values"]["model"] is not None:
            metrics[name] = entry["values"]["model"]["value"]
        for role in ROLES[1:]:
            if entry["against"][role] is not None:
                metrics[f"{name}.against_{role}"] = entry["against"][role]["difference"]
    return metrics


def estimate(options: SuiteOptions, metas: Mapping[str, list[Mapping[str, Any]]]) -> Estimate:
    """Memory of the largest model in fp32 and one batch's logits; only to be timed are all models loaded."""
    models = [meta for role in ROLES for meta in metas.get(role, [])]
    weights = [4 * int(meta.get("parameters", 0)) for meta in models]
    held = sum(weights) if options.latency_tokens else max(weights, default=0)
    return Estimate(memory_bytes=held + 2 * 2**28)


METHOD = Method(
    summary="Every measure on every set, compared with baseline and champion.",
    options=SuiteOptions,
    inputs={
        "model": Port(("model",), "the model that the report is about"),
        "baseline": Port(("model",), "what it should improve on", optional=True),
        "champion": Port(("model",), "what is in production", optional=True),
        **{
            port: Port(
                (KINDS.get(port, port),),
                f"sets for {', '.join(measure.name.replace('_', ' ') for measure in measures)}",
                many=True,
                optional=True,
            )
            for port, measures in PORTS.items()
        },
        "probes": Port(("probe",), "probes whose figures go into the report", many=True, optional=True),
        "logs": Port(("training_log",), "loss curves to show", many=True, optional=True),
    },
    outputs={"report": "report"},
    run=run,
    estimate=estimate,
    paper="Gao et al. 2020, The Pile, arXiv:2101.00027; Koehn 2004, statistical significance tests",
    figures=figure_names(),
)
