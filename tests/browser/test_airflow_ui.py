"""A user's way through Airflow in a real browser: fill in the form, decide, roll back."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import Page, expect

from tasks.local.demo import READING_SECONDS

if TYPE_CHECKING:
    from tests.browser.conftest import Desk

pytestmark = [pytest.mark.slow, pytest.mark.browser]


def eventually(look: Callable[[], Any], what: str, seconds: float = 240.0) -> Any:
    """What `look` gives once it gives something."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found = look()
        if found:
            return found
        time.sleep(0.5)
    raise AssertionError(f"{what}: not within {seconds:.0f} s")


def open_form(desk: Desk, page: Page, dag: str) -> None:
    eventually(lambda: desk.api.dag(dag), f"Airflow lists {dag}")
    desk.api.set_paused(dag, False)
    page.goto(f"{desk.places.airflow}/dags/{dag}")
    page.get_by_test_id("trigger-dag-button").click()
    page.get_by_test_id("trigger-dag-submit").wait_for()


def submit(page: Page, desk: Desk, dag: str) -> str:
    """Press the form's button; the id of the run it starts."""
    before = set(desk.api.active_runs(dag))
    page.get_by_test_id("trigger-dag-submit").click()
    page.wait_for_url(f"**/dags/{dag}/runs/**")
    started: str = eventually(lambda: set(desk.api.active_runs(dag)) - before, "a run starts").pop()
    return started


def ended(desk: Desk, dag: str, run: str) -> str:
    def look() -> str:
        state = str(desk.api.run(dag, run)["state"])
        return state if state in ("success", "failed") else ""

    return str(eventually(look, f"run {run} ends"))


def awaits(desk: Desk, dag: str, run: str) -> None:
    def look() -> bool:
        return bool(desk.api.tasks(dag, run).get("approve", {}).get("state") == "awaiting_input")

    eventually(look, "the approval asks")


def decide(desk: Desk, page: Page, dag: str, run: str, option: str, reason: str) -> None:
    awaits(desk, dag, run)
    page.goto(f"{desk.places.airflow}/dags/{dag}/runs/{run}/tasks/approve/required_actions")
    page.wait_for_timeout(1000 * READING_SECONDS)
    page.locator("#element_reason").fill(reason)
    page.get_by_test_id(f"hitl-option-{option}").click()


def test_the_form_starts_a_run_and_an_approval_promotes(desk: Desk, page: Page) -> None:
    open_form(desk, page, "train__tiny")
    page.locator("#element_reason").fill("new documentation")
    page.get_by_role("button", name="Options", exact=True).last.click()
    page.locator("[name=element_merged__weight]").fill("0.3")
    page.get_by_role("button", name="More", exact=True).click()
    page.locator("#element_refresh").fill("report")
    page.locator("#element_overrides").fill("steps.adapted.options.batch_size: 4")
    run = submit(page, desk, "train__tiny")
    decide(desk, page, "train__tiny", run, "Approve", "better on the news")
    assert ended(desk, "train__tiny", run) == "success"
    plan = desk.calls("plan")[-1]
    assert plan["set"] == ["steps.merged.options.weight=0.3", "steps.adapted.options.batch_size=4"]
    assert plan["refresh"] == ["report"]
    promoted = desk.calls("promote")[-1]
    assert (promoted["by"], promoted["reason"]) == ("admin", "better on the news")
    assert promoted["plan"].endswith(f"/runs/{plan['run']}/plan.json")


def test_the_approval_shows_the_summary_and_a_rejection_promotes_nothing(desk: Desk, page: Page) -> None:
    open_form(desk, page, "train__tiny")
    run = submit(page, desk, "train__tiny")
    awaits(desk, "train__tiny", run)
    before = len(desk.calls("promote"))
    page.goto(f"{desk.places.airflow}/dags/train__tiny/runs/{run}/tasks/approve/required_actions")
    expect(page.get_by_role("heading", name="Summary")).to_be_visible()
    expect(page.get_by_role("cell", name="news")).to_be_visible()
    decide(desk, page, "train__tiny", run, "Reject", "worse on old text")
    assert ended(desk, "train__tiny", run) == "success"
    assert desk.calls("reject")[-1]["reason"] == "worse on old text"
    assert len(desk.calls("promote")) == before
    assert desk.api.tasks("train__tiny", run)["promote"]["state"] == "skipped"


def test_the_form_holds_an_option_to_its_range(desk: Desk, page: Page) -> None:
    open_form(desk, page, "train__tiny")
    page.get_by_role("button", name="Options", exact=True).last.click()
    field = page.locator("[name=element_merged__weight]")
    field.fill("7")
    field.press("Tab")
    expect(field).to_have_value("1")


def test_rollback(desk: Desk, page: Page) -> None:
    open_form(desk, page, "rollback")
    expect(page.get_by_test_id("trigger-dag-submit")).to_be_disabled()  # model and reason are required
    page.locator("#element_model").fill("tiny")
    page.locator("#element_reason").fill("answers got worse")
    run = submit(page, desk, "rollback")
    assert ended(desk, "rollback", run) == "success"
    call = desk.calls("rollback")[-1]
    assert (call["target"], call["by"], call["reason"]) == ("tiny", "admin", "answers got worse")


def test_a_version_is_promoted_by_hand(desk: Desk, page: Page) -> None:
    open_form(desk, page, "promote")
    page.locator("#element_model").fill("tiny")
    run = submit(page, desk, "promote")
    decide(desk, page, "promote", run, "Approve", "asked for by the team")
    assert ended(desk, "promote", run) == "success"
    call = desk.calls("promote")[-1]
    assert (call["model"], call["version"], call["by"]) == ("tiny", "candidate", "admin")
