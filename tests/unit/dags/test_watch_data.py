"""The DAGs that look for new data: one a corpus, with the asset that recipes wait for."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import Asset
from airflow.sdk.exceptions import AirflowException
from runtimes.failures import CommandFailed

from tests.local_servers import web_server

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
    context = {"run_id": "scheduled__2026-01-05T00:00:00+00:00"}
    run = "watch-news-scheduled__2026-01-05T000000Z"
    assert look.commands(context) == [["corpus", "look", "news", "--run", run]]
    assert dag.get_task("drift").commands(context) == [["corpus", "drift", "news", "--run", run]]


def test_without_a_model_there_is_nothing_to_compare_with(load: Any) -> None:
    found = load(
        "watch_data.py", "corpus: news\nuri: s3://b/news\n", "corpus: chats\nuri: s3://b/c\nmodel: m\n"
    )
    assert found["watch__news"].task_ids == ["look"]
    assert found["watch__chats"].task_ids == ["look", "drift"]
    # Each DAG compares its own corpus, not the last one of the loop.
    [command] = found["watch__chats"].get_task("drift").commands({"run_id": "manual__1"})
    assert command[:3] == ["corpus", "drift", "chats"]


@pytest.mark.parametrize(
    ("code", "event"), [(3, "drift"), (6, "failure.infrastructure"), (2, "failure.config_invalid")]
)
def test_only_drift_is_told_as_drift(
    code: int, event: str, load: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    dag = load("watch_data.py", "corpus: news\nuri: s3://b/news\nmodel: m\n")["watch__news"]
    [tell] = dag.get_task("drift").on_failure_callback
    with web_server() as (url, posts):
        monkeypatch.setenv("AIRFLOW_CONN_PAGER", json.dumps({"conn_type": "http", "host": url}))
        monkeypatch.setenv("PERENNIAL_NOTIFY", "webhook:pager")
        ti = SimpleNamespace(dag_id="watch__news", task_id="drift", run_id="manual__1")
        tell({"ti": ti, "exception": CommandFailed("perennial corpus", code)})
    [(_, body)] = posts
    assert json.loads(body)["event"] == event


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
