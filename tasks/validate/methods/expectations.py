"""Great Expectations over every dataset: schema, emptiness, lengths, encoding damage, copies, roles, leakage.

A rule is a limit on a fact of every row (tasks/validate/facts.py); rules stand in tables by kind
(tasks/validate/rules.py) and each has a severity. A broken `stop` rule ends the step as invalid data, after
its findings were written to `<work>/validation`; a broken `warn` rule is only reported. Rows are streamed:
what stays in memory is a few numbers a row, and the exams' passages.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator, model_validator

from tasks.recipe.failures import ConfigInvalid, DataInvalid, Preempted
from tasks.stage import Estimate, Input, Method, Options, Port, Result, StepContext
from tasks.validate import report
from tasks.validate.facts import COLUMNS, OWN_COLUMNS, Collector, has_shape, read_rows, texts_of
from tasks.validate.leakage import PassageIndex
from tasks.validate.rules import NAMES, rules_for, unknown_names

if TYPE_CHECKING:
    import pandas as pd

PORTS = ("documents", "chats", "pairs", "exams", "facts", "questions", "programs", "requests", "prompts")
TRAINING = ("documents", "chats", "pairs")

BASE_BYTES = 400_000_000  # Python with Great Expectations and pandas, measured
ROW_BYTES = 2_500  # facts, key and digest of a row, and the copies that Great Expectations makes
PASSAGE_BYTES = 60  # of memory for a byte of exam text: every run of words is kept


class ExpectationsOptions(Options):
    """Limits, tolerated shares and severities."""

    min_characters: int = Field(
        20,
        ge=0,
        description="Shorter documents break `length`.",
        json_schema_extra={"unit": "characters", "source": "a title without text"},
    )
    max_characters: int = Field(
        1_000_000,
        ge=1,
        description="Longer rows of any kind break `length`.",
        json_schema_extra={"unit": "characters", "source": "a long book"},
    )
    length_share: float = Field(
        0.01,
        ge=0,
        lt=1,
        description="Share of rows that may break `length`.",
        json_schema_extra={"unit": "share of rows"},
    )
    duplicate_share: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of rows that may repeat an earlier one.",
        json_schema_extra={"unit": "share of rows"},
    )
    encoding_damage_share: float = Field(
        0.01,
        ge=0,
        lt=1,
        description="Share of rows that may break each of `replacement_characters`, `mojibake` and "
        "`control_characters`; text about encodings does.",
        json_schema_extra={"unit": "share of rows"},
    )
    leakage_words: int = Field(
        13,
        ge=5,
        description="Words in a row that an exam may not share with training text.",
        json_schema_extra={"unit": "words", "source": "arXiv 2005.14165, appendix C"},
    )
    leakage_share: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of an exam's rows that may stand in training text.",
        json_schema_extra={"unit": "share of rows"},
    )
    warn: list[str] = Field(
        [],
        description="Rules that only warn.",
        json_schema_extra={"items": {"type": "string", "enum": list(NAMES)}},
    )
    stop: list[str] = Field(
        [],
        description="Rules that stop.",
        json_schema_extra={"items": {"type": "string", "enum": list(NAMES)}},
    )
    skip: list[str] = Field(
        [],
        description="Rules left out.",
        json_schema_extra={"items": {"type": "string", "enum": list(NAMES)}},
    )

    @field_validator("warn", "stop", "skip")
    @classmethod
    def _known(cls, names: list[str]) -> list[str]:
        trouble = unknown_names(names)
        if trouble:
            raise ValueError(trouble)
        return names

    @model_validator(mode="after")
    def _consistent(self) -> ExpectationsOptions:
        if self.min_characters > self.max_characters:
            raise ValueError(
                f"min_characters {self.min_characters} is above max_characters {self.max_characters}"
            )
        named = [*self.warn, *self.stop, *self.skip]
        twice = sorted({name for name in named if named.count(name) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)}: name a rule once, in one of warn, stop and skip")
        return self


def run(context: StepContext, options: ExpectationsOptions) -> Result:
    """Check every input and hand it on.

    Raises:
        DataInvalid: A stop rule is broken; the message lists dataset, rule, count, first keys and reason.
        ConfigInvalid: There is no input, or two of one name.
    """
    from tasks.validate.suite import Suites

    named = _named(context)
    leaks = _leaks(named, options)
    suites = Suites()
    datasets: list[report.Checked] = []
    for name, (kind, given) in named.items():
        if context.stopping():
            raise Preempted(f"step '{context.step}' was asked to stop before it checked '{name}'")
        rules = rules_for(kind, options, warn=options.warn, stop=options.stop, skip=options.skip)
        facts = facts_frame(kind, given)
        if name in leaks:
            leaked = set().union(*leaks[name].values())
            facts["leaked"] = [int(number in leaked) for number in facts["row"]]
        else:  # no exam, or nothing is trained on that it could have leaked into
            rules = [rule for rule in rules if rule.name != "leakage"]
        outcomes = suites.check(name, facts, rules)
        into = {other: len(rows) for other, rows in leaks.get(name, {}).items()}
        datasets.append(report.Checked(name, kind, given.digest, len(facts), outcomes, into))
        context.progress(len(datasets) / len(named), report.figure(datasets))
    report.write(datasets, context.work / "validation")
    if report.broken(datasets, "stop"):
        raise DataInvalid(report.complaint(datasets, context.work / "validation"))
    report.write(datasets, context.output("result"))
    warnings = len(report.broken(datasets, "warn"))
    rules_run = sum(len(dataset.outcomes) for dataset in datasets)
    return Result(
        figure=report.figure(datasets),
        metrics={
            "rules": float(rules_run),
            "stops": 0.0,
            "warnings": float(warnings),
            **{f"rows/{dataset.name}": float(dataset.rows) for dataset in datasets},
        },
        meta={"result": {"rules": rules_run, "warnings": warnings, "datasets": len(datasets)}},
        passed={name: given for name, (_, given) in named.items()},
    )


def facts_frame(kind: str, given: Input) -> pd.DataFrame:
    """The facts of a dataset: `row` (from 1), `key` and a column of numbers for each fact."""
    import pandas as pd

    collector = Collector(kind)
    columns = (*COLUMNS, *OWN_COLUMNS[kind])
    keys: list[str | None] = []
    values: dict[str, list[int | None]] = {column: [] for column in columns}
    for row in read_rows(given.path / "rows.jsonl", given.name):
        key, facts = collector.facts_of(row)
        keys.append(key)
        for column in columns:
            values[column].append(facts[column])
    numbers = {column: pd.Series(cells, dtype="float64") for column, cells in values.items()}
    return pd.DataFrame({"row": range(1, len(keys) + 1), "key": pd.Series(keys, dtype="object"), **numbers})


def estimate(options: ExpectationsOptions, facts: Mapping[str, list[Mapping[str, Any]]]) -> Estimate:
    """Memory by rows and exam text; the result takes a few kilobytes a dataset."""
    metas = [meta for port in PORTS for meta in facts.get(port, [])]
    exam_bytes = sum(int(meta.get("bytes", 0)) for meta in facts.get("exams", []))
    rows = sum(int(meta.get("rows", 0)) for meta in metas)
    return Estimate(
        memory_bytes=BASE_BYTES + ROW_BYTES * rows + PASSAGE_BYTES * exam_bytes,
        disk_bytes=20_000 * (len(metas) + 1),
    )


def _named(context: StepContext) -> dict[str, tuple[str, Input]]:
    """Every input by the name under which it is handed on, with its kind."""
    named: dict[str, tuple[str, Input]] = {}
    for port in PORTS:
        for given in context.inputs.get(port, []):
            if given.name in named or given.name == "result":
                raise ConfigInvalid(
                    f"step '{context.step}': two outputs would be called '{given.name}'; rename one input"
                )
            named[given.name] = (port, given)
    if not named:
        raise ConfigInvalid(f"step '{context.step}': nothing to check; give it {', '.join(PORTS)}")
    return named


def _leaks(
    named: Mapping[str, tuple[str, Input]], options: ExpectationsOptions
) -> dict[str, dict[str, set[int]]]:
    """Exam -> training dataset -> numbers of the exam's rows whose text stands in it."""
    training = {name: given for name, given in named.items() if given[0] in TRAINING}
    if not training or "leakage" in options.skip:
        return {}
    found: dict[str, dict[str, set[int]]] = {}
    for exam, (kind, given) in named.items():
        if kind == "exams":
            index = PassageIndex(options.leakage_words)
            for number, row in enumerate(read_rows(given.path / "rows.jsonl", exam), 1):
                if has_shape(row, kind) and 0 <= row["answer"] < len(row["options"]):
                    index.add(number, f"{row['question']} {row['options'][row['answer']]}")
            found[exam] = {name: index.found_in(_training_texts(*one)) for name, one in training.items()}
    return found


