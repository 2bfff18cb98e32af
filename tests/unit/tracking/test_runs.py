from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks.recipe.failures import ConfigInvalid, PerennialError
from tasks.tracking import runs
from tasks.tracking.runs import Point, RunFacts, StepFacts
from tasks.tracking.server import call

FACTS = RunFacts("pydocs", "manual__2026-03-01T00:00:00+00:00", "pydocs", "file:///p.json", "new data")
STEP = StepFacts(
    "adapted", "pretrain", "continue", "f" * 64, {"lr": 1e-05, "name": "x"}, {"data": ["a", "b"]}
)


def read(run: str) -> Any:
    return call("read", lambda client: client.get_run(run))


def every_run() -> list[Any]:
    def act(client: Any) -> list[Any]:
        return list(client.search_runs([each.experiment_id for each in client.search_experiments()]))

    return call("read", act)


@pytest.fixture
def step_run() -> str:
    return runs.open_step(runs.open_parent(FACTS), STEP)


def test_one_parent_run_per_run() -> None:
    first = runs.open_parent(replace(FACTS, tags={"intent": "i1"}))
    assert runs.open_parent(FACTS) == first
    assert runs.open_parent(replace(FACTS, run="another")) != first
    tags = read(first).data.tags
    assert tags["perennial.run"] == FACTS.run
    assert tags["perennial.reason"] == "new data"
    assert tags["perennial.intent"] == "i1"


def test_p23_an_ended_run_is_opened_again_as_the_next_attempt() -> None:
    run = runs.open_parent(FACTS)
    runs.end(run, "FAILED")
    assert read(run).info.status == "FAILED"
    assert runs.open_parent(FACTS) == run
    assert read(run).info.status == "RUNNING"
    assert read(run).data.tags["perennial.attempts"] == "2"
    runs.open_parent(FACTS)
    assert read(run).data.tags["perennial.attempts"] == "2"


def test_step_is_nested_and_found_again(step_run: str) -> None:
    parent = runs.open_parent(FACTS)
    assert runs.open_step(parent, STEP) == step_run
    assert len(every_run()) == 2
    found = read(step_run)
    assert found.data.tags["mlflow.parentRunId"] == parent
    assert found.data.tags["perennial.fingerprint"] == "f" * 64
    assert found.data.tags["perennial.input.data.1"] == "b"
    assert found.data.tags["perennial.run"] == FACTS.run
    assert found.info.run_name == "adapted"


def test_two_makers_at_once_agree_on_one_run(monkeypatch: pytest.MonkeyPatch) -> None:
    first = runs.open_parent(FACTS)
    search, blind = runs._search, [True]

    def late(*arguments: Any) -> list[Any]:
        # The second maker looks before the first one's run is there.
        return [] if blind and blind.pop() else search(*arguments)

    monkeypatch.setattr(runs, "_search", late)
    assert runs.open_parent(FACTS) == first
    assert [run.info.run_id for run in every_run()] == [first]


def test_a_name_with_a_quote_is_found_again() -> None:
    facts = replace(FACTS, run="it's")
    assert runs.open_parent(facts) == runs.open_parent(facts)
    with pytest.raises(ConfigInvalid, match="both kinds of quotes"):
        runs.open_parent(replace(FACTS, run='it\'s "so"'))


def test_p23_options_are_logged_once_and_changes_become_tags(step_run: str) -> None:
    assert read(step_run).data.params == {"lr": "1e-05", "name": "x"}
    runs.end(step_run, "KILLED")
    changed = replace(STEP, options={"lr": 2e-05, "name": "x", "new": True})
    runs.open_step(runs.open_parent(FACTS), changed)
    found = read(step_run).data
    assert found.params == {"lr": "1e-05", "name": "x", "new": "true"}
    assert found.tags["attempt.2.lr"] == "2e-05"
    assert "attempt.2.name" not in found.tags


def test_many_options_and_long_values_are_batched_and_cut() -> None:
    options = {f"option{place}": place for place in range(150)} | {"text": "x" * 7000}
    run = runs.open_step(runs.open_parent(FACTS), replace(STEP, options=options))
    params = read(run).data.params
    assert len(params) == 151
    assert len(params["text"]) == runs.PARAM_LENGTH
    assert "[cut: 7000 characters, sha256 " in params["text"]
    runs.open_step(runs.open_parent(FACTS), replace(STEP, options=options))
    assert not [tag for tag in read(run).data.tags if tag.startswith("attempt.")]
    runs.set_tags(run, {"long": "y" * 9000})
    assert len(read(run).data.tags["long"]) == runs.TAG_LENGTH


