"""Any task of lm-evaluation-harness, run by lm-eval itself, in the tables of the report.

Gao et al. 2021, "A framework for few-shot language model evaluation" (lm-evaluation-harness). Its task is a
name that it ships, or the text of its YAML, over a set of this recipe or over data of its own. lm-eval
scores every item; the figures, intervals and comparisons are this project's, from lm-eval's number per
item. A metric that is not the mean of such numbers (corpus BLEU, perplexities) is refused, not
approximated.

lm-eval runs in a process of its own, with the interpreter that `PERENNIAL_LM_EVAL_PYTHON` names (this one
by default), so that its requirements need not be this project's. Prompts begin as lm-eval begins them: a
model that expects a beginning-of-text token which its tokenizer does not add needs it in the task's text.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy
import yaml
from pydantic import Field, model_validator

from tasks.evaluate.items import read_columns, write_columns, write_items
from tasks.evaluate.manifest import Task, digest
from tasks.evaluate.measure import Array, Better, Columns, Comparison, Figure, Measure, Share, ratio
from tasks.evaluate.options import SuiteOptions
from tasks.evaluate.report import ROLES, Measured, entries, model_entries, write_json
from tasks.recipe.failures import ConfigInvalid, DataInvalid, Infrastructure, Preempted
from tasks.stage import Estimate, Input, Method, Options, Port, Result, StepContext, maybe, one

CHILD = Path(__file__).parents[1] / "lm_eval_child.py"
SETTING = "PERENNIAL_LM_EVAL_PYTHON"
LIBRARIES = ("lm_eval", "transformers", "torch", "datasets")
TASK = "perennial_task"
"""What a task is called that is given as text."""
DATA_KEYS = ("dataset_path", "dataset_name", "dataset_kwargs", "custom_dataset")
SPLIT_KEYS = ("test_split", "validation_split", "training_split", "fewshot_split")
TOLERANCE = 1e-6
"""Largest relative difference between lm-eval's figure and the mean of its items."""


class LmEvalOptions(Options):
    """What lm-eval scores, and how."""

    task: str = Field(
        "",
        description="Name of a task that lm-eval ships; its data is downloaded by lm-eval.",
    )
    yaml: str = Field(
        "",
        description="Text of a task's YAML (doc_to_text, doc_to_target, output_type, metric_list, ...). With "
        "the input rows its documents are that set's rows; else it names its own dataset. Code (!function) "
        "is refused.",
    )
    metric: str = Field(
        "",
        description="The metric that is the figure score; the task's first where not given.",
        json_schema_extra={"source": "metric_list of the task"},
    )
    filter: str = Field(
        "",
        description="The filter of answers that the figure is of; the task's first where not given.",
        json_schema_extra={"source": "filter_list of the task"},
    )
    num_fewshot: int | None = Field(
        None,
        ge=0,
        description="Solved examples before each question; the task's own number where not given.",
        json_schema_extra={"unit": "examples"},
    )
    apply_chat_template: bool = Field(False, description="Put prompts through the model's chat template.")
    batch_size: int = Field(
        16,
        ge=1,
        description="Most sequences run at once; changes speed and memory, not the scores.",
        json_schema_extra={"unit": "sequences", "source": "fits small models into caches of a CPU"},
    )
    max_length: int = Field(
        1024,
        ge=2,
        description="Longest sequence; the model's own limit where that is smaller.",
        json_schema_extra={"unit": "tokens", "source": "bounds memory"},
    )
    limit: int | None = Field(
        None,
        ge=1,
        description="Use only the first documents, for a quick look.",
        json_schema_extra={"unit": "rows"},
    )
    resamples: int = Field(
        2000,
        ge=100,
        description="Bootstrap resamples.",
        json_schema_extra={"source": "Efron and Tibshirani 1993: 1,000 or more for percentile intervals"},
    )
    confidence: float = Field(
        0.95, gt=0.5, lt=1.0, description="Coverage of the intervals.", json_schema_extra={"unit": "share"}
    )

    @model_validator(mode="after")
    def _one_task(self) -> Self:
        if bool(self.task) == bool(self.yaml):
            raise ValueError("give either task (a name) or yaml (a task's text)")
        return self


@dataclass(frozen=True)
class Item:
    """A document of the task."""

    key: str
    group: str = ""


@dataclass(frozen=True)
class Scored:
    """What lm-eval says of a task under one model: an item and a number each."""

    items: tuple[Item, ...]
    scores_N: Array
    metric: str
    better: Better
    version: str


