"""Looks at a corpus: files by date, against the slices that are known; what is new becomes a slice."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from tasks.artefacts import Store, commit
from tasks.recipe.corpora import Corpus
from tasks.recipe.failures import DataInvalid
from tasks.recipe.uris import check_place
from tasks.sources import FILE_NAME, materialise, write_rows
from tasks.sources.fields import fields_from
from tasks.sources.files import rows_in
from tasks.sources.listing import Listing, list_files
from tasks.sources.watching.slices import File, Slice, add, current, give

_DATE = re.compile(r"(?<!\d)(\d{4})[-/_]?(\d\d)[-/_]?(\d\d)(?!\d)")

WITHOUT_FILES = ("pydocs://", "hf://")


@dataclass(frozen=True)
class Look:
    """What a look found.

    Attributes:
        new: Slices to act on.
        known: How many dates were known and are as they were.
        unsettled: Files that wait: too young to be read yet, or of a date with such a file.
        undated: Files without a date in their path, which belong to no slice.
    """

    new: list[Slice]
    known: int
    unsettled: list[str]
    undated: list[str]


def look(corpus: Corpus, store: Store, work: Path, *, run: str, now: datetime | None = None) -> Look:
    """Register what is new, every date that can be read.

    With a `run` it gives all that no other run was given, so that whoever starts trainings on it misses
    nothing: what a look by hand found before, or one that failed half-way. A retry gives the same again.

    Args:
        corpus: Where to look.
        store: Gets the slices.
        work: A folder for files on their way.
        run: Who looks; "" by hand, which gives what is new since the last look of all.
        now: The moment; for tests.

    Raises:
        ConfigInvalid: The place may not be read, or the options do not fit the files.
        DataInvalid: A file cannot be read, by name and line.
        Infrastructure: S3 or the store cannot be reached.
    """
    now = now or datetime.now(UTC)
    check_place(corpus.uri)
    work.mkdir(parents=True, exist_ok=True)
    find = _whole if corpus.uri.startswith(WITHOUT_FILES) else _files
    found = find(corpus, store, work, run, now)
    return replace(found, new=give(store, corpus.corpus, run, now)) if run else found


def _files(corpus: Corpus, store: Store, work: Path, run: str, now: datetime) -> Look:
    """Every date of a place with files."""
    try:
        files = list_files(corpus.uri)
    except DataInvalid:  # an empty place is one where nothing has arrived yet
        return Look([], len(current(store, corpus.corpus)), [], [])
    dated, undated = by_date(corpus, files, files.names)
    dated, unsettled = _settled(files, dated, now - timedelta(minutes=corpus.settle_minutes))
    chosen = fields_from(corpus.kind, corpus.options, corpus.uri)
    before = {each.date: each for each in current(store, corpus.corpus)}
    found = Look([], 0, unsettled, undated)
    broken: list[str] = []
    for day, members in sorted(dated.items()):
        seen = [_file(files, name) for name in members]
        old = before.get(day)
        made = None
        if old is None or old.files != seen:
            rows = rows_in(replace(files, names=members), corpus.uri, corpus.kind, "all", chosen)
            try:
                made = _commit(corpus, store, work, rows, day, seen, old, run, now)
            except DataInvalid as error:
                broken.append(f"{day}: {error}")
                continue
        if made is None:
            found = replace(found, known=found.known + 1)
        else:
            found.new.append(made)
    if broken:
        rest = f"; {len(found.new)} other new slices are registered" if found.new else ""
        raise DataInvalid(f"corpus/{corpus.corpus}: {'; '.join(broken)}{rest}")
    return found


def by_date(corpus: Corpus, files: Listing, names: Iterable[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Files by the date of their slice, and those that have none."""
    dated: dict[str, list[str]] = {}
    undated: list[str] = []
    for name in names:
        if corpus.dates == "modified":
            day: str | None = files.seen(name).modified.date().isoformat()
        else:
            day = date_in(name)
        if day is None:
            undated.append(name)
        else:
            dated.setdefault(day, []).append(name)
    return dated, undated


def date_in(name: str) -> str | None:
    """The first date in a path (2026-11-22, 2026/11/22, 2026_11_22 or 20261122), as 2026-11-22."""
    for match in _DATE.finditer(name):
        try:
            return date(int(match[1]), int(match[2]), int(match[3])).isoformat()
        except ValueError:
            continue
    return None


def _settled(
    files: Listing, dated: Mapping[str, list[str]], before: datetime
) -> tuple[dict[str, list[str]], list[str]]:
    """The dates without a young file, and the files of the others: a slice of the rest would lack rows."""
    whole: dict[str, list[str]] = {}
    waiting: list[str] = []
    for day, members in dated.items():
        if any(files.seen(name).modified > before for name in members):
            waiting += members
        else:
            whole[day] = members
    return whole, waiting


def _file(files: Listing, name: str) -> File:
    seen = files.seen(name)
    return File(name=name, size=seen.size, mark=seen.mark)


def _commit(
    corpus: Corpus,
    store: Store,
    work: Path,
    rows: Iterable[dict[str, Any]],
    day: str,
    files: list[File],
    old: Slice | None,
    run: str,
    now: datetime,
) -> Slice | None:
    """The new slice; None where there are no rows, or the files were touched and the rows are the same."""
    directory = Path(tempfile.mkdtemp(prefix=f"slice-{day}-", dir=work))
    try:
        counts = write_rows(rows, corpus.kind, directory / FILE_NAME)
        return _register(corpus, store, directory, counts, day, files, old, run, now)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _register(
    corpus: Corpus,
    store: Store,
    directory: Path,
    counts: Mapping[str, Any],
    day: str,
    files: list[File],
    old: Slice | None,
    run: str,
    now: datetime,
) -> Slice | None:
    if not counts["rows"]:
        return None
    meta = {**counts, "split": "all", "uri": corpus.uri, "corpus": corpus.corpus, "date": day}
    digest = commit(store, directory, kind=corpus.kind, parents=[], producer=corpus.uri, meta=meta).digest
    if old is not None and old.digest == digest:
        return None
    made = Slice(
        corpus=corpus.corpus,
        date=day,
        number=old.number + 1 if old and old.date == day else 1,
        digest=digest,
        kind=corpus.kind,
        rows=counts["rows"],
        characters=counts["characters"],
        bytes=counts["bytes"],
        files=files,
        found=now.isoformat(timespec="seconds"),
        found_by=run,
        uri=corpus.uri,
    )
    add(store, made)
    return made


def _whole(corpus: Corpus, store: Store, work: Path, run: str, now: datetime) -> Look:
    """A source without files: one slice, dated today, wherever its rows differ from the last slice's."""
    have = current(store, corpus.corpus)
    directory = Path(tempfile.mkdtemp(prefix="slice-", dir=work))
    try:
        made = materialise(
            corpus.uri, kind=corpus.kind, split="all", options=corpus.options, directory=directory
        )
        counts = {name: made.meta[name] for name in ("rows", "characters", "bytes")}
        last = have[-1] if have else None
        new = _register(corpus, store, directory, counts, now.date().isoformat(), [], last, run, now)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return Look([new] if new else [], len(have), [], [])
