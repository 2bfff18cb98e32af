"""Whole runs of a DAG under Airflow's own task runner, with a stand-in for the steps' work."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.airflow_runs import Runs, airflow_worker, states
from tests.local_servers import web_server

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[str]]:
    command = f"{sys.executable} {Path(__file__).with_name('fake_perennial.py')}"
    with airflow_worker(tmp_path_factory.mktemp("airflow"), PERENNIAL_COMMAND=command) as process:
        yield process


@pytest.fixture
def runs(tmp_path: Path, worker: subprocess.Popen[str]) -> Runs:
    return Runs(worker, tmp_path)


def test_p15_a_run_goes_through_the_graph_and_promotes_nothing_without_an_answer(runs: Runs) -> None:
    run = runs.run({}, {"merged__weight": 0.3, "refresh": "report", "reason": "a try"})
    assert (run["state"], run["date"]) == ("success", None)
    assert states(run)["report"] == "success"
    assert states(run)["promote"] == "skipped"
    calls = runs.calls()
    plan = calls[0]
    assert (plan["command"], plan["freeze"]) == ("plan", True)
    assert plan["set"] == ["steps.merged.options.weight=0.3"]
    assert plan["refresh"] == ["report"]
    what = [call["what"] for call in calls]
    for before, after in (
        ("blank", "base"),
        ("base", "adapted"),
        ("tuned", "aligned"),
        ("report", "register"),
    ):
        assert what.index(before) < what.index(after)
    uri = f"file://{runs.store}/runs/{plan['run']}/plan.json"
    assert {call["plan"] for call in calls[1:]} == {uri}
    assert Path(uri.removeprefix("file://")).exists()
    # The approval was marked as done by hand, which is not a yes.
    assert (what[-1], calls[-1]["by"]) == ("reject", "nobody")


def test_a_killed_step_is_tried_again_and_goes_on(runs: Runs) -> None:
    run = runs.run({"base": [-9, 5]})
    assert run["state"] == "success"
    assert run["tasks"]["base"] == {"state": "success", "tries": 3}
    assert [call["what"] for call in runs.calls()].count("base") == 3


@pytest.mark.parametrize(("what", "code"), [("checked", 3), ("base", 7), ("register", 8), ("plan", 2)])
def test_what_a_retry_cannot_mend_fails_at_once(runs: Runs, what: str, code: int) -> None:
    run = runs.run({what: [code]})
    assert run["state"] == "failed"
    assert run["tasks"][what] == {"state": "failed", "tries": 1}
    assert states(run)["promote"] == "upstream_failed"


def test_p16_a_run_with_nothing_to_do_ends_green_as_no_change(runs: Runs) -> None:
    run = runs.run({"unchanged": [10]}, marked="")
    assert run["state"] == "success"
    assert states(run).pop("plan") == "success"
    assert {state for name, state in states(run).items() if name != "plan"} == {"skipped"}
    assert [call["what"] for call in runs.calls()] == ["plan", "unchanged"]


def test_a_candidate_that_is_the_champion_already_asks_nobody(runs: Runs) -> None:
    run = runs.run({"register": [10]}, marked="")
    assert run["state"] == "success"
    assert states(run)["register"] == "success"
    assert {states(run)["approve"], states(run)["promote"]} == {"skipped"}


def test_a_typing_error_in_the_form_stops_before_any_command(runs: Runs) -> None:
    run = runs.run({}, {"merged__wieght": 0.3})
    assert run["tasks"]["plan"] == {"state": "failed", "tries": 1}
    assert runs.calls() == []


def test_without_a_person_the_gates_alone_promote(runs: Runs) -> None:
    run = runs.run({}, {"reason": "weekly"}, marked="", recipe="policy")
    assert "approve" not in run["tasks"]
    assert states(run)["promote"] == "success"
    last = runs.calls()[-1]
    assert (last["what"], last["by"], last["reason"]) == ("promote", "policy", "weekly")


def test_a_run_is_taken_up_again_from_the_form(runs: Runs) -> None:
    runs.run({}, {"from_run": "manual__1", "from_step": "merged", "merged__weight": 0.3})
    plan = runs.calls()[0]
    assert (plan["from_run"], plan["from_step"]) == ("tiny-manual__1", "merged")
    assert plan["set"] == ["steps.merged.options.weight=0.3"]


def test_any_version_is_evaluated_on_a_suite(runs: Runs) -> None:
    conf = {"model": "tiny", "version": "2", "recipe": "tiny", "suite": "report", "against": "previous"}
    run = runs.run({}, conf | {"overrides": "steps.report.options.limit: 4"}, dag="evaluate")
    assert run["state"] == "success"
    (call,) = runs.calls()
    assert (call["command"], call["target"], call["more"]) == ("evaluate", "tiny", ["2"])
    assert Path(call["recipe"]).name == "tiny.yaml"
    assert (call["suite"], call["against"]) == ("report", "previous")
    assert call["set"] == ["steps.report.options.limit=4"]
    assert call["run"].startswith("evaluate-")


def test_two_versions_are_compared(runs: Runs) -> None:
    run = runs.run({}, {"model": "tiny", "first": "1", "second": "candidate"}, dag="compare")
    assert run["state"] == "success"
    (call,) = runs.calls()
    assert (call["command"], call["target"], call["more"]) == ("compare", "tiny", ["1", "candidate"])


def test_garbage_is_listed_and_removed_only_where_that_is_asked_for(runs: Runs) -> None:
    run = runs.run({}, {"older_than_days": 7}, dag="retention")
    assert states(run) == {"list": "success", "remove": "skipped"}
    (call,) = runs.calls()
    assert (call["command"], call["older_than"], call["apply"]) == ("gc", "7", False)
    run = runs.run({}, {"older_than_days": 7, "runs_older_than_days": 90, "remove": True}, dag="retention")
    assert states(run) == {"list": "success", "remove": "success"}
    assert [(call["apply"], call["runs_older_than"]) for call in runs.calls()] == [
        (False, ""),
        (False, "90"),
        (True, "90"),
    ]


def test_nothing_is_removed_where_the_list_failed(runs: Runs) -> None:
    run = runs.run({"gc": [3]}, {"remove": True}, dag="retention")
    assert states(run) == {"list": "failed", "remove": "upstream_failed"}


def test_the_watchdog_is_green_where_there_is_nothing_and_fails_with_what_it_found(runs: Runs) -> None:
    (runs.store / "watchdog.json").write_text('{"findings": []}')
    assert runs.run({}, {"stale_hours": 2}, dag="watchdog")["state"] == "success"
    assert runs.calls()[-1]["stale_hours"] == "2"
    finding = {"check": "disk", "subject": "/", "words": "full", "remedy": "perennial gc"}
    (runs.store / "watchdog.json").write_text(json.dumps({"findings": [finding]}))
    with web_server() as (url, posts):
        (runs.store / "hook").write_text(url)
        run = runs.run({}, {}, dag="watchdog")
    assert run["tasks"]["look"] == {"state": "failed", "tries": 1}
    ((_, body),) = posts
    told = json.loads(body)
    assert told["event"] == "watchdog"
    assert "disk: /: full; perennial gc" in told["lines"]


def test_failures_and_promotions_are_told(runs: Runs) -> None:
    with web_server() as (url, posts):
        (runs.store / "hook").write_text(url)
        runs.run({"base": [7]})
        runs.run({}, {"reason": "weekly"}, marked="", recipe="policy")
    told = [json.loads(body) for _, body in posts]
    assert [each["event"] for each in told] == ["failure.diverged", "promotion"]
    assert told[0]["headline"] == "train__tiny: task base failed"
    assert "reason of the run: weekly" in told[1]["lines"]


def test_an_approval_that_promotes_nothing_is_no_promotion(runs: Runs) -> None:
    with web_server() as (url, posts):
        (runs.store / "hook").write_text(url)
        run = runs.run({"promote": [11]}, {}, marked="", recipe="policy")
    assert run["tasks"]["promote"] == {"state": "failed", "tries": 1}
    (told,) = (json.loads(body) for _, body in posts)
    assert told["event"] == "failure"
    assert any("approved by one person, and not promoted" in line for line in told["lines"])


def test_two_approvals_marked_as_done_by_hand_promote_nothing(runs: Runs) -> None:
    run = runs.run({}, marked="approve.*", recipe="two")
    assert states(run)["promote"] == "skipped"
    assert runs.calls()[-1]["what"] == "reject"


def test_a_version_is_smoke_tested_before_it_is_promoted_and_after(runs: Runs) -> None:
    run = runs.run(recipe="smoked-policy")
    assert run["state"] == "success"
    calls = runs.calls()[-5:]
    assert [call["what"] for call in calls] == ["register", "smoke", "smoke", "promote", "smoke"]
    given = [(calls[at]["record"], calls[at]["if_missing"], calls[at]["after"]) for at in (1, 2, 4)]
    assert given == [(True, True, False), (False, False, False), (False, False, True)]
    assert len({call["plan"] for call in calls}) == 1


def test_a_version_that_fails_after_its_promotion_fails_the_run(runs: Runs) -> None:
    with web_server() as (url, posts):
        (runs.store / "hook").write_text(url)
        run = runs.run({"smoke": [0, 0, 3]}, recipe="smoked-policy")
    assert (run["state"], states(run)["promote"]) == ("failed", "success")
    assert run["tasks"]["smoke_after"] == {"state": "failed", "tries": 1}
    told = [json.loads(body) for _, body in posts]
    assert [each["event"] for each in told] == ["promotion", "failure.data_invalid"]
    assert "perennial rollback tiny" in told[1]["lines"][-1]


def test_a_version_that_fails_its_smoke_test_is_not_promoted(runs: Runs) -> None:
    run = runs.run({"smoke": [0, 3]}, recipe="smoked-policy")
    assert run["state"] == "failed"
    assert states(run)["smoke"] == "failed"
    assert run["tasks"]["smoke"]["tries"] == 1  # a retry cannot mend it
    assert {states(run)[name] for name in ("promote", "smoke_after")} == {"upstream_failed"}
    assert "promote" not in [call["what"] for call in runs.calls()]


def test_what_was_not_approved_is_not_tested_and_the_rejection_is_recorded(runs: Runs) -> None:
    run = runs.run(recipe="smoked")  # the approval is marked as done by hand, which is no yes
    assert run["state"] == "success"
    assert (states(run)["smoke_record"], states(run)["smoke"]) == ("success", "skipped")
    assert states(run)["smoke_after"] == "skipped"
    assert [call["what"] for call in runs.calls()[-3:]] == ["register", "smoke", "reject"]


def test_nothing_new_asks_for_no_smoke_test(runs: Runs) -> None:
    run = runs.run({"register": [10]}, recipe="smoked-policy")
    assert run["state"] == "success"
    assert {states(run)[name] for name in ("smoke_record", "smoke", "promote", "smoke_after")} == {"skipped"}
