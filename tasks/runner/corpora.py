"""`perennial corpus`: look for new data, show slices and drift; and a recipe's data from a corpus."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tasks.artefacts import Store, open_store
from tasks.recipe.corpora import Corpus, find_corpus, parse, read_corpora
from tasks.recipe.failures import ConfigInvalid, DataInvalid
from tasks.recipe.plan import Plan
from tasks.runner.settings import Settings
from tasks.sources import FILE_NAME, Materialised, write_rows
from tasks.sources.rows import texts_of
from tasks.sources.watching.drift import Drift, drift
from tasks.sources.watching.look import look
from tasks.sources.watching.slices import Slice, chosen, current, every, given, read, rows
from tasks.tracking import registry


def look_for_new(settings: Settings, name: str, run: str) -> list[Slice]:
    """Look at a corpus, say what there is, and give the slices that this run registered.

    Raises:
        DataInvalid: Nothing is new, and something had to be by now; or a file cannot be read.
    """
    corpus, store = find_corpus(name), open_store(settings.store)
    found = look(corpus, store, settings.home / "work", run=run)
    for each in found.new:
        again = f", number {each.number} of its date" if each.number > 1 else ""
        print(f"corpus/{name}: new slice {each.date}: {each.rows:,} rows, {each.digest[:12]}{again}")
    for word, names in (
        ("left for the next look, their dates have files too young", found.unsettled),
        ("without a date", found.undated),
    ):
        if names:
            print(f"corpus/{name}: {len(names)} files {word}, e.g. {names[0]}")
    if not found.new:
        have = current(store, name)
        newest = f"the newest slice is {have[-1].date}" if have else "nothing has arrived yet"
        print(f"corpus/{name}: no new data at {corpus.uri}: {found.known} slices as they were; {newest}")
        _check_expected(corpus, have)
    return found.new


def tell_drift(settings: Settings, name: str, date: str | None = None, run: str = "") -> list[Drift]:
    """Compare slices with what the champion was trained on, keep the answers beside them, and say them.

    Args:
        settings: Where the store and MLflow are.
        name: The corpus.
        date: Of the slice; None for the newest.
        run: A look, instead of a date: every slice that it was given.

    Returns:
        One for each slice; none while the model has no champion.

    Raises:
        DataInvalid: There is no such slice, or a figure of one is over the corpus's limits; all are told.
        ConfigInvalid: The corpus names no model, or the champion's plan is gone.
    """
    corpus, store = find_corpus(name), open_store(settings.store)
    slices = given(store, name, run) if run else chosen(store, parse(f"corpus://{name}@{date or 'latest'}"))
    found: list[Drift] = []
    over: list[str] = []
    for each in slices:
        one = _tell(settings, store, corpus, each)
        if one is None:
            print(f"corpus/{name}: nothing to compare with: model '{corpus.model}' has no champion yet")
            return []
        found.append(one)
        if one.over:
            over.append(f"slice {each.date} drifts: {'; '.join(one.over)}")
    if over:
        raise DataInvalid(
            f"corpus/{name}: {'. '.join(over)}. Look at its typical words and rows; if it is what you want "
            "to learn, raise the limits in the corpus's file"
        )
    return found


def _tell(settings: Settings, store: Store, corpus: Corpus, slice_: Slice) -> Drift | None:
    """One slice's; None while the model has no champion."""
    reference = _reference(corpus, store, settings, slice_)
    if reference is None:
        return None
    version, sets = reference
    cache = settings.home / "cache" / "artefacts"
    found = drift(
        _documents(store, {slice_.digest: slice_.kind}, cache), _documents(store, sets, cache), corpus.limits
    )
    name = corpus.corpus
    kept = {
        "corpus": name, "date": slice_.date, "number": slice_.number, "digest": slice_.digest,
        "model": corpus.model, "version": version, "reference": sorted(sets), **found.model_dump(mode="json"),
    }  # fmt: skip
    key = f"corpus/{name}/drift/{slice_.date}.{slice_.number}.{version}.json"
    store.write(key, json.dumps(kept, sort_keys=True, indent=1).encode())
    print(
        f"corpus/{name}: slice {slice_.date} against what version {version} of '{corpus.model}' learned from"
    )
    for figure, value in found.figures.model_dump().items():
        print(f"  {figure:<16} {value:.4f}  (between halves of that: {getattr(found.yardstick, figure):.4f})")
    print(f"  typical words    {', '.join(found.typical)}")
    return found


def shown(settings: Settings, name: str) -> dict[str, Any]:
    """A corpus: `corpus`, `uri`, `asset`, `slices` (by date and number, with `drift` where it was told)."""
    corpus, store = find_corpus(name), open_store(settings.store)
    told: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for stat in store.list(f"corpus/{name}/drift/"):
        each = json.loads(store.read(stat.key))
        told.setdefault((each["date"], each["number"]), []).append(each)
    counted = {(each.date, each.number) for each in current(store, name)}
    slices = [
        {
            **each.model_dump(exclude={"files"}),
            "files": len(each.files),
            "current": (each.date, each.number) in counted,
            "drift": told.get((each.date, each.number), []),
        }
        for each in every(store, name)
    ]
    return {"corpus": name, "uri": corpus.uri, "asset": corpus.asset, "slices": slices}


