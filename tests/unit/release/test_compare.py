"""What two versions differ in, and the command that tells it."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks import cli
from tasks.artefacts import commit, load_manifest
from tasks.recipe.failures import ConfigInvalid
from tasks.release.compare import ASIDE, recorded
from tasks.release.verdict import MARKS
from tasks.release.whole import model_digest
from tasks.runner.imports import import_model
from tasks.runner.settings import Settings
from tasks.tracking import registry
from tests.unit.evaluate import test_versions as versions


@pytest.fixture(params=["models", "adapters"])
def two(request: Any, make_run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Two versions of other weights and another learning rate, each with a report that keeps items.

    Where they are adapters, the reports are about the whole models that were made with them.
    """
    for name, weights, models in (
        ("run-1", "a", {"model": versions.A}),
        ("run-2", "b", {"model": versions.B}),
    ):
        run = make_run(name, weights=weights)
        versions.MODELS[run.candidate] = versions.MODELS[models["model"]]
        folder = versions.report(tmp_path / name, {"model": run.candidate})
        (folder / "report.html").write_text("".join(MARKS))
        made = commit(run.store, folder, kind="report", parents=[], producer="test", meta={})
        run.records["report"]["outputs"]["report"]["digest"] = made.digest
        run.plan["release"]["gates"] = []
        if request.param == "adapters":
            whole = run.records["merged"]["outputs"]["model"]
            (tmp_path / f"adapter-{name}").mkdir()
            (tmp_path / f"adapter-{name}" / "weights").write_text(name)
            made = commit(
                *(run.store, tmp_path / f"adapter-{name}"),
                kind="adapter", parents=[], producer="test", meta={},
            )  # fmt: skip
            run.records["merged"]["outputs"] = {
                "adapter": {"digest": made.digest, "kind": "adapter", "meta": whole["meta"]},
                "model": whole,
            }
        run.plan["steps"] = [
            {
                "name": "tuned",
                "stage": "sft",
                "method": "completion",
                "options": {"lr": 1e-4 if name == "run-1" else 2e-4, "epochs": 1},
                "seed": 0,
                "resources": "cpu",
                "inputs": {"model": [{"ref": "base"}]},
            }
        ]
        run.register()
    monkeypatch.setenv("PERENNIAL_STORE", run.store.uri)
    return run


def test_figures_flips_and_lineage_side_by_side(two: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["compare", "pydocs", "1", "2"]) == 0
    text = capsys.readouterr().out
    assert "1 (1.0.0)" in text
    assert "better" in text
    assert "steps.tuned.options.lr" in text
    assert "epochs" not in text
    assert cli.main(["compare", "pydocs", "1", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"model", "a", "b", "figures", "left_out", "lineage"}
    figures = {f"{each['set']}.{each['measure']}": each for each in found["figures"]}
    news = figures["news.bits_per_byte"]
    assert news["difference"] == pytest.approx(news["b"]["value"] - news["a"]["value"])
    assert news["low"] <= news["difference"] <= news["high"] < 0
    assert news["verdict"] == "better"
    assert figures["quiz.negative_flips"]["count"] == 0
    assert figures["quiz.positive_flips"]["count"] > 0
    assert figures["quiz.positive_flips"]["a"] is None
    differ = {each["what"]: (each["a"], each["b"]) for each in found["lineage"]}
    assert differ["steps.tuned.options.lr"] == ("0.0001", "0.0002")
    assert set(differ) == {"model", "steps.tuned.options.lr"}


@pytest.mark.parametrize("two", ["models"], indirect=True)
def test_without_torch_what_one_report_holds_of_both_is_told(
    two: Any, make_run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """In the orchestrator's image: the candidate's own report has the champion of the day beside it."""
    a, b = ({"digest": story["digest"]} for story in (shown(capsys, "1"), shown(capsys, "2")))
    both = versions.report(tmp_path / "both", {"model": b["digest"], "champion": a["digest"]})
    alone = versions.report(tmp_path / "alone", {"model": a["digest"]})
    entries, left_out = recorded([both, alone], a["digest"], b["digest"])
    assert left_out == []
    assert entries == json.loads((both / "report.json").read_text())["sets"]
    monkeypatch.setattr("tasks.runner.registry.find_spec", lambda name: None)
    assert cli.main(["compare", "pydocs", "1", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["figures"] == []
    assert {each["why"] for each in found["left_out"]} == {ASIDE}


def shown(capsys: Any, version: str) -> Any:
    assert cli.main(["show", "pydocs", version, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_version_is_compared_with_itself(two: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["compare", "pydocs", "candidate", "2"]) == 0
    assert "the same data, recipe and code" in capsys.readouterr().out
    assert cli.main(["compare", "pydocs", "1", "9"]) == 2


@pytest.mark.parametrize("two", ["adapters"], indirect=True)
def test_an_adapter_stands_for_the_whole_model_where_one_is_read(two: Any, tmp_path: Path) -> None:
    """`perennial evaluate` names the version by models:/, as recipes do."""
    version = registry.version("pydocs", "2")
    assert load_manifest(two.store, version.digest).kind == "adapter"
    places = Settings(tmp_path / "home", two.store.uri, os.environ["MLFLOW_TRACKING_URI"])
    pinned = import_model("models:/pydocs/2", two.store, places)
    assert (pinned.digest, pinned.kind) == (two.candidate, "model")


@pytest.mark.parametrize("two", ["adapters"], indirect=True)
def test_an_adapter_whose_whole_model_is_nowhere_is_refused(two: Any) -> None:
    version = registry.version("pydocs", "2")
    tags = {name: tag for name, tag in version.tags.items() if name != "perennial.step.merged.model"}
    with pytest.raises(ConfigInvalid, match=r"`perennial export pydocs 2 --to huggingface --out DIR`"):
        model_digest(dataclasses.replace(version, tags=tags))