def test_flatten_joins_nested_keys() -> None:
    assert runs.flatten({"a": {"b": [1, 2]}, "c": None}) == {"a.b": "[1, 2]", "c": "null"}


def test_curves_are_sent_in_batches_and_only_once(step_run: str) -> None:
    points = [Point("loss", 1.0 / (step + 1), step) for step in range(1500)]
    runs.log_metrics(step_run, points)
    runs.log_metrics(step_run, [*points, Point("loss", 0.5, 1500)], skip_logged=True)
    history = call("read", lambda client: client.get_metric_history(step_run, "loss"))
    assert sorted(point.step for point in history) == list(range(1501))


def test_sending_the_same_points_twice_keeps_one_of_each(step_run: str) -> None:
    points = [Point("loss", 2.0, 3)]
    runs.log_metrics(step_run, points)
    runs.log_metrics(step_run, points)
    assert len(call("read", lambda client: client.get_metric_history(step_run, "loss"))) == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None, "1.0"])
def test_figures_must_be_finite(step_run: str, value: Any) -> None:
    with pytest.raises(PerennialError, match="finite"):
        runs.log_metrics(step_run, [Point("loss", value, 7)])
    assert read(step_run).data.metrics == {}


def test_metric_names_are_checked_here(step_run: str) -> None:
    with pytest.raises(PerennialError, match="pass_at_1"):
        runs.log_metrics(step_run, [Point("pass@1", 0.5)])


def test_outputs_are_lineage_tags(step_run: str) -> None:
    runs.log_outputs(
        step_run, outputs={"model": "d1"}, cached=False, reasons=["options.lr changed"], device_seconds=12.5
    )
    runs.log_figures(step_run, {"final_loss": 4.24}, figure="loss 4.24")
    found = read(step_run).data
    assert found.tags["perennial.output.model"] == "d1"
    assert found.tags["perennial.cached"] == "false"
    assert found.tags["perennial.reason"] == "options.lr changed"
    assert found.tags["perennial.figure"] == "loss 4.24"
    assert found.metrics == {"device_seconds": 12.5, "final_loss": 4.24}


def test_documents_are_logged_rows_are_not(step_run: str, tmp_path: Path) -> None:
    page = tmp_path / "report.json"
    page.write_text("{}")
    runs.log_file(step_run, page, "release")
    listed = call("read", lambda client: client.list_artifacts(step_run, "release"))
    assert [each.path for each in listed] == ["release/report.json"]
    rows = tmp_path / "rows.jsonl"
    rows.write_text("{}")
    with pytest.raises(PerennialError, match="only documents"):
        runs.log_file(step_run, rows)


def test_files_of_a_run_that_the_laptops_server_made_go_where_it_looks(tmp_path: Path) -> None:
    call("make", lambda client: client.create_experiment("pydocs", artifact_location="mlflow-artifacts:/1"))
    run = runs.open_parent(FACTS)
    page = tmp_path / "report.json"
    page.write_text("{}")
    runs.log_file(run, page, "release")
    assert (
        tmp_path / "mlartifacts" / "1" / run / "artifacts" / "release" / "report.json"
    ).read_text() == "{}"


def test_a_document_too_big_is_refused(
    step_run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "FILE_BYTES", 3)
    page = tmp_path / "report.html"
    page.write_text("four")
    with pytest.raises(PerennialError, match="4 bytes"):
        runs.log_file(step_run, page)


def test_a_run_ends_in_one_of_three_ways(step_run: str) -> None:
    runs.end(step_run, "FINISHED")
    assert read(step_run).info.status == "FINISHED"
    with pytest.raises(PerennialError, match="not as 'done'"):
        runs.end(step_run, "done")


def test_a_deleted_experiment_is_named() -> None:
    run = runs.open_parent(FACTS)
    call("delete", lambda client: client.delete_experiment(client.get_run(run).info.experiment_id))
    with pytest.raises(ConfigInvalid, match="was deleted"):
        runs.open_parent(FACTS)