def run(context: StepContext, options: LmEvalOptions) -> Result:
    """Let lm-eval score every model, and compare.

    Raises:
        ConfigInvalid: lm-eval is not there, the task's text is no task without code, or the metric is none
            that has a number per item.
        DataInvalid: The task has no documents.
    """
    rows = maybe(context, "rows")
    python = os.environ.get(SETTING) or sys.executable
    versions = versions_of(python)
    folder = None
    if options.yaml:
        folder = context.work / "task"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "task.yaml").write_text(yaml.safe_dump(task_of(options.yaml, rows)), encoding="utf-8")
    elif rows is not None:
        raise ConfigInvalid(
            f"step '{context.step}': task '{options.task}' has its own documents; give the task's text as "
            "options.yaml to run it over inputs.rows, or leave inputs.rows out"
        )
    models = {role: context.inputs[role][0] for role in ROLES if context.inputs.get(role)}
    distinct = {item.digest: item for item in models.values()}
    scored: dict[str, Scored] = {}
    for place, item in enumerate(distinct.values()):
        context.progress(0.95 * place / len(distinct), f"lm-eval scores {item.ref}")
        scored[item.digest] = _scored(context, options, item, rows, folder, python, versions)
    first = scored[one(context, "model").digest]
    for each in scored.values():
        if [item.key for item in each.items] != [item.key for item in first.items]:
            raise DataInvalid(f"step '{context.step}': lm-eval gave the models different documents")
    measured = Measured(
        Task(
            "",
            measure_of(first),
            Input(context.step, digest({"task": options.task, "yaml": options.yaml}), "probe", context.work),
            first.items,
        ),
        {role: {"score": scored[item.digest].scores_N} for role, item in models.items()},
    )
    figures = SuiteOptions(resamples=options.resamples, confidence=options.confidence)
    sets = entries(measured, figures, context.seed)
    out = context.output("probe")
    notes = [
        f"{options.task or 'the task of the recipe'}, version {first.version}, metric {first.metric}"
        + (f", filter {options.filter}" if options.filter else ""),
        ", ".join(f"{name} {version}" for name, version in versions.items()),
    ]
    if rows is None:
        notes.append("the documents are lm-eval's own: they are no part of this step's fingerprint")
    write_json(
        out / "probe.json",
        {
            "schema": 1,
            "probe": "lm_eval",
            "models": model_entries(models),
            "sets": sets,
            "notes": notes,
            "samples": [],
        },
    )
    write_items(out / "items", [measured])
    context.progress(1.0)
    value = sets[0]["values"]["model"]["value"]
    return Result(f"{first.metric} {value:.3g}", _metrics(sets))


def task_of(text: str, rows: Input | None) -> dict[str, Any]:
    """A task's YAML as lm-eval gets it: called `TASK`, over the rows where they are given.

    Raises:
        ConfigInvalid: It is no YAML, holds code or includes another file, or names data beside the rows.
    """
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigInvalid(
            f"options.yaml is no plain YAML ({error}); a task with code of its own (!function) is not run"
        ) from error
    if not isinstance(found, dict) or "doc_to_text" not in found:
        raise ConfigInvalid("options.yaml is no task of lm-eval: it has no doc_to_text")
    if "include" in found:
        raise ConfigInvalid("options.yaml includes another file, which a run would not have; write it out")
    task = {**found, "task": TASK}
    if rows is None:
        if "dataset_path" not in found:
            raise ConfigInvalid(
                "options.yaml names no dataset_path, and there is no inputs.rows; give either"
            )
        return task
    named = [key for key in (*DATA_KEYS, *SPLIT_KEYS) if key in found]
    if named:
        raise ConfigInvalid(
            f"options.yaml has {', '.join(named)}, but its documents are inputs.rows; leave these keys out"
        )
    return {
        **task,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(rows.path / "rows.jsonl")}},
        "test_split": "test",
        "fewshot_split": "test",
    }


