"""Remedies of docs/operations.md: the alert is raised, what the runbook says is done, the alert is gone.

On a real MLflow and store, by the commands that the runbook names. What needs real steps is in
tests/integration/test_runbook.py.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from mlflow.cli import cli as mlflow_cli

from tasks import cli
from tasks.artefacts import Store
from tasks.recipe.failures import Failure, GatesFailed, PerennialError
from tasks.release import signature
from tasks.tracking import registry
from tasks.tracking.server import call

pytestmark = pytest.mark.slow

WHO = ("--by", "ada", "--reason", "the runbook says so")


class Desk:
    """Somebody at a terminal."""

    def __init__(self, store: Store, capsys: pytest.CaptureFixture[str]) -> None:
        self.store = store
        self.capsys = capsys

    def type(self, *words: str, code: int = 0) -> str:
        """What a command says; it must end with this code."""
        self.capsys.readouterr()
        ended = cli.main(words)
        said = self.capsys.readouterr()
        assert ended == code, said.out + said.err
        return said.out + said.err

    def watchdog(self, *more: str) -> list[tuple[str, str]]:
        """Check and words of everything that the watchdog finds."""
        self.capsys.readouterr()
        ended = cli.main(["watchdog", "--json", "--free-gb", "0", *more])
        found = json.loads(self.capsys.readouterr().out)["findings"]
        assert ended == (12 if found else 0)
        return [(each["check"], each["words"]) for each in found]

    def audit(self) -> list[tuple[str, str]]:
        """Version and part of everything that the audit finds."""
        self.capsys.readouterr()
        ended = cli.main(["audit", "--json"])
        (found,) = json.loads(self.capsys.readouterr().out)
        assert ended == bool(found["findings"])
        return [(each["version"], each["part"]) for each in found["findings"]]

    def path(self, key: str) -> Path:
        """A file of the store, made writable."""
        found = self.store.local_path(key)
        assert found is not None
        if found.is_file():
            found.chmod(0o644)
        return found


@pytest.fixture
def desk(
    store: Store,
    make_run: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Desk:
    """Version 1 was promoted, then 2."""
    monkeypatch.setenv("PERENNIAL_STORE", store.uri)
    at = Desk(store, capsys)
    for run, weights in (("run-1", "a"), ("run-2", "b")):
        made = make_run(run, weights=weights).register()
        at.type("promote", "--model", "pydocs", "--version", str(made.version), *WHO)
    assert at.watchdog() == []
    assert at.audit() == []
    return at


def champion() -> str | None:
    return registry.aliases("pydocs").get("champion")


def test_a_damaged_champion_is_rolled_back(desk: Desk) -> None:
    digest = registry.version("pydocs", "champion").digest
    desk.path(f"artefacts/{digest}/files/weights").write_text("something else")
    ((check, words),) = desk.watchdog()
    assert check == "champion"
    assert "is damaged" in words
    desk.type("rollback", "pydocs", *WHO)
    assert (champion(), desk.watchdog()) == ("1", [])
    assert desk.audit() == [("2", "weights")]


def test_a_relabelled_champion_gets_its_label_back(desk: Desk) -> None:
    report = registry.version("pydocs", "2").tags["perennial.report"]
    registry.tag_version("pydocs", "2", {"perennial.report": "0" * 64})
    ((check, words),) = desk.watchdog()
    assert (check, f"perennial.report was {report}" in words) == ("champion", True)
    assert desk.audit() == [("2", "report"), ("2", "signature")]
    call("tag", lambda client: client.set_model_version_tag("pydocs", "2", "perennial.report", report))
    assert (desk.watchdog(), desk.audit()) == ([], [])


def test_a_champion_without_a_trusted_signature_is_signed(desk: Desk) -> None:
    desk.store.delete("signatures/pydocs/2.json")
    assert [check for check, _ in desk.watchdog()] == ["champion"]
    assert desk.audit() == [("2", "signature")]
    desk.type("sign", "pydocs", "2", "--by", "ada")
    assert (desk.watchdog(), desk.audit()) == ([], [])


def test_an_edited_ledger_is_restored(desk: Desk) -> None:
    line = desk.path("ledger/pydocs/000002.json")
    backup = line.read_bytes()
    line.write_bytes(backup.replace(b"ada", b"eve"))
    ((check, words),) = desk.watchdog()
    assert (check, "line 2 was altered" in words) == ("ledger", True)
    assert desk.audit() == [("", "ledger")]
    desk.type("rollback", "pydocs", *WHO, code=Failure.DATA_INVALID)
    line.write_bytes(backup)
    assert (desk.watchdog(), desk.audit()) == ([], [])
    desk.type("rollback", "pydocs", *WHO)


def test_a_ledger_that_was_cut_off_is_restored(desk: Desk) -> None:
    backup = desk.store.read("ledger/pydocs/000004.json")
    desk.store.delete("ledger/pydocs/000004.json")
    assert desk.audit() == [("", "ledger")]
    desk.store.write("ledger/pydocs/000004.json", backup)
    assert desk.audit() == []


def test_aliases_that_were_moved_by_hand_are_moved_back(desk: Desk) -> None:
    registry.set_alias("pydocs", "champion", "1")
    assert ("ledger", True) in [(check, "champion: 1 -> 2" in words) for check, words in desk.watchdog()]
    assert desk.audit() == [("", "aliases")]
    desk.type("audit", "pydocs", "--repair")
    assert (champion(), desk.watchdog()) == ("2", [])


@pytest.mark.parametrize("decision", ["promote", "reject"])
def test_a_forgotten_candidate_is_decided_on(desk: Desk, make_run: Callable[..., Any], decision: str) -> None:
    make_run("run-3", weights="c").register()
    ((check, words),) = desk.watchdog("--approval-hours", "0")
    assert (check, "has waited for a decision for 0 hours" in words) == ("approval", True)
    desk.type(decision, "--model", "pydocs", "--version", "3", *WHO)
    assert desk.watchdog("--approval-hours", "0") == []


def test_what_nothing_needs_makes_room_on_a_full_disk(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    desk.store.write("artefacts/" + "e" * 64 + "/files/left", bytes(1_000_000))
    usage = shutil.disk_usage(tmp_path)

    def disk(_: Any) -> Any:
        """A disk of a megabyte and a bit that holds the store."""
        held = sum(stat.size for stat in desk.store.list(""))
        return usage._replace(free=1_500_000 - held)

    monkeypatch.setattr(shutil, "disk_usage", disk)
    full = ("--free-gb", "0.001")
    ((check, words),) = desk.watchdog(*full)
    assert (check, "GB left" in words) == ("disk", True)
    assert "would remove 1.0 MB" in desk.type("gc", "--older-than", "0")
    assert desk.watchdog(*full) != []  # it only lists
    desk.type("gc", "--older-than", "0", "--apply")
    assert (desk.watchdog(*full), desk.audit()) == ([], [])


def test_a_card_that_is_gone_is_written_again_and_the_promotion_goes_on(
    desk: Desk, make_run: Callable[..., Any]
) -> None:
    make_run("run-3", weights="c").register()
    desk.store.delete(f"cards/{registry.version('pydocs', '3').tags['perennial.card']}.md")
    promote = ("promote", "--model", "pydocs", "--version", "3", *WHO)
    assert "perennial card pydocs 3 --write" in desk.type(*promote, code=Failure.DATA_INVALID)
    assert desk.audit() == [("3", "card")]
    desk.type("card", "pydocs", "3", "--write", "--by", "ada")
    assert desk.audit() == []
    desk.type(*promote)
    assert champion() == "3"


def test_two_models_under_one_number_are_parted(desk: Desk, make_run: Callable[..., Any]) -> None:
    run = make_run("run-3", weights="c")
    run.register()
    registry.tag_version("pydocs", "3", {"perennial.semantic_version": "1.1.0"})
    signature.sign(desk.store, registry.version("pydocs", "3"), "mallory")
    assert desk.audit() == [("3", "number")]
    told = desk.type("promote", "--model", "pydocs", "--version", "3", *WHO, code=Failure.CONFIG_INVALID)
    assert "`perennial delete pydocs 3" in told
    desk.type("reject", "--model", "pydocs", "--version", "3", *WHO)
    desk.type("delete", "pydocs", "3", *WHO)
    assert desk.audit() == []
    assert registry.find_version("pydocs", "3") is None
    made = run.register()  # as `perennial register` does with a whole plan
    assert (made.version, made.semantic_version) == ("4", "1.2.0")
    desk.type("promote", "--model", "pydocs", "--version", "4", *WHO)
    assert (champion(), desk.audit()) == ("4", [])


def test_an_mlflow_run_that_was_deleted_is_restored(desk: Desk) -> None:
    run_id = registry.version("pydocs", "2").run_id
    call("delete", lambda client: client.delete_run(run_id))
    assert desk.audit() == [("2", "run")]
    done = CliRunner().invoke(mlflow_cli, ["runs", "restore", "--run-id", run_id])
    assert done.exit_code == 0, done.output
    assert desk.audit() == []


def test_an_experiment_that_was_deleted_is_restored(desk: Desk, make_run: Callable[..., Any]) -> None:
    run_id = registry.version("pydocs", "2").run_id
    experiment = call("read", lambda client: client.get_run(run_id)).info.experiment_id
    call("delete", lambda client: client.delete_experiment(experiment))
    with pytest.raises(PerennialError, match="deleted"):
        make_run("run-3", weights="c").register()
    done = CliRunner().invoke(mlflow_cli, ["experiments", "restore", "--experiment-id", experiment])
    assert done.exit_code == 0, done.output
    assert make_run("run-3", weights="c").register().version == "3"
    assert desk.audit() == []


@pytest.mark.parametrize(
    ("key", "part"), [("runs/run-2/plan.json", "recipe"), ("runs/run-2/steps/tuned.json", "run")]
)
def test_a_runs_folder_is_restored(desk: Desk, key: str, part: str) -> None:
    backup = desk.store.read(key)
    desk.store.delete(key)
    assert ("2", part) in desk.audit()
    desk.store.write(key, backup)
    assert desk.audit() == []


def copied(source: Path, target: Path) -> None:
    """As an operator's `.backup` and `.restore` do, with the database open."""
    with closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(target)) as new:
        old.backup(new)


