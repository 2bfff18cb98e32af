"""The model card, written from the facts of a run: what the model is, what it was made from and how, what the
evidence says, what got worse, what it is for, how to load it.

The parts are those of Mitchell et al. 2019, "Model cards for model reporting" (1810.03993), as far as a run
knows them; differently from it, nothing is written by hand but what the recipe states, and a fact that nobody
stated is said to be missing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from tasks.recipe.catalogue import Catalogue
from tasks.recipe.fingerprints import canonical
from tasks.release.gates import GateResult
from tasks.release.records import Delta, MeasuredSet, Output, PlanFacts, Report, StepRecord, ancestors
from tasks.release.summary import set_table
from tasks.tracking.sources import parse_source

STATED = ("description", "intended_use", "license", "owner")
"""What only the recipe's author can say, by the recipe's keys."""

NOT_STATED = "not stated in the recipe"


def card(
    plan: PlanFacts,
    records: Mapping[str, StepRecord],
    report: Report,
    gates: Sequence[GateResult],
    *,
    semantic: str,
    change: str,
    source: str,
    dates: Mapping[str, str],
    catalogue: Catalogue,
) -> str:
    """Write the card.

    Args:
        plan: The run's plan.
        records: The run's records by step, in order.
        report: The evidence.
        gates: The verdicts.
        semantic: The semantic version.
        change: Why it got that number.
        source: URI of the weights.
        dates: Data set -> the day of its content, or on which it was first read; ISO 8601.
        catalogue: The methods, with their papers.
    """
    step = plan.release.candidate.partition(".")[0]
    candidate = records[step].output(plan.release.candidate, "model")
    lineage = {record.step for record in ancestors(records, step)}
    made = [record for name, record in records.items() if name in lineage]
    licence = plan.stated("license")
    head = ["---", *([f"license: {licence}"] if licence else []), "tags: [perennial]", "---", ""]
    parts = (
        _what(plan, records, made, semantic, change),
        _section("Intended use", [plan.stated("intended_use").strip() or f"{NOT_STATED}: `intended_use`."]),
        _section("Data", _data(plan, dates)),
        _section("How it was made", _steps(made)),
        _section("Methods", _methods(made, catalogue)),
        _section("Results", _results(report, gates)),
        _section("Known regressions", regressions(report, gates) or ["None that the evidence shows."]),
        _section("How to load it", _loading(plan.model, candidate, source)),
        _section("Limitations", _limitations(plan)),
    )
    return "\n".join([*head, *(line for part in parts for line in part)]).rstrip() + "\n"


def stated_digest(effective: Mapping[str, Any]) -> str:
    """The digest of what a recipe states for the card: where it changes, the version changes too."""
    said = {name: effective.get(name) or "" for name in STATED}
    data = effective.get("data") or {}
    licences = {name: each["license"] for name, each in data.items() if each.get("license")}
    return hashlib.sha256(canonical({**said, "data": licences})).hexdigest()


def says_the_same(tags: Mapping[str, str], effective: Mapping[str, Any]) -> bool:
    """Whether a version's card states what this recipe does, by its tags; one from before cards does."""
    held = tags.get("perennial.stated")
    return held is None or held == stated_digest(effective)


def outside(plan: PlanFacts, records: Mapping[str, StepRecord], made: Sequence[StepRecord]) -> list[str]:
    """Digests of the models from outside a run that its candidate was made from."""
    inside = {output.digest for record in records.values() for output in record.outputs.values()}
    inside |= {data.digest for data in plan.data.values()}
    return sorted({d for record in made for many in record.inputs.values() for d in many} - inside)


def regressions(report: Report, gates: Sequence[GateResult]) -> list[str]:
    """What is worse than in the base or the champion for sure, and what the evidence left open.

    A figure counts where the whole interval of its difference is on the worse side.
    """
    found = []
    for each in report.sets:
        for role, delta in each.against.items():
            if delta is not None and not report.same_model(role) and _worse(each, delta):
                found.append(
                    f"- {each.name}: {each.measure.replace('_', ' ')} is worse than the {role}'s: "
                    f"{delta.difference:+.4g} {each.unit}".rstrip()
                    + f" [{delta.low:+.4g}, {delta.high:+.4g}]"
                )
    found += [f"- Gate {gate.text}" for gate in gates if gate.verdict != "passed"]
    return found


def _worse(each: MeasuredSet, delta: Delta) -> bool:
    """Whether the interval says so; a comparison (flips) has no value of its own, and is no difference."""
    if delta.low is None or delta.high is None or each.values.get("model") is None:
        return False
    return delta.low > 0 if each.better == "lower" else delta.high < 0


def _section(title: str, lines: Sequence[str]) -> list[str]:
    return ["", f"## {title}", "", *lines]


def _what(
    plan: PlanFacts,
    records: Mapping[str, StepRecord],
    made: Sequence[StepRecord],
    semantic: str,
    change: str,
) -> list[str]:
    model = records[plan.release.candidate.partition(".")[0]].output(plan.release.candidate, "model")
    code = model.meta.get("code")
    return [
        f"# {plan.model} {semantic}",
        "",
        plan.description.strip() or "The recipe has no description.",
        "",
        f"- Version: {semantic} ({change})",
        f"- Digest: `{model.digest}`",
        f"- Architecture: {model.meta.get('architecture', 'not on record')}, "
        f"{_count(model.meta.get('parameters'))} parameters, "
        f"vocabulary {_count(model.meta.get('vocab_size'))}",
        f"- Base model: {_base(plan, records, made)}",
        *(
            [f"- Code of its own: `{code}`, named in PERENNIAL_TRUSTED_CODE (docs/security.md)"]
            if code
            else []
        ),
        f"- Licence: {plan.stated('license') or f'{NOT_STATED}; ask its owner before passing it on'}",
        f"- Owner: {plan.stated('owner') or NOT_STATED}",
        f"- Recipe: {plan.recipe}, run `{plan.run}`, planned {plan.created or 'at a time not on record'}",
    ]


