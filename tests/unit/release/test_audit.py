"""`perennial audit` accounts for every version, on a real MLflow and store: each kind of damage is found."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from tasks import cli
from tasks.release import signature
from tasks.release.audit import Finding, audit, models
from tasks.release.delete import delete
from tasks.release.promote import promote, reject, rollback
from tasks.tracking import ledger, registry
from tasks.tracking.server import call


@pytest.fixture
def run(make_run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    """A model with a champion and a candidate, by two runs; the first run."""
    first = make_run()
    first.register()
    promote(first.store, "pydocs", "1", "ada", "good")
    make_run("run-2", weights="b").register()
    monkeypatch.setenv("PERENNIAL_STORE", first.store.uri)
    return first


def write(run: Any, key: str, data: bytes) -> None:
    path = run.store.local_path(key)
    path.unlink()
    path.write_bytes(data)


def only(run: Any) -> Finding:
    """The one thing that is wrong."""
    (found,) = audit(run.store, "pydocs").findings
    assert found.remedy
    return found


def test_a_sound_registry_is_accounted_for(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    found = audit(run.store, "pydocs")
    assert found.findings == []
    assert [(each.version, each.semantic, each.sound) for each in found.versions] == [
        ("1", "1.0.0", True),
        ("2", "1.1.0", True),
    ]
    assert cli.main(["audit"]) == 0
    assert "pydocs: 2 of 2 versions are accounted for, 3 lines in the ledger" in capsys.readouterr().out


def test_weights_that_are_gone(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run.store.delete(f"artefacts/{run.candidate}/files/weights")
    found = only(run)
    assert (found.version, found.part, found.problem) == ("1", "weights", "object missing: weights")
    assert "perennial step --plan" in found.remedy
    assert cli.main(["audit", "pydocs"]) == 1
    told = capsys.readouterr().out
    assert "1 of 2 versions are accounted for" in told
    assert "version 1: weights model: object missing: weights" in told
    assert "what to do: the step that made it makes it again: `perennial step" in told


def test_weights_that_were_altered(run: Any) -> None:
    write(run, f"artefacts/{run.candidate}/files/weights", b"am!")
    found = only(run)
    assert (found.version, found.part) == ("1", "weights")
    assert "object altered: weights" in found.problem


def test_a_report_that_is_gone(run: Any) -> None:
    report = run.records["report"]["outputs"]["report"]["digest"]
    run.store.delete(f"artefacts/{report}/manifest.json")
    found = audit(run.store, "pydocs").findings
    assert {(each.version, each.part, each.problem) for each in found} == {
        (version, "report", "object missing: manifest.json")
        for version in "12"  # the two have one report
    }


def test_a_version_that_never_had_a_report(run: Any) -> None:
    version = registry.version("pydocs", "2")
    call("untag", lambda client: client.delete_model_version_tag("pydocs", "2", "perennial.report"))
    signature.sign(run.store, registry.version("pydocs", "2"), "mallory")
    found = only(run)
    assert (found.version, found.part, found.problem) == ("2", "report", "it has no report: no evidence")
    assert version.tags["perennial.report"]


def test_a_card_that_is_gone_and_written_again(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    card = registry.version("pydocs", "2").tags["perennial.card"]
    run.store.delete(f"cards/{card}.md")
    found = only(run)
    assert (found.version, found.part) == ("2", "card")
    assert found.problem.endswith("is gone")
    assert "perennial card pydocs 2 --write" in found.remedy
    assert cli.main(["card", "pydocs", "2"]) == 3
    assert cli.main(["card", "pydocs", "2", "--write", "--by", "ada"]) == 0
    assert "# pydocs 1.1.0" in capsys.readouterr().out
    assert audit(run.store, "pydocs").findings == []
    assert cli.main(["card", "pydocs", "2", "--write", "--by", "ada"]) == 2  # it has one


def test_a_card_that_was_altered(run: Any) -> None:
    card = registry.version("pydocs", "2").tags["perennial.card"]
    write(run, f"cards/{card}.md", b"# The best model there is")
    found = only(run)
    assert (found.version, found.part) == ("2", "card")
    assert found.problem.endswith("was altered")


def test_a_version_from_before_cards_gets_one(run: Any) -> None:
    call("untag", lambda client: client.delete_model_version_tag("pydocs", "2", "perennial.card"))
    signature.sign(run.store, registry.version("pydocs", "2"), "test")
    assert (only(run).part, only(run).version) == ("card", "2")
    assert cli.main(["card", "pydocs", "2", "--write", "--by", "ada"]) == 0
    assert audit(run.store, "pydocs").findings == []
    assert signature.verify(run.store, registry.version("pydocs", "2")).statement.by == "ada"


def test_a_parent_that_is_broken(run: Any) -> None:
    base = run.records["base"]["outputs"]["model"]["digest"]
    run.store.delete(f"artefacts/{base}/files/weights")
    found = audit(run.store, "pydocs").findings
    assert {(each.version, each.part, each.name, each.problem) for each in found} == {
        (version, "parents", "base", "object missing: weights") for version in "12"
    }
    assert "--step base` makes it again" in found[0].remedy


def _without(tag: str, client: MlflowClient) -> None:
    client.delete_model_version_tag("pydocs", "1", tag)


def test_a_version_from_before_it_named_its_parents(run: Any) -> None:
    for name in ("parents", "base", "code", "gates", "image", "stated"):
        tag = f"perennial.{name}"
        call("untag", partial(_without, tag))
    signature.sign(run.store, registry.version("pydocs", "1"), "test")
    assert audit(run.store, "pydocs").findings == []
    run.store.delete(f"artefacts/{run.records['tuned']['outputs']['model']['digest']}/files/weights")
    assert (only(run).version, only(run).part, only(run).name) == ("1", "parents", "tuned")


def test_data_and_plan_that_are_gone(run: Any) -> None:
    news = run.plan["data"]["news"]["digest"]
    run.store.delete(f"artefacts/{news}/files/rows.jsonl")
    run.store.delete("runs/run-2/plan.json")
    found = {(each.version, each.part, each.name) for each in audit(run.store, "pydocs").findings}
    assert found == {("1", "data", "news"), ("2", "data", "news"), ("2", "recipe", "plan")}


def test_a_plan_of_another_recipe(run: Any) -> None:
    write(run, "runs/run-1/plan.json", json.dumps({**run.plan, "recipe_digest": "0" * 64}).encode())
    found = {(each.version, each.part) for each in audit(run.store, "pydocs").findings}
    assert found == {("1", "recipe"), ("1", "signature")}


def test_a_version_that_was_relabelled(run: Any) -> None:
    registry.tag_version("pydocs", "1", {"perennial.license": "MIT"})
    found = only(run)
    assert (found.version, found.part) == ("1", "signature")
    assert "tag perennial.license was Apache-2.0 and is MIT" in found.problem


def test_an_edited_ledger(run: Any) -> None:
    key = "ledger/pydocs/000002.json"
    line = json.loads(run.store.read(key))
    write(run, key, json.dumps({**line, "reason": "bribed"}).encode())
    found = only(run)
    assert (found.version, found.part) == ("", "ledger")
    assert "line 2 was altered" in found.problem
    assert "from a backup" in found.remedy


def test_a_ledger_that_was_rewritten_whole(run: Any) -> None:
    """Every line with a right digest of its own and of the one before it: only MLflow knows better."""
    lines = ledger.history(run.store, "pydocs")
    previous = ledger.FIRST
    for line in lines:
        fields = line.model_dump(exclude={"hash"}) | {"previous_hash": previous}
        fields["actor"] = "mallory"
        previous = ledger._hash(fields)
        write(run, f"ledger/pydocs/{line.seq:06d}.json", ledger._canonical({**fields, "hash": previous}))
    assert len(ledger.history(run.store, "pydocs")) == len(lines)
    found = only(run)
    assert found.part == "ledger"
    assert "cut off or rewritten" in found.problem


def test_a_ledger_without_its_last_line(run: Any) -> None:
    run.store.delete("ledger/pydocs/000003.json")
    assert "cut off or rewritten" in only(run).problem


def test_aliases_that_were_moved_by_hand_and_repaired(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    registry.set_alias("pydocs", "champion", "2")
    found = only(run)
    assert (found.part, found.problem) == ("aliases", "MLflow is behind the ledger: champion: 2 -> 1")
    assert cli.main(["audit", "pydocs", "--repair"]) == 0
    assert "pydocs: repaired: champion: 2 -> 1" in capsys.readouterr().out
    assert registry.aliases("pydocs")["champion"] == "1"


def test_a_version_deleted_behind_the_ledgers_back(run: Any) -> None:
    call("delete", lambda client: client.delete_model_version("pydocs", "1"))
    found = audit(run.store, "pydocs").findings
    assert [(each.version, each.part) for each in found] == [("1", "ledger")]
    assert "deleted in MLflow behind the ledger's back" in found[0].problem
    assert "runs/run-1/plan.json" in found[0].remedy


def test_a_version_deleted_by_the_command_is_accounted_for(run: Any) -> None:
    promote(run.store, "pydocs", "2", "ada", "better")
    rollback(run.store, "pydocs", "ada", "worse")
    registered = registry.version("pydocs", "1")
    tags = {**registered.tags, "perennial.report": "0" * 64, "perennial.semantic_version": "1.0.1"}
    registry.register("pydocs", registered.source, registered.run_id, tags)
    draft = ledger.Draft(action="register", actor="test", to_version="3", to_digest=registered.digest)
    ledger.append(run.store, "pydocs", lambda lines: draft)
    reject(run.store, "pydocs", "3", "ada", "a mistake")
    delete(run.store, "pydocs", "3", "ada", "a mistake")
    assert audit(run.store, "pydocs").findings == []


def test_a_version_registered_by_other_means(run: Any) -> None:
    call("add", lambda client: client.create_model_version("pydocs", "s3://elsewhere/model"))
    found = {(each.version, each.part) for each in audit(run.store, "pydocs").findings}
    assert found == {("3", "weights"), ("3", "ledger")}


def test_two_models_under_one_number(run: Any) -> None:
    registry.tag_version("pydocs", "2", {"perennial.semantic_version": "1.0.0"})
    signature.sign(run.store, registry.version("pydocs", "2"), "mallory")
    found = only(run)
    assert (found.version, found.part) == ("2", "number")


def test_a_ledger_whose_model_mlflow_does_not_know_is_looked_at_too(run: Any) -> None:
    draft = ledger.Draft(action="register", actor="test", to_version="1", to_digest="d", run="run-9")
    ledger.append(run.store, "lost", lambda lines: draft)
    assert models(run.store) == ["lost", "pydocs"]
    assert cli.main(["audit"]) == 1
    assert cli.main(["audit", "pydocs"]) == 0
    assert cli.main(["audit", "nothing"]) == 2


def test_machines_read_the_same(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run.store.delete(f"artefacts/{run.candidate}/files/weights")
    assert cli.main(["audit", "--json"]) == 1
    (found,) = json.loads(capsys.readouterr().out)
    assert set(found) == {"model", "versions", "lines", "findings"}
    assert set(found["versions"][0]) == {"version", "semantic", "aliases", "sound"}
    assert set(found["findings"][0]) == {"version", "part", "name", "problem", "remedy"}


def test_the_mlflow_run_that_was_deleted(run: Any, tmp_path: Path) -> None:
    run_id = registry.version("pydocs", "2").run_id
    call("delete", lambda client: client.delete_run(run_id))
    found = only(run)
    assert (found.version, found.part, found.name) == ("2", "run", "mlflow")