def test_a_version_that_was_deleted_in_mlflow_comes_back_with_its_database(
    desk: Desk, tmp_path: Path
) -> None:
    database = Path(os.environ["MLFLOW_TRACKING_URI"].removeprefix("sqlite:///"))
    copied(database, tmp_path / "backup.db")
    call("delete", lambda client: client.delete_model_version("pydocs", "2"))
    assert ("2", "ledger") in desk.audit()
    assert "ledger" in [check for check, _ in desk.watchdog()]  # though no champion is left to look at
    copied(tmp_path / "backup.db", database)
    assert (desk.watchdog(), desk.audit()) == ([], [])


def test_a_version_that_mlflow_was_given_by_other_means_is_deleted_there(desk: Desk) -> None:
    call("add", lambda client: client.create_model_version("pydocs", "s3://elsewhere/model"))
    assert sorted(desk.audit()) == [("3", "ledger"), ("3", "weights")]
    call("delete", lambda client: client.delete_model_version("pydocs", "3"))
    assert desk.audit() == []


def test_a_release_that_the_gates_stopped_is_made_by_a_run_that_learned_more(
    desk: Desk, make_run: Callable[..., Any]
) -> None:
    with pytest.raises(GatesFailed, match="learned-the-news: FAILED"):
        make_run("run-3", weights="c", relative=-0.05).register()
    assert registry.find_version("pydocs", "3") is None
    made = make_run("run-4", weights="d", relative=-0.3).register()
    assert (made.outcome, made.version) == ("registered", "3")


def test_a_promotion_that_nobody_wants_any_more_is_rolled_back(desk: Desk) -> None:
    """The notice `promotion`: the way back is one command, and so is the way back from that."""
    assert "rolled back from version 2 to 1" in desk.type("rollback", "pydocs", *WHO)
    assert champion() == "1"
    desk.type("rollback", "pydocs", "--by", "ben", "--reason", "it was right after all")
    assert champion() == "2"
