"""Remedies of docs/operations.md that need real steps: damage, the audit's own words, all is sound again."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tasks.tracking import registry
from tasks.tracking.server import call
from tests.integration.test_main_job import RECIPE, Home

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A run of the tiny recipe whose candidate is the champion."""
    home = Home(tmp_path_factory.mktemp("runbook"))
    home.run("one")
    home.perennial("promote", "--plan", plan_of(home, "one"), "--by", "ada", "--reason", "a beginning")
    return home


@pytest.fixture(autouse=True)
def tracking(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home.path}/mlflow.db")


def plan_of(home: Home, run: str) -> str:
    return f"file://{home.path}/store/runs/{run}/plan.json"


def audit(home: Home, code: int) -> list[dict[str, str]]:
    """What the audit finds in the only model."""
    output = home.perennial("audit", "tiny", "--json", code=code)
    (found,) = json.JSONDecoder().raw_decode(output[output.index("[") :])[0]
    findings: list[dict[str, str]] = found["findings"]
    return findings


def watchdog(home: Home, code: int) -> str:
    return home.perennial("watchdog", "--free-gb", "0", code=code)


def files_of(home: Home, digest: str) -> Path:
    return home.path / "store" / "artefacts" / digest / "files"


def type_what_it_says(home: Home, remedy: str) -> str:
    """Run the one command of a remedy, as it is printed."""
    (command,) = re.findall(r"`perennial ([^`]+)`", remedy)
    return home.perennial(*command.split())


@pytest.mark.parametrize("damage", ["gone", "altered"])
@pytest.mark.parametrize("part", ["weights", "report", "parents"])
def test_what_is_damaged_is_made_again_by_the_command_that_the_audit_prints(
    home: Home, part: str, damage: str
) -> None:
    tags = registry.version("tiny", "1").tags
    digest = {
        "weights": tags["perennial.candidate"],
        "report": tags["perennial.report"],
        "parents": json.loads(tags["perennial.parents"])[0],
    }[part]
    name = "report.json" if part == "report" else "model.safetensors"
    file = files_of(home, digest) / name
    kept = file.read_bytes()
    file.unlink()
    if damage == "altered":
        file.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    (found,) = audit(home, 1)
    assert (found["part"], found["problem"].split(":")[0]) == (
        part,
        "object missing" if damage == "gone" else "object altered",
    )
    assert ("champion: tiny 1" in watchdog(home, 12)) if part == "weights" else watchdog(home, 0)
    type_what_it_says(home, found["remedy"])
    assert audit(home, 0) == []
    assert "nothing to report" in watchdog(home, 0)
    assert file.read_bytes() == kept


def test_data_that_is_gone_comes_back_with_the_next_plan(home: Home) -> None:
    digest = registry.version("tiny", "1").tags["perennial.data.news"]
    (rows,) = files_of(home, digest).glob("*.jsonl")
    rows.unlink()
    (found,) = audit(home, 1)
    assert (found["part"], found["name"]) == ("data", "news")
    home.perennial("plan", str(RECIPE))
    assert audit(home, 0) == []


def test_a_version_that_was_deleted_in_mlflow_is_registered_again(home: Home) -> None:
    call("delete", lambda client: client.delete_model_version("tiny", "1"))
    (found,) = audit(home, 1)
    assert (found["version"], found["part"]) == ("1", "ledger")
    assert "ledger: tiny: it is on record" in watchdog(home, 12)
    said = type_what_it_says(home, found["remedy"])
    assert "(version 2) waits for a decision" in said
    assert audit(home, 0) == []
    home.perennial(
        "promote", "--model", "tiny", "--version", "2", "--over", "1", "--by", "ada", "--reason", "it is back"
    )
    assert audit(home, 0) == []
    assert "nothing to report" in watchdog(home, 0)
