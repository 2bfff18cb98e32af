"""What is done with a model after its release, with the real steps."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tasks.tracking import registry
from tests.integration.test_main_job import RECIPE, Home

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A run of the tiny recipe whose candidate is the champion."""
    home = Home(tmp_path_factory.mktemp("operations"))
    home.run("one")
    plan = f"file://{home.path}/store/runs/one/plan.json"
    home.perennial("promote", "--plan", plan, "--by", "ada", "--reason", "a beginning")
    return home


def told_by(home: Home, *arguments: str, code: int = 0) -> dict[str, Any]:
    """The JSON object that a command prints, whatever else it says."""
    output = home.perennial(*arguments, code=code)
    found: dict[str, Any] = json.JSONDecoder().raw_decode(output[output.index("{") :])[0]
    return found


def test_the_summary_says_what_the_approval_needs(home: Home) -> None:
    text = home.perennial("summary", "--model", "tiny", "--version", "champion")
    assert "| ✓ passed | **learned-the-news** (news_heldout.bits_per_byte) |" in text
    assert "## Regressions" in text
    told = told_by(home, "summary", "--model", "tiny", "--version", "1", "--json")
    assert (told["model"], told["version"], told["run"], told["approvals"]) == ("tiny", "1", "one", 1)


def test_a_run_is_taken_up_again_and_only_what_has_to_runs(home: Home) -> None:
    output = home.run(
        "two", "--from-run", "one", "--from-step", "merged", "--set", "steps.merged.options.weight=0.2"
    )
    records = home.records("two")
    ran = {name for name, record in records.items() if not record["cached"]}
    assert ran == {"merged", "report"}
    before = home.records("one")
    assert records["aligned"]["outputs"] == before["aligned"]["outputs"]
    assert records["merged"]["outputs"] != before["merged"]["outputs"]
    assert "waits for a decision" in output
    refused = home.run(
        "three", "--from-run", "one", "--from-step", "merged", "--set", "steps.tuned.options.lr=1e-4", code=2
    )
    assert "start from 'tuned' instead" in refused


def test_a_version_is_evaluated_on_a_suite_without_training(home: Home) -> None:
    output = home.perennial(
        "evaluate", "tiny", "champion", "--recipe", str(RECIPE), "--run", "look",
        "--against", "2", "--set", "steps.report.options.limit=6",
    )  # fmt: skip
    assert "left out: report.logs: base.log (made by training)" in output
    assert "| news_heldout | bits per byte" in output
    assert set(home.records("look")) == {"report"}
    report = json.loads((home.path / "store" / "runs" / "look" / "report.json").read_text())
    assert report["models"]["model"]["digest"] != report["models"]["baseline"]["digest"]
    assert "<html" in home.perennial("report", "look")


def test_the_page_and_the_watchdog_see_the_champion(home: Home) -> None:
    page = told_by(home, "page", "tiny")
    assert (page["champion"], page["candidate"]) == ("1", "2")
    assert [each["semantic"] for each in page["versions"]] == ["1.0.1", "1.0.0"]
    assert all(each["bytes"] and each["device_hours"] for each in page["versions"])
    assert [each["model"] for each in told_by(home, "page")["models"]] == ["tiny"]
    assert "nothing to report" in home.perennial("watchdog", "--free-gb", "0")


def test_a_champion_whose_bytes_changed_is_found(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home.path}/mlflow.db")
    digest = registry.version("tiny", "champion").digest
    weights = next((home.path / "store" / "artefacts" / digest / "files").glob("*.safetensors"))
    kept = weights.read_bytes()
    weights.chmod(0o644)
    weights.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    told = told_by(home, "watchdog", "--free-gb", "0", "--json", code=12)
    assert [each["check"] for each in told["findings"]] == ["champion"]
    weights.write_bytes(kept)
    assert "nothing to report" in home.perennial("watchdog", "--free-gb", "0")
