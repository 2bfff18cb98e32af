"""The DAGs that look for new data: one a corpus, with the asset that recipes wait for."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import Asset
from airflow.sdk.exceptions import AirflowException

DAGS = Path(__file__).resolve().parents[3] / "dags"


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Loads a file of dags/ with corpora of the test's own."""
    monkeypatch.setenv("PERENNIAL_CORPORA", str(tmp_path))

    def run(file: str, *texts: str) -> dict[str, Any]:
        for number, text in enumerate(texts):
            (tmp_path / f"{number}.yaml").write_text(text)
        return runpy.run_path(str(DAGS / file))

    return run


def test_a_corpus_becomes_a_dag_that_updates_its_asset(load: Any) -> None:
    found = load("watch_data.py", 'corpus: news\nuri: s3://b/news\ncron: "7 * * * *"\nmodel: m\nowner: ada\n')
    dag = found["watch__news"]
    look = dag.get_task("look")
    assert look.outlets == [Asset(name="corpus/news")]
    assert dag.get_task("drift").upstream_task_ids == {"look"}
    assert (dag.catchup, dag.max_active_runs) == (False, 1)
    assert dag.timetable.expression == "7 * * * *"
    assert look.owner == "ada"
    [command] = look.commands({"run_id": "scheduled__2026-01-05T00:00:00+00:00"})
    assert command == ["corpus", "look", "news", "--run", "watch-news-scheduled__2026-01-05T000000Z"]
    assert dag.get_task("drift").commands({}) == [["corpus", "drift", "news"]]


def test_without_a_model_there_is_nothing_to_compare_with(load: Any) -> None:
    found = load(
        "watch_data.py", "corpus: news\nuri: s3://b/news\n", "corpus: chats\nuri: s3://b/c\nmodel: m\n"
    )
    assert found["watch__news"].task_ids == ["look"]
    assert found["watch__chats"].task_ids == ["look", "drift"]
    # Each DAG compares its own corpus, not the last one of the loop.
    assert found["watch__chats"].get_task("drift").commands({}) == [["corpus", "drift", "chats"]]


def test_it_is_the_asset_that_recipes_wait_for(load: Any) -> None:
    watched = load("watch_data.py", "corpus: pydocs\nuri: pydocs://language-reference\n")["watch__pydocs"]
    [outlet] = watched.get_task("look").outlets
    trained = runpy.run_path(str(DAGS / "train.py"))["train__pydocs"]
    [asset] = trained.timetable.asset_condition.objects
    assert (asset.name, asset.uri) == (outlet.name, outlet.uri)


def test_a_broken_corpus_is_reported_and_takes_no_other_down(load: Any) -> None:
    found = load("watch_data.py", "corpus: news\nuri: s3://b/news\n", "corpus: News\n")
    assert [name for name in found if name.startswith("watch__")] == ["watch__news"]
    with pytest.raises(AirflowException, match=r"1\.yaml: corpus"):
        load("broken_corpora.py")