def versions_of(python: str) -> dict[str, str]:
    """The versions of lm-eval and what it scores with, of an interpreter.

    Raises:
        ConfigInvalid: It has no lm-eval; says how to get it.
    """
    code = (
        "import importlib.metadata as metadata, json\n"
        "found = {}\n"
        f"for name in {LIBRARIES!r}:\n"
        "    try:\n"
        "        found[name] = metadata.version(name)\n"
        "    except metadata.PackageNotFoundError:\n"
        "        continue\n"
        "print(json.dumps(found))\n"
    )
    try:
        said = subprocess.run(
            [python, "-c", code], capture_output=True, text=True, check=True, env=_environment(None)
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise ConfigInvalid(
            f"{SETTING}: '{python}' is no Python interpreter that can be run: {error}"
        ) from error
    found: dict[str, str] = json.loads(said.stdout)
    if "lm_eval" not in found:
        raise ConfigInvalid(
            f"lm-eval is not installed for {python}: install it there, `pip install 'lm-eval[hf]'`, or into "
            f"an environment of its own, and name its interpreter: {SETTING}=lm-eval/bin/python"
        )
    return {name: found[name] for name in LIBRARIES if name in found}


def read_answer(answer: Mapping[str, Any], metric: str, filtered: str = "") -> Scored:
    """The items of lm-eval's answer, and the number of each by one metric.

    Args:
        answer: `results`, `samples`, `versions` and `higher_is_better` of lm-eval, of one task.
        metric: The metric, or "" for the first.
        filtered: The filter of the task's answers, or "" for the first.

    Raises:
        ConfigInvalid: It is a group of tasks, has no such filter or metric, or the metric has no number per
            item whose mean it is.
        DataInvalid: There are no items.
    """
    if len(answer["samples"]) != 1:
        names = ", ".join(sorted(answer["samples"]))
        raise ConfigInvalid(f"the task is a group; name one of its tasks in a step of its own: {names}")
    ((name, samples),) = answer["samples"].items()
    if not samples:
        raise DataInvalid(f"lm-eval found no documents in task '{name}'")
    filters = list(dict.fromkeys(each.get("filter", "none") for each in samples))
    filtered = filtered or filters[0]
    if filtered not in filters:
        raise ConfigInvalid(f"options.filter '{filtered}' is none of the task's: {', '.join(filters)}")
    samples = sorted(
        (each for each in samples if each.get("filter", "none") == filtered), key=lambda each: each["doc_id"]
    )
    known: list[str] = samples[0]["metrics"]
    chosen = metric or known[0]
    if chosen not in known:
        raise ConfigInvalid(f"options.metric '{chosen}' is none of the task's: {', '.join(known)}")
    values = [each[chosen] for each in samples]
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in values):
        raise ConfigInvalid(f"metric '{chosen}' of task '{name}' has no number per document; choose another")
    scores_N = numpy.array(values, dtype=numpy.float64)
    whole = float(answer["results"][name][f"{chosen},{filtered}"])
    if abs(float(scores_N.mean()) - whole) > TOLERANCE * max(1.0, abs(whole)):
        raise ConfigInvalid(
            f"metric '{chosen}' of task '{name}' is {whole:g} and no mean over its documents "
            f"({scores_N.mean():g}); choose another"
        )
    higher = answer["higher_is_better"][name].get(chosen, True)
    items = tuple(Item(str(each["doc"].get("key", each["doc_id"])), _group(each["doc"])) for each in samples)
    return Scored(items, scores_N, chosen, "higher" if higher else "lower", str(answer["versions"][name]))


def measure_of(scored: Scored) -> Measure:
    """The measure that lm-eval's numbers are: their mean, and how many items became worse or better."""
    up = 1.0 if scored.better == "higher" else -1.0
    return Measure(
        name="lm_eval",
        version=1,
        settings=(),
        read=_never,
        score=_never,
        figures=(
            Figure("score", scored.better, "", f"lm-eval's {scored.metric}, mean of items", ratio("score")),
        ),
        comparisons=(
            Comparison("negative_flips", "lower", "", "items scored worse than before", _moved(-up)),
            Comparison("positive_flips", "higher", "", "items scored better than before", _moved(up)),
        ),
        shown=lambda item: {"document": item.key},
        doc="A task of lm-evaluation-harness.",
        paper="Gao et al. 2021, lm-evaluation-harness",
    )


def _moved(way: float) -> Share:
    def moved(columns: Columns, other: Columns) -> Array:
        return (way * (columns["score"] - other["score"]) > 0).astype(numpy.float64)

    return Share(moved)


def _never(*given: Any) -> Any:
    raise NotImplementedError("lm-eval reads and scores by itself")


def _group(document: Mapping[str, Any]) -> str:
    group = document.get("group")
    return group if isinstance(group, str) else ""


