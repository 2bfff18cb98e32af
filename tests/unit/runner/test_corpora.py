"""The corpus commands on a folder: what is said, what fails and why, what a recipe gets."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tasks.artefacts import Store, load_manifest
from tasks.recipe.failures import ConfigInvalid, DataInvalid
from tasks.recipe.models import Recipe
from tasks.recipe.plan import Pinned
from tasks.runner import corpora
from tasks.runner.planner import pin_data
from tasks.runner.settings import Settings
from tasks.sources.watching import slices
from tasks.tracking.registry import VersionInfo
from tests.unit.runner.conftest import plan_of

ENGLISH = re.split(" ", "the value of an object is returned when the function is called with a list of names")
GERMAN = re.split(
    " ", "der wert eines objekts wird zurück gegeben wenn die funktion mit einer liste von namen"
)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "news"
    folder.mkdir()
    described = tmp_path / "corpora"
    described.mkdir()
    (described / "news.yaml").write_text(
        f"corpus: news\nuri: file://{folder}\nmodel: m\nexpect_days: 3\nlimits: {{jensen_shannon: 0.5}}\n"
    )
    monkeypatch.setenv("PERENNIAL_CORPORA", str(described))
    return folder


def put(place: Path, date: str, words: list[str]) -> None:
    rows = [{"key": f"{date}-{n}", "text": " ".join(words[n % 3 :] + words[: n % 5])} for n in range(20)]
    (place / f"{date}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def champion(monkeypatch: pytest.MonkeyPatch, store: Store, pins: dict[str, Pinned] | None) -> None:
    """Stands for MLflow: a champion that learned from these, or none."""
    found = None
    if pins is not None:
        store.write("runs/one/plan.json", plan_of("one", []).model_copy(update={"data": pins}).to_bytes())
        found = VersionInfo("m", "7", "d", "", "1.0.0", "", {"perennial.run": "one"})
    monkeypatch.setattr("tasks.tracking.registry.find_version", lambda *_: found)


def recipe(uri: str, **more: Any) -> Recipe:
    data = {"news": {"uri": uri, "kind": "documents", **more}}
    return Recipe.model_validate({"recipe": "r", "model": "m", "data": data, "steps": {}})


def test_a_look_says_what_is_new_and_alerts_where_nothing_comes(
    place: Path, settings: Settings, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    assert corpora.look_for_new(settings, "news", "a") == []
    assert "nothing has arrived yet" in capsys.readouterr().out
    put(place, "2026-01-05", ENGLISH)
    (place / "notes.txt").write_text("no date")
    [made] = corpora.look_for_new(settings, "news", "b")
    said = capsys.readouterr().out
    assert "new slice 2026-01-05: 20 rows" in said
    assert "1 files without a date, e.g. notes.txt" in said
    assert corpora.look_for_new(settings, "news", "c") == []
    old = made.model_copy(update={"found": (datetime.now(UTC) - timedelta(days=4)).isoformat()})
    store.write("corpus/news/slices/2026-01-05.1.json", old.model_dump_json().encode())
    with pytest.raises(
        DataInvalid, match=r"nothing new at .* for 4\.0 days, and something is expected every 3"
    ):
        corpora.look_for_new(settings, "news", "d")
    put(place, "2026-01-12", ENGLISH)  # the remedy: it arrives
    assert len(corpora.look_for_new(settings, "news", "e")) == 1


def test_drift_is_told_against_what_the_champion_learned_from(
    place: Path,
    settings: Settings,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    put(place, "2026-01-05", ENGLISH)
    corpora.look_for_new(settings, "news", "a")
    champion(monkeypatch, store, None)
    assert corpora.tell_drift(settings, "news") == []
    pins = pin_data(recipe("corpus://news@latest"), store, settings)
    champion(monkeypatch, store, pins)
    put(place, "2026-01-12", ENGLISH[::-1])
    corpora.look_for_new(settings, "news", "b")
    [alike] = corpora.tell_drift(settings, "news")
    assert (alike.over, alike.figures.new_words) == ([], 0.0)
    assert "slice 2026-01-12 against what version 7 of 'm' learned from" in capsys.readouterr().out
    put(place, "2026-01-19", GERMAN)
    corpora.look_for_new(settings, "news", "c")
    with pytest.raises(DataInvalid, match=r"slice 2026-01-19 drifts: jensen_shannon is 1, above 0\.5"):
        corpora.tell_drift(settings, "news", None)
    assert len(corpora.tell_drift(settings, "news", "2026-01-12")) == 1
    shown = corpora.shown(settings, "news")
    assert [[bool(drift["over"]) for drift in each["drift"]] for each in shown["slices"]] == [
        [],
        [False],
        [True],
    ]
    put(place, "2026-01-19", ENGLISH)  # the remedy: corrected where it is
    [corrected] = corpora.look_for_new(settings, "news", "d")
    assert corrected.number == 2
    assert len(corpora.tell_drift(settings, "news")) == 1
    corpora.print_corpus(settings, "news", as_json=False)
    assert "replaced" in capsys.readouterr().out


def test_every_slice_of_a_look_is_compared(
    place: Path, settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(place, "2026-01-05", ENGLISH)
    corpora.look_for_new(settings, "news", "a")
    champion(monkeypatch, store, pin_data(recipe("corpus://news@latest"), store, settings))
    put(place, "2026-01-12", GERMAN)
    put(place, "2026-01-19", GERMAN[::-1])
    put(place, "2026-01-26", ENGLISH[::-1])
    assert len(corpora.look_for_new(settings, "news", "b")) == 3
    with pytest.raises(DataInvalid, match=r"2026-01-12 drifts: .*\. slice 2026-01-19 drifts: ") as caught:
        corpora.tell_drift(settings, "news", run="b")
    assert "2026-01-26" not in str(caught.value)
    shown = corpora.shown(settings, "news")["slices"]
    assert [len(each["drift"]) for each in shown] == [0, 1, 1, 1]
    put(place, "2026-01-12", ENGLISH)  # the remedy: what a look gives is compared as it is by then
    corpora.look_for_new(settings, "news", "")
    with pytest.raises(DataInvalid, match=r"^corpus/news: slice 2026-01-19 drifts"):
        corpora.tell_drift(settings, "news", run="b")


def test_what_there_is_to_compare_with(
    place: Path, settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(place, "2026-01-05", ENGLISH)
    corpora.look_for_new(settings, "news", "a")
    pins = pin_data(recipe("corpus://news"), store, settings)
    heldout = {"news": pins["news"].model_copy(update={"meta": {"split": "heldout"}})}
    champion(monkeypatch, store, heldout)
    with pytest.raises(ConfigInvalid, match="has learned from no documents"):
        corpora.tell_drift(settings, "news", None)
    champion(monkeypatch, store, pins)
    store.delete("runs/one/plan.json")
    with pytest.raises(ConfigInvalid, match="the plan of the champion of 'm', is gone"):
        corpora.tell_drift(settings, "news", None)


def test_a_recipe_gets_the_slices_by_digest(place: Path, settings: Settings, store: Store) -> None:
    put(place, "2026-01-05", ENGLISH)
    put(place, "2026-01-12", GERMAN)
    corpora.look_for_new(settings, "news", "a")
    before = pin_data(recipe("corpus://news@latest"), store, settings)["news"]
    first, last = slices.current(store, "news")
    assert before.digest == last.digest  # nothing is taken apart or added: it is the slice
    assert before.meta["slices"] == {"2026-01-12": last.digest}
    assert load_manifest(store, before.digest).kind == "documents"
    both = pin_data(recipe("corpus://news"), store, settings)["news"]
    assert both.meta["rows"] == 40
    assert pin_data(recipe("corpus://news@latest"), store, settings)["news"].digest == before.digest
    assert pin_data(recipe("corpus://news@2026-01-05"), store, settings)["news"].digest == first.digest


def test_what_does_not_fit_a_corpus_is_refused(place: Path, settings: Settings, store: Store) -> None:
    put(place, "2026-01-05", ENGLISH)
    corpora.look_for_new(settings, "news", "a")
    with pytest.raises(ConfigInvalid, match="holds documents, not chats"):
        pin_data(recipe("corpus://news", kind="chats"), store, settings)
    with pytest.raises(ConfigInvalid, match="takes no options"):
        pin_data(recipe("corpus://news", options={"text_field": "body"}), store, settings)
    with pytest.raises(DataInvalid, match="no such slice"):
        pin_data(recipe("corpus://news@2025-01-05"), store, settings)