def _training_texts(kind: str, given: Input) -> Iterator[Sequence[str]]:
    """The texts of every well-shaped row (the rule `schema` tells about the others)."""
    for row in read_rows(given.path / "rows.jsonl", given.name):
        if has_shape(row, kind):
            yield texts_of(kind, row)


METHOD = Method(
    summary="Great Expectations: schema, emptiness, lengths, encoding, copies, roles, answers, leakage.",
    options=ExpectationsOptions,
    inputs={
        "documents": Port(("documents",), "Texts to train on.", many=True, optional=True),
        "chats": Port(("chats",), "Conversations to train on.", many=True, optional=True),
        "pairs": Port(("pairs",), "Preferences to train on.", many=True, optional=True),
        "exams": Port(("exams",), "Questions that training text must not hold.", many=True, optional=True),
        "facts": Port(("facts",), "Sentences to complete.", many=True, optional=True),
        "questions": Port(("questions",), "Questions to answer from memory.", many=True, optional=True),
        "programs": Port(("programs",), "Programs to complete, with tests.", many=True, optional=True),
        "requests": Port(("requests",), "What to refuse, and what not.", many=True, optional=True),
        "prompts": Port(("prompts",), "Beginnings to continue.", many=True, optional=True),
    },
    outputs={"result": "validation"},
    run=run,
    estimate=estimate,
    hands_on=True,
)
"""The method's entry in the stage's table."""
