"""Against a real MLflow server: what only a server checks, and what a user does with a registered version."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tasks.artefacts import Store, commit, open_store
from tasks.recipe.failures import DataInvalid
from tasks.release import promote, signature
from tasks.release.audit import ledger_problems
from tasks.release.cards import keep
from tasks.tracking import ledger, registry, runs
from tasks.tracking.runs import RunFacts, StepFacts
from tasks.tracking.server import call
from tasks.tracking.sources import source_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home = tmp_path_factory.mktemp("server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{home}/mlflow.db", "--workers", "1"]
    command += ["--artifacts-destination", str(home / "mlartifacts")]
    with (home / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=home, stdout=log, stderr=log, start_new_session=True)
    uri = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            try:
                if requests.get(f"{uri}/health", timeout=5).ok:
                    break
            except requests.RequestException:
                time.sleep(0.5)
        else:
            pytest.fail(f"the server did not start:\n{(home / 'log').read_text()[-3000:]}")
        yield uri
    finally:
        os.killpg(process.pid, 15)
        process.wait(30)


@pytest.fixture
def use(server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    monkeypatch.setenv("PERENNIAL_HOME", str(tmp_path / "home"))
    return server


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return open_store(f"file://{tmp_path_factory.mktemp('store')}")


@pytest.fixture(scope="module")
def model(store: Store, tmp_path_factory: pytest.TempPathFactory) -> str:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
        )
    ).save_pretrained(folder)
    return commit(store, folder, kind="model", parents=[], producer="test", meta={}).digest


def register(store: Store, name: str, digest: str, report: str) -> registry.VersionInfo:
    parent = runs.open_parent(RunFacts(name, "run-1", name, "file:///plan.json", "because"))
    tags = {"perennial.candidate": digest, "perennial.report": report, "perennial.semantic_version": "1.0.0"}
    tags["perennial.card"] = keep(store, f"# {name}")
    made = registry.register(name, source_of(store, digest), parent, tags)
    signature.sign(store, made, "test")
    line = ledger.Draft(action="register", actor="test", to_version=made.version, to_digest=digest)
    ledger.append(store, name, lambda lines: line)
    return made


def weights(folder: str | Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder).state_dict()["model.embed_tokens.weight"]


def test_the_server_takes_our_sources_and_no_file_uri(use: str, store: Store, model: str) -> None:
    from mlflow.exceptions import MlflowException

    made = register(store, "accepted", model, "r1")
    assert made.source.startswith("perennial-file:///")
    plain = made.source.replace("perennial-file://", "file://")
    with pytest.raises(MlflowException, match="Invalid model version source"):
        call("register", lambda client: client.create_model_version("accepted", plain, made.run_id))


def test_the_versions_weights_load_with_transformers(
    use: str, store: Store, model: str, tmp_path: Path
) -> None:
    import torch
    from mlflow.artifacts import download_artifacts

    register(store, "loaded", model, "r1")
    registry.set_alias("loaded", "champion", "1")
    in_place = registry.local_path(registry.resolve("models:/loaded@champion"), tmp_path / "cache")
    downloaded = download_artifacts("models:/loaded@champion", dst_path=str(tmp_path))
    assert Path(downloaded) != in_place
    assert torch.equal(weights(in_place), weights(downloaded))


def test_the_servers_own_download_serves_only_the_artefact(use: str, store: Store, model: str) -> None:
    register(store, "served", model, "r1")

    def get(path: str) -> requests.Response:
        query = {"name": "served", "version": "1", "path": path}
        return requests.get(f"{use}/model-versions/get-artifact", params=query, timeout=30)

    answer = get("config.json")
    assert answer.status_code == 200
    assert answer.json()["hidden_size"] == 16
    for path in ("manifest.json", "../manifest.json", "../../../../../../../etc/hostname"):
        assert get(path).status_code >= 400, path


def test_a_source_that_points_at_the_servers_disk_serves_nothing(use: str, store: Store, model: str) -> None:
    """What the server's ban of file:// is for must hold for our scheme: make one up, try to read."""
    register(store, "forged", model, "r1")
    call("forge", lambda client: client.create_model_version("forged", "perennial-file:///etc"))
    query = {"name": "forged", "version": "2", "path": "hostname"}
    answer = requests.get(f"{use}/model-versions/get-artifact", params=query, timeout=30)
    assert answer.status_code == 400
    assert "no artefact of a store" in answer.text


def test_aliases_and_ledger_move_together(use: str, store: Store, model: str) -> None:
    for report in ("r1", "r2"):
        register(store, "moved", model, report)
    promote.promote(store, "moved", "1", "ada", "first")
    promote.promote(store, "moved", "2", "ada", "better")
    assert registry.aliases("moved") == {"champion": "2", "previous": "1"}
    promote.rollback(store, "moved", "ben", "worse after all")
    assert registry.aliases("moved") == {"champion": "1", "previous": "2"}
    assert [line.action for line in ledger.history(store, "moved")][2:] == ["promote", "promote", "rollback"]
    assert ledger_problems(store, "moved") == []


def test_runs_nest_and_take_documents(use: str, tmp_path: Path) -> None:
    parent = runs.open_parent(RunFacts("nested", "run-1", "nested", "file:///plan.json", "because"))
    step = runs.open_step(parent, StepFacts("adapted", "pretrain", "continue", "f" * 64, {"lr": 1e-4}))
    runs.log_metrics(step, [runs.Point("loss", 5.0 - place / 100, place) for place in range(1200)])
    page = tmp_path / "report.json"
    page.write_text(json.dumps({"sets": []}))
    runs.log_file(step, page, "release")
    runs.end(step, "FINISHED")
    asked = {
        "experiment_ids": [experiment_of(use, "nested")],
        "filter": f"tags.`mlflow.parentRunId` = '{parent}'",
    }
    answer = requests.post(f"{use}/api/2.0/mlflow/runs/search", json=asked, timeout=30).json()
    (found,) = answer["runs"]
    assert found["info"]["run_id"] == step
    assert found["info"]["status"] == "FINISHED"
    assert {each["key"]: each["value"] for each in found["data"]["params"]} == {"lr": "0.0001"}
    listed = requests.get(
        f"{use}/api/2.0/mlflow/artifacts/list", params={"run_id": step, "path": "release"}, timeout=30
    ).json()
    assert [each["path"] for each in listed["files"]] == ["release/report.json"]


def experiment_of(uri: str, name: str) -> str:
    answer = requests.get(
        f"{uri}/api/2.0/mlflow/experiments/get-by-name", params={"experiment_name": name}, timeout=30
    )
    return str(answer.json()["experiment"]["experiment_id"])


def test_an_altered_artefact_is_not_promoted(use: str, tmp_path: Path) -> None:
    own = open_store(str(tmp_path / "store"))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    digest = commit(own, folder, kind="model", parents=[], producer="test", meta={}).digest
    register(own, "altered", digest, "r1")
    kept = own.local_path(f"artefacts/{digest}/files/config.json")
    assert kept is not None
    kept.chmod(0o644)
    kept.write_text("{!")
    with pytest.raises(DataInvalid, match="object altered"):
        promote.promote(own, "altered", "1", "ada", "first")
    assert registry.aliases("altered") == {"candidate": "1"}
    assert [line.action for line in ledger.history(own, "altered")] == ["register"]
