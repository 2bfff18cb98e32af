"""Corpora: places where new data arrives, looked at on a schedule, cut into slices by date.

One YAML file a corpus in PERENNIAL_CORPORA, default `corpora` in the recipes' folder. A recipe reads one as
`corpus://<name>` (see `parse`), and `schedule.on: [corpus/<name>]` starts it when a slice arrives.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tasks.recipe.cron import cron_error
from tasks.recipe.failures import ConfigInvalid
from tasks.recipe.loading import load
from tasks.recipe.models import DataKind, Name
from tasks.recipe.problems import did_you_mean, dotted, format_problems

SCHEME = "corpus://"

_URI = re.compile(
    r"^corpus://(?P<name>[a-z][a-z0-9_-]*)(?:@(?P<until>\.\.)?(?P<which>latest|\d{4}-\d\d-\d\d))?$"
)


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Limits(_Part):
    """Above which figure of drift somebody is told. They stop no training: gates judge its result.

    Attributes:
        jensen_shannon: Between the distributions of words, 0 (the same) to 1 (no word in common).
        new_words: Share of a slice's words that the reference never uses.
        novel_ngrams: Share of its runs of five words that the reference never has.
        near_duplicates: Share of its documents that the reference, or the slice itself, has almost alike.
        length: How many times longer or shorter its documents are (median), at least 1.
    """

    jensen_shannon: float | None = Field(None, ge=0, le=1)
    new_words: float | None = Field(None, ge=0, le=1)
    novel_ngrams: float | None = Field(None, ge=0, le=1)
    near_duplicates: float | None = Field(None, ge=0, le=1)
    length: float | None = Field(None, ge=1)


class Corpus(_Part):
    """One place to look at.

    Attributes:
        corpus: Its name; the asset is `corpus/<name>`, the DAG `watch__<name>`.
        description: For people.
        uri: `s3://bucket/prefix`, `file:///folder`, or a glob; or a source without files (`pydocs://`,
            `hf://`), which is one slice, dated when it is found to have changed.
        kind: What its rows are.
        dates: `name`: a slice is the files with one date in their path, such as `2026-11-22/a.jsonl`;
            `modified`: the files that were written on one day, UTC.
        options: How to read it, as under a recipe's `data`.
        cron: When it is looked at; five fields, UTC.
        settle_minutes: A date with a file younger than this, which may still be written to, waits.
        expect_days: Something new is expected this often; a look that finds nothing for longer fails.
        model: The registered model that drift is told against: what its champion was trained on.
        limits: When drift is worth telling.
        owner: Who answers for it.
    """

    corpus: Name
    description: str = ""
    uri: str = Field(min_length=1)
    kind: DataKind = "documents"
    dates: Literal["name", "modified"] = "name"
    options: dict[str, Any] = {}
    cron: str = "*/15 * * * *"
    settle_minutes: Annotated[float, Field(ge=0)] = 0.0
    expect_days: Annotated[float, Field(gt=0)] | None = None
    model: Annotated[str, Field(pattern=r"^[^/:\s]+$")] | None = None
    limits: Limits = Limits()
    owner: str = ""

    @property
    def asset(self) -> str:
        """The asset that is updated when a slice arrives."""
        return f"corpus/{self.corpus}"


@dataclass(frozen=True)
class Which:
    """Which slices of a corpus a URI means.

    Attributes:
        name: The corpus.
        date: One slice's date; `latest` for the newest; None for all.
        until: All slices up to `date`, that one included.
    """

    name: str
    date: str | None = None
    until: bool = False


def parse(uri: str) -> Which:
    """Read `corpus://NAME`, `corpus://NAME@latest`, `corpus://NAME@2026-11-22` or `corpus://NAME@..2026-11-22`.

    Raises:
        ConfigInvalid: It is none of them.
    """
    found = _URI.match(uri)
    if found is None or (found["until"] and found["which"] == "latest"):
        raise ConfigInvalid(
            f"'{uri}' names no slices of a corpus; write {SCHEME}<name> for all, {SCHEME}<name>@latest for "
            f"the newest, {SCHEME}<name>@2026-11-22 for one, or {SCHEME}<name>@..2026-11-22 for all up to one"
        )
    return Which(found["name"], found["which"], bool(found["until"]))


def folder() -> Path:
    """PERENNIAL_CORPORA, default `corpora` in PERENNIAL_RECIPES or in the repository's recipes/."""
    recipes = os.environ.get("PERENNIAL_RECIPES") or Path(__file__).resolve().parents[2] / "recipes"
    return Path(os.environ.get("PERENNIAL_CORPORA") or Path(recipes) / "corpora")


def read_corpus(path: Path) -> Corpus:
    """Read one file.

    Raises:
        ConfigInvalid: It is no corpus; says everything that is wrong with it.
    """
    loaded = load(path)
    if loaded.problems:
        raise ConfigInvalid(format_problems(loaded.problems))
    try:
        corpus = Corpus.model_validate(loaded.value)
    except ValidationError as error:
        raise ConfigInvalid("\n".join(f"{path}: {words}" for words in _faults(error))) from error
    if words := cron_error(corpus.cron):
        raise ConfigInvalid(f"{path}: cron: {words}")
    if corpus.uri.startswith((SCHEME, "models:/")):
        raise ConfigInvalid(f"{path}: uri: a corpus is made of files or a data set, not of '{corpus.uri}'")
    return corpus


def read_corpora(place: Path | None = None) -> tuple[dict[str, Corpus], list[str]]:
    """Every corpus of a folder by name, and what is wrong with the others."""
    found: dict[str, Corpus] = {}
    problems: list[str] = []
    for path in sorted((place or folder()).glob("*.yaml")):
        try:
            corpus = read_corpus(path)
        except ConfigInvalid as error:
            problems.append(str(error))
            continue
        if corpus.corpus in found:
            problems.append(f"{path}: corpus: another file describes '{corpus.corpus}' already")
        found.setdefault(corpus.corpus, corpus)
    return found, problems


def find_corpus(name: str) -> Corpus:
    """The corpus of that name.

    Raises:
        ConfigInvalid: No file describes it, or one is wrong.
    """
    found, problems = read_corpora()
    if name not in found:
        wrong = ": " + "; ".join(problems) if problems else ""
        near = did_you_mean(name, found, f"describe it in {folder()}/{name}.yaml")
        raise ConfigInvalid(f"there is no corpus '{name}'{wrong}; {near}")
    return found[name]


def _faults(error: ValidationError) -> list[str]:
    said = []
    for each in error.errors(include_url=False, include_input=False):
        where = dotted(tuple(part for part in each["loc"] if isinstance(part, str | int)))
        fields = Limits.model_fields if where.startswith("limits") else Corpus.model_fields
        remedy = (
            did_you_mean(str(each["loc"][-1]), fields) if each["type"] == "extra_forbidden" else each["msg"]
        )
        said.append(f"{where or 'the file'}: {each['type'].replace('_', ' ')}; {remedy}")
    return said