def _scored(
    context: StepContext,
    options: LmEvalOptions,
    item: Input,
    rows: Input | None,
    folder: Path | None,
    python: str,
    versions: Mapping[str, str],
) -> Scored:
    """What lm-eval says of one model; not asked again where it said it before."""
    chosen = options.model_dump(exclude={"batch_size", "resamples", "confidence"})
    manifest = {**chosen, "rows": rows.digest if rows else None, "versions": versions, "seed": context.seed}
    key = f"{item.digest}/{digest(manifest)}"
    before = context.recall(key) if rows is not None else None  # else the documents may have changed
    if before is not None:
        columns, facts = read_columns(before)
        items = tuple(Item(each, group) for each, group in facts["items"])
        return Scored(items, columns["score"], facts["metric"], facts["better"], facts["version"])
    scored = read_answer(_ask(context, options, item, folder, python), options.metric, options.filter)
    if rows is not None:
        facts = {
            "items": [[each.key, each.group] for each in scored.items],
            "metric": scored.metric,
            "better": scored.better,
            "version": scored.version,
        }
        write_columns(context.work / "columns.parquet", {"score": scored.scores_N}, facts)
        context.remember(key, context.work / "columns.parquet")
    return scored


def _ask(
    context: StepContext, options: LmEvalOptions, item: Input, folder: Path | None, python: str
) -> dict[str, Any]:
    """Run the child and read its answer."""
    request, answer, log = (context.work / f"lm_eval.{end}" for end in ("request.json", "answer.json", "log"))
    answer.unlink(missing_ok=True)
    asked = {
        "model": str(item.path),
        "task": options.task or TASK,
        "folder": str(folder) if folder else None,
        "num_fewshot": options.num_fewshot,
        "limit": options.limit,
        "apply_chat_template": options.apply_chat_template,
        "batch_size": options.batch_size,
        "max_length": options.max_length,
        "seed": context.seed,
    }
    request.write_text(json.dumps(asked), encoding="utf-8")
    with log.open("wb") as said:
        process = subprocess.Popen(
            [python, "-I", str(CHILD), str(request), str(answer)],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            env=_environment(context.work / "huggingface"),
            cwd=context.work,
        )
        while True:
            try:
                status = process.wait(timeout=1)
                break
            except subprocess.TimeoutExpired:
                if context.stopping():
                    process.kill()
                    process.wait()
                    raise Preempted(f"step '{context.step}': stopped while lm-eval ran") from None
    if status != 0 or not answer.is_file():
        last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-5:]
        told = "\n".join(last)
        if status < 0:
            raise Infrastructure(f"lm-eval was killed by signal {-status}:\n{told}")
        raise ConfigInvalid(f"lm-eval could not score '{item.ref}' (its log is {log}):\n{told}")
    found: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
    return found


def _environment(cache: Path | None) -> dict[str, str]:
    """This process's environment without what would point another interpreter at this one's modules."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    if cache is not None:
        kept["HF_DATASETS_CACHE"] = str(cache)
    return kept | {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_TELEMETRY": "1"}


def _metrics(sets: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    found: dict[str, float] = {}
    for entry in sets:
        if entry["values"]["model"] is not None:
            found[entry["measure"]] = entry["values"]["model"]["value"]
        for role in ROLES[1:]:
            if entry["against"][role] is not None:
                found[f"{entry['measure']}.against_{role}"] = entry["against"][role]["difference"]
    return found


def estimate(options: LmEvalOptions, metas: Mapping[str, list[Mapping[str, Any]]]) -> Estimate:
    """Memory of the largest model in fp32 and one batch's logits."""
    models = [meta for role in ROLES for meta in metas.get(role, [])]
    weights = max((4 * int(meta.get("parameters", 0)) for meta in models), default=0)
    return Estimate(memory_bytes=weights + 2 * 2**29)


KINDS = (
    "documents", "chats", "pairs", "exams", "facts", "questions", "programs", "requests", "prompts",
)  # fmt: skip

METHOD = Method(
    summary="A task of lm-evaluation-harness, run by lm-eval itself, in the report's tables.",
    options=LmEvalOptions,
    inputs={
        "model": Port(("model",), "the model that the report is about"),
        "baseline": Port(("model",), "what it should improve on", optional=True),
        "champion": Port(("model",), "what is in production", optional=True),
        "rows": Port(KINDS, "the documents of a task that is given as YAML", optional=True),
    },
    outputs={"probe": "probe"},
    run=run,
    estimate=estimate,
    paper="Gao et al. 2021, A framework for few-shot language model evaluation (lm-evaluation-harness)",
    figures={"": ("score", "negative_flips", "positive_flips", "score_gap")},
)
