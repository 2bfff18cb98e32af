"""Looking at a folder: slices by date, once each, and again only where rows changed."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tasks.artefacts import Store, find_roots, load_manifest, open_store, plan_gc
from tasks.recipe.corpora import Corpus, Which, parse
from tasks.recipe.failures import ConfigInvalid, DataInvalid, Infrastructure
from tasks.sources.watching import slices
from tasks.sources.watching.look import Look, date_in, look


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(f"file://{tmp_path}/store")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    folder = tmp_path / "news"
    folder.mkdir()
    return folder


def put(place: Path, name: str, *texts: str) -> Path:
    path = place / name
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"key": text.split()[0], "text": text} for text in texts]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def looked(place: Path, store: Store, tmp_path: Path, run: str = "r", **more: object) -> Look:
    corpus = Corpus.model_validate({"corpus": "news", "uri": f"file://{place}", **more})
    return look(corpus, store, tmp_path / "work", run=run)


def dates(found: Look) -> list[str]:
    return [each.date for each in found.new]


def test_files_become_slices_by_the_date_in_their_path(place: Path, store: Store, tmp_path: Path) -> None:
    put(place, "2026-01-05/a.jsonl", "one is here", "two is here")
    put(place, "2026-01-05/b.jsonl", "three is here")
    put(place, "more/20260112.jsonl", "four is here")
    put(place, "readme.jsonl", "undated is here")
    found = looked(place, store, tmp_path)
    assert [(each.date, each.rows, each.number) for each in found.new] == [
        ("2026-01-05", 3, 1),
        ("2026-01-12", 1, 1),
    ]
    assert found.undated == ["readme.jsonl"]
    manifest = load_manifest(store, found.new[0].digest)
    assert (manifest.kind, manifest.meta["corpus"], manifest.meta["rows"]) == ("documents", "news", 3)
    assert slices.current(store, "news") == found.new


def test_a_second_look_finds_nothing_and_a_retry_of_one_run_finds_the_same(
    place: Path, store: Store, tmp_path: Path
) -> None:
    put(place, "2026-01-05.jsonl", "one is here")
    first = looked(place, store, tmp_path, run="one")
    assert looked(place, store, tmp_path, run="one").new == first.new  # its event may not have been sent
    again = looked(place, store, tmp_path, run="two")
    assert (again.new, again.known) == ([], 1)


def test_what_was_found_by_hand_or_by_a_look_that_failed_is_given_to_the_next_run(
    place: Path, store: Store, tmp_path: Path
) -> None:
    put(place, "2026-01-05.jsonl", "one is here")
    assert dates(looked(place, store, tmp_path, run="")) == ["2026-01-05"]
    assert dates(looked(place, store, tmp_path, run="")) == []
    (place / "2026-01-12.jsonl").write_text('{"key": "a"')
    put(place, "2026-01-19.jsonl", "three is here")
    with pytest.raises(DataInvalid, match=r"2026-01-12: 2026-01-12\.jsonl:1: cut short.*1 other new slices"):
        looked(place, store, tmp_path, run="one")
    put(place, "2026-01-12.jsonl", "two is here")  # the remedy
    assert dates(looked(place, store, tmp_path, run="two")) == ["2026-01-05", "2026-01-12", "2026-01-19"]
    assert dates(looked(place, store, tmp_path, run="three")) == []


def test_a_late_file_makes_another_number_of_its_date_and_the_old_stays(
    place: Path, store: Store, tmp_path: Path
) -> None:
    put(place, "2026-01-05/a.jsonl", "one is here")
    [first] = looked(place, store, tmp_path).new
    put(place, "2026-01-05/b.jsonl", "two is here")
    [second] = looked(place, store, tmp_path, run="later").new
    assert (second.date, second.number, second.rows) == ("2026-01-05", 2, 2)
    assert slices.every(store, "news") == [first, second]
    assert slices.current(store, "news") == [second]


def test_a_touched_file_with_the_same_rows_is_nothing_new(place: Path, store: Store, tmp_path: Path) -> None:
    path = put(place, "2026-01-05.jsonl", "one is here")
    looked(place, store, tmp_path)
    os.utime(path, (1, 1))
    assert looked(place, store, tmp_path, run="later").new == []


def test_files_that_may_still_be_written_to_are_left_for_the_next_look(
    place: Path, store: Store, tmp_path: Path
) -> None:
    old = put(place, "2026-01-05.jsonl", "one is here")
    put(place, "2026-01-06.jsonl", "two is here")
    before = (datetime.now(UTC) - timedelta(hours=1)).timestamp()
    os.utime(old, (before, before))
    found = looked(place, store, tmp_path, settle_minutes=5.0)
    assert (dates(found), found.unsettled) == (["2026-01-05"], ["2026-01-06.jsonl"])


def test_a_date_waits_as_a_whole_while_any_of_its_files_may_still_be_written_to(
    place: Path, store: Store, tmp_path: Path
) -> None:
    before = (datetime.now(UTC) - timedelta(hours=1)).timestamp()
    first = put(place, "2026-01-05/a.jsonl", "one is here")
    second = put(place, "2026-01-05/b.jsonl", "two is here")
    os.utime(first, (before, before))
    found = looked(place, store, tmp_path, settle_minutes=5.0)
    assert dates(found) == []
    assert sorted(found.unsettled) == ["2026-01-05/a.jsonl", "2026-01-05/b.jsonl"]
    os.utime(second, (before, before))
    assert [each.rows for each in looked(place, store, tmp_path, "two", settle_minutes=5.0).new] == [2]
    put(place, "2026-01-05/b.jsonl", "two is mended")  # being written: the known slice stays as it was
    again = looked(place, store, tmp_path, "three", settle_minutes=5.0)
    assert (dates(again), len(again.unsettled)) == ([], 2)
    assert [each.rows for each in slices.current(store, "news")] == [2]
    os.utime(second, (before + 60, before + 60))
    [mended] = looked(place, store, tmp_path, "four", settle_minutes=5.0).new
    assert (mended.number, mended.rows) == (2, 2)


def test_slices_can_go_by_the_day_that_files_were_written(place: Path, store: Store, tmp_path: Path) -> None:
    for name, day in (("a.jsonl", 5), ("b.jsonl", 5), ("c.jsonl", 6)):
        moment = datetime(2026, 1, day, 12, tzinfo=UTC).timestamp()
        os.utime(put(place, name, f"{name} is here"), (moment, moment))
    found = looked(place, store, tmp_path, dates="modified")
    assert [(each.date, len(each.files)) for each in found.new] == [("2026-01-05", 2), ("2026-01-06", 1)]


def test_an_empty_place_is_no_error_and_a_broken_file_is(place: Path, store: Store, tmp_path: Path) -> None:
    assert looked(place, store, tmp_path).new == []
    (place / "2026-01-05.jsonl").write_text('{"key": "a"')
    with pytest.raises(DataInvalid, match=r"2026-01-05\.jsonl:1: cut short"):
        looked(place, store, tmp_path)
    assert slices.every(store, "news") == []


def test_a_source_without_files_is_new_once_it_changes(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks.sources import pydocs

    topics = [{"key": "a", "text": "first"}]
    kept = dict(pydocs.DATASETS)
    monkeypatch.setattr(
        pydocs, "DATASETS", {**kept, "language-reference": ("documents", lambda split: list(topics))}
    )
    corpus = Corpus(corpus="docs", uri="pydocs://language-reference")

    def at(day: int, run: str) -> list[str]:
        moment = datetime(2026, 1, day, tzinfo=UTC)
        return dates(look(corpus, store, tmp_path / "work", run=run, now=moment))

    assert at(5, "one") == ["2026-01-05"]
    assert at(6, "two") == []
    topics.append({"key": "b", "text": "second"})
    assert at(7, "three") == ["2026-01-07"]
    assert [each.number for each in slices.every(store, "docs")] == [1, 1]


def test_the_registry_is_only_added_to(place: Path, store: Store, tmp_path: Path) -> None:
    put(place, "2026-01-05.jsonl", "one is here")
    [made] = looked(place, store, tmp_path).new
    with pytest.raises(Infrastructure, match="somebody else"):
        slices.add(store, made.model_copy(update={"digest": "0" * 64}))


def test_garbage_collection_keeps_slices(place: Path, store: Store, tmp_path: Path) -> None:
    put(place, "2026-01-05.jsonl", "one is here")
    [made] = looked(place, store, tmp_path).new
    roots = find_roots(store)
    assert made.digest in roots.digests
    assert plan_gc(store, set(roots.digests), set(), timedelta(0)) == []


def test_what_a_uri_means(place: Path, store: Store, tmp_path: Path) -> None:
    for day in ("05", "12", "19"):
        put(place, f"2026-01-{day}.jsonl", f"same of {day}", f"own{day} is here")
    looked(place, store, tmp_path)

    def meant(uri: str, split: str = "all") -> list[str]:
        found = slices.chosen(store, parse(uri))
        return [row["text"] for row in slices.rows(store, found, split, tmp_path / "cache")]

    assert meant("corpus://news@latest") == ["same of 19", "own19 is here"]
    assert meant("corpus://news@2026-01-12") == ["same of 12", "own12 is here"]
    assert meant("corpus://news@..2026-01-12") == ["own05 is here", "same of 12", "own12 is here"]
    assert meant("corpus://news") == ["own05 is here", "own12 is here", "same of 19", "own19 is here"]
    sides = meant("corpus://news", "train") + meant("corpus://news", "heldout")
    assert sorted(sides) == sorted(meant("corpus://news"))
    with pytest.raises(DataInvalid, match="its dates are 2026-01-05, 2026-01-12, 2026-01-19"):
        meant("corpus://news@2026-02-01")
    with pytest.raises(DataInvalid, match="perennial corpus look"):
        meant("corpus://other")


@pytest.mark.parametrize(
    "uri",
    [
        "corpus://",
        "corpus://News",
        "corpus://news@",
        "corpus://news@..latest",
        "corpus://news@2026-1-5",
        "corpus://a/b",
    ],
)
def test_what_is_no_uri_of_a_corpus(uri: str) -> None:
    with pytest.raises(ConfigInvalid, match="write corpus://<name>"):
        parse(uri)


def test_a_uri_is_read() -> None:
    assert parse("corpus://news") == Which("news")
    assert parse("corpus://news@latest") == Which("news", "latest")
    assert parse("corpus://news@..2026-01-05") == Which("news", "2026-01-05", True)


@pytest.mark.parametrize(
    ("name", "day"),
    [
        ("2026-01-05/a.jsonl", "2026-01-05"), ("x/2026/01/05/a", "2026-01-05"),
        ("a_20260105.txt", "2026-01-05"),
        ("2026-13-05/2026-01-06.jsonl", "2026-01-06"), ("part-00001.jsonl", None), ("v1234567890.txt", None),
    ],
)  # fmt: skip
def test_dates_in_paths(name: str, day: str | None) -> None:
    assert date_in(name) == day