def _data(plan: PlanFacts, dates: Mapping[str, str]) -> list[str]:
    head = ["| data set | kind | rows | licence | of | from | digest |", "|---|---|---|---|---|---|---|"]
    rows = [
        f"| {name} | {data.kind} | {_count(data.meta.get('rows'))} | {plan.licence_of(name) or NOT_STATED} | "
        f"{dates.get(name, 'not on record')} | {data.meta.get('uri', 'not on record')} | `{data.digest}` |"
        for name, data in plan.data.items()
    ]
    return head + rows if rows else ["None: every step reads other models only."]


def _steps(made: Sequence[StepRecord]) -> list[str]:
    rows = [
        f"| {each.step} | {each.stage} | {each.method} | `{_options(each)}` | {each.figure or '-'} |"
        for each in made
    ]
    return ["| step | stage | method | options | result |", "|---|---|---|---|---|", *rows]


def _options(record: StepRecord) -> str:
    return json.dumps(record.options, sort_keys=True).replace("|", "\\|")


def _methods(made: Sequence[StepRecord], catalogue: Catalogue) -> list[str]:
    """Each method with its source, and each option that is not its default, once, in the steps' order."""
    found: dict[str, None] = {}
    for each in made:
        entry = catalogue.stages.get(each.stage)
        method = entry.methods.get(each.method) if entry else None
        paper = method.paper if method and method.paper else "no paper on record"
        found.setdefault(f"- {each.stage}/{each.method}: {paper}")
        known = method.options.get("properties", {}) if method else {}
        for name, value in each.options.items():
            schema = known.get(name, {})
            chosen = isinstance(value, str) or value is True  # a number is no method of its own
            if chosen and schema.get("source") and value != schema.get("default"):
                option = f"`{name}: {value if isinstance(value, str) else 'true'}`"
                found.setdefault(
                    f"- {each.stage}/{each.method}, {option}: {_source(schema['source'], value)}"
                )
    return list(found)


def _source(told: str, value: object) -> str:
    """The source of one choice, from a text such as `lora: 2106.09685; dora: 2402.09353`."""
    each = dict(part.split(": ", 1) for part in told.split("; ") if ": " in part)
    return each.get(str(value), told)


def _results(report: Report, gates: Sequence[GateResult]) -> list[str]:
    verdicts = [f"- {gate.text}" for gate in gates] or ["The recipe has no gates."]
    return [*set_table(report), "", "95 % intervals in brackets (paired bootstrap).", "", *verdicts]


def _loading(model: str, candidate: Output, source: str) -> list[str]:
    if candidate.kind == "adapter":
        return _loading_adapter(model, candidate, source)
    code = candidate.meta.get("code")
    return [
        "```python",
        "import mlflow, transformers",
        "",
        f'path = mlflow.artifacts.download_artifacts("models:/{model}@champion")',
        *(["# trust_remote_code runs the Python files in that folder: read them first"] if code else []),
        "model = transformers.AutoModelForCausalLM.from_pretrained(path"
        f"{', trust_remote_code=True' if code else ''})",
        "tokenizer = transformers.AutoTokenizer.from_pretrained(path)",
        "```",
        "",
        f"The weights lie at `{source}`.",
    ]


def _loading_adapter(model: str, candidate: Output, source: str) -> list[str]:
    """By our own command, which checks the base and merges, or beside the base by peft."""
    base = str(candidate.meta.get("base") or "")
    store = parse_source(source).store
    return [
        f"This version is an adapter ({candidate.meta.get('trainable', 'of a kind not on record')}). It goes "
        f"beside one base model, of the digest `{base}`; beside other weights it means nothing. The whole "
        "model, checked and merged:",
        "",
        "```",
        f"perennial export {model} champion --to huggingface --out DIR",
        "```",
        "",
        "Beside its base, without merging, with peft, which does not check that it is the right one:",
        "",
        "```python",
        "from pathlib import Path",
        "",
        "import peft, transformers",
        "from tasks.artefacts import fetch, open_store",
        "",
        f'store = open_store("{store}")',
        f'base = fetch(store, "{base}", Path("cache"))',
        f'adapter = fetch(store, "{candidate.digest}", Path("cache"))',
        "model = transformers.AutoModelForCausalLM.from_pretrained(base)",
        "model = peft.PeftModel.from_pretrained(model, adapter)",
        "tokenizer = transformers.AutoTokenizer.from_pretrained(base)",
        "```",
        "",
        f"The adapter lies at `{source}`, its base at `{source.replace(candidate.digest, base)}`.",
    ]


def _limitations(plan: PlanFacts) -> list[str]:
    return [
        "It was judged on the sets above and on nothing else; it knows what its data sets say, right or "
        f"wrong, as of the run that made it. {plan.description.strip()}".rstrip()
    ]


def _base(plan: PlanFacts, records: Mapping[str, StepRecord], made: Sequence[StepRecord]) -> str:
    """The models from outside this run that it was made from, by the names that the plan has for them."""
    names = {pin.digest: uri for uri, pin in plan.uris.items()}
    names |= {pin.digest: name for name, pin in plan.bindings.items() if pin is not None}
    found = outside(plan, records, made)
    if found:
        return ", ".join(f"`{each}`" + (f" ({names[each]})" if each in names else "") for each in found)
    first = [record.step for record in made if record.stage == "pretrain" and record.method == "scratch"]
    return f"none: made from scratch by step {', '.join(first)}" if first else "none"


def _count(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else "not on record"