def print_corpus(settings: Settings, name: str, *, as_json: bool) -> None:
    """Print a corpus's slices and their drift."""
    found = shown(settings, name)
    if as_json:
        print(json.dumps(found, indent=1, sort_keys=True))
        return
    console = Console(soft_wrap=True)
    console.print(f"{found['asset']}  {found['uri']}", highlight=False, markup=False)
    table = Table(box=None, pad_edge=False)
    for column in ("date", "rows", "files", "digest", "found", "", "drift"):
        table.add_column(column, overflow="fold")
    for each in found["slices"]:
        state = "" if each["current"] else "replaced"
        last = each["drift"][-1] if each["drift"] else None
        words = "; ".join(last["over"]) or _short(last["figures"]) if last else "not told"
        against = f" (version {last['version']})" if last else ""
        table.add_row(
            each["date"], f"{each['rows']:,}", str(each["files"]), each["digest"][:12], each["found"][:16],
            state, words + against,
        )  # fmt: skip
    console.print(table, highlight=False, markup=False)


def print_corpora(settings: Settings) -> None:
    """Print every corpus with its newest slice; ConfigInvalid where a file is wrong."""
    found, problems = read_corpora()
    store = open_store(settings.store)
    for name, corpus in found.items():
        have = current(store, name)
        newest = f"{len(have)} slices, newest {have[-1].date}" if have else "nothing yet"
        print(f"{name:<20} {newest:<32} {corpus.uri}")
    if problems:
        raise ConfigInvalid("\n".join(problems))


def materialise_corpus(
    uri: str,
    *,
    kind: str | None,
    split: str,
    options: Mapping[str, Any],
    directory: Path,
    store: Store,
    cache: Path,
) -> Materialised:
    """Write the rows of the slices that `corpus://` means now; as `tasks.sources.materialise`.

    Raises:
        ConfigInvalid: The kind is another than the slices', or there are options: the corpus has them.
        DataInvalid: There is no such slice, or it has no row of the split.
    """
    slices = chosen(store, parse(uri))
    kinds = {each.kind for each in slices}
    if kinds != {kind}:
        raise ConfigInvalid(f"'{uri}' holds {' and '.join(sorted(kinds))}, not {kind}; correct 'kind'")
    if options:
        raise ConfigInvalid(
            f"'{uri}' takes no options; how its files are read stands in the corpus's own file: remove "
            f"{', '.join(sorted(options))}"
        )
    counts = write_rows(rows(store, slices, split, cache), str(kind), directory / FILE_NAME)
    if not counts["rows"]:
        raise DataInvalid(f"{uri}: no rows in split '{split}' of {', '.join(each.date for each in slices)}")
    meta = {
        **counts, "split": split, "uri": uri, "corpus": slices[0].corpus,
        "slices": {each.date: each.digest for each in slices},
    }  # fmt: skip
    return Materialised(str(kind), counts["rows"], meta)


def _check_expected(corpus: Corpus, have: list[Slice]) -> None:
    if corpus.expect_days is None or not have:
        return
    found = max(datetime.fromisoformat(each.found) for each in have)
    days = (datetime.now(UTC) - found).total_seconds() / 86400
    if days > corpus.expect_days:
        raise DataInvalid(
            f"corpus/{corpus.corpus}: nothing new at {corpus.uri} for {days:.1f} days, and something is "
            f"expected every {corpus.expect_days:g}: ask whoever writes there; dates in paths are 2026-11-22 "
            "or 20261122"
        )


def _reference(
    corpus: Corpus, store: Store, settings: Settings, slice_: Slice
) -> tuple[str, dict[str, str]] | None:
    """The champion's version, and the data sets that it learned from: digest -> kind. None without one.

    They are the sets of its plan of the corpus's kind, without those held out; where some of them are slices
    of this corpus, those alone.
    """
    if corpus.model is None:
        raise ConfigInvalid(
            f"corpus '{corpus.corpus}' names no model to compare with; add model: to its file"
        )
    champion = registry.find_version(corpus.model, "champion", settings.tracking)
    if champion is None:
        return None
    key = f"runs/{champion.tags.get('perennial.run', '')}/plan.json"
    if store.stat(key) is None:
        raise ConfigInvalid(f"{store.locate(key)}, the plan of the champion of '{corpus.model}', is gone")
    plan = Plan.from_bytes(store.read(key))
    sets = [
        pin for pin in plan.data.values() if pin.kind == slice_.kind and pin.meta.get("split") != "heldout"
    ]
    own = [pin for pin in sets if pin.meta.get("corpus") == corpus.corpus]
    if not sets:
        raise ConfigInvalid(f"the champion of '{corpus.model}' has learned from no {slice_.kind}")
    return champion.version, {pin.digest: pin.kind for pin in own or sets}


def _documents(store: Store, sets: Mapping[str, str], cache: Path) -> Iterator[tuple[str, str]]:
    for digest, kind in sets.items():
        for row in read(store, digest, cache):
            yield row["key"], "\n".join(texts_of(kind, row))


def _short(figures: Mapping[str, float]) -> str:
    return f"JS {figures['jensen_shannon']:.3f}, new runs {figures['novel_ngrams']:.0%}"
