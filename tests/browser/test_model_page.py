"""The page about a model inside Airflow, in a real browser: look, decide, and see it done."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import FrameLocator, Page, expect

from tasks.local.places import USER
from tests.browser.ui import (
    awaits,
    decide,
    ended,
    eventually,
    open_form,
    page_of,
    started_run,
    submit,
    unpaused,
)
from tests.page_facts import FACTS

if TYPE_CHECKING:
    from tests.browser.conftest import Desk

pytestmark = [pytest.mark.slow, pytest.mark.browser]


@pytest.fixture
def told(desk: Desk, page: Page) -> None:
    """What the stand-in of `perennial page` says of the model, and both DAGs unpaused."""
    desk.store.mkdir(exist_ok=True)
    facts = FACTS | {"model": "tiny", "models": [], "problems": []}
    listed = {"model": "tiny", "champion": "2", "candidate": "3", "previous": "1"}
    (desk.store / "page.json").write_text(json.dumps(facts | {"models": [listed]}))
    for dag in ("promote", "rollback"):
        unpaused(desk, dag)


def model_page(desk: Desk, page: Page) -> FrameLocator:
    """The page as Airflow shows it: from its menu, in a frame."""
    page.goto(f"{desk.places.airflow}/plugin/models")
    frame = page.frame_locator("iframe")
    frame.get_by_role("link", name="tiny").click()
    frame.get_by_role("heading", name="tiny").wait_for()
    return frame


def newest_run(desk: Desk, dag: str, page: Page, press: str, frame: FrameLocator) -> str:
    with started_run(desk, dag) as run:
        frame.get_by_role("button", name=press).click()
    return run[0]


def test_airflows_menu_leads_to_the_models(desk: Desk, page: Page, told: None) -> None:
    page.goto(desk.places.airflow)
    page.get_by_role("button", name="Browse").click()
    page.get_by_role("menuitem", name="Models").click()
    frame = page.frame_locator("iframe")
    expect(frame.get_by_role("link", name="tiny")).to_be_visible()


def test_the_page_shows_versions_gates_and_history(desk: Desk, page: Page, told: None) -> None:
    frame = model_page(desk, page)
    expect(frame.locator(".card").first).to_contain_text("1.1.0")
    drawing = frame.get_by_role("img", name="learned-the-news")
    expect(drawing).to_be_visible()
    assert drawing.locator("circle").count() == 3
    expect(frame.get_by_role("cell", name="ada <b>")).to_be_visible()
    expect(frame.get_by_text("<script>alert(1)</script>")).to_be_visible()


def test_a_rollback_from_the_page_is_done_in_the_users_name(desk: Desk, page: Page, told: None) -> None:
    frame = model_page(desk, page)
    frame.locator("#reason-rollback").fill("wrong dates")
    run = newest_run(desk, "rollback", page, "Roll back", frame)
    expect(frame.get_by_text("The rollback is under way")).to_be_visible()
    assert ended(desk, "rollback", run) == "success"
    call = desk.calls("rollback")[-1]
    assert (call["target"], call["by"], call["reason"]) == ("tiny", USER, "wrong dates")
    assert (call["from"], call["to"]) == ("2", "1")
    frame.get_by_role("link", name="its run").click()  # leaves the frame: Airflow's own page of the run
    page.wait_for_url("**/dags/rollback/runs/**")


def test_a_promotion_from_the_page_is_asked_and_can_be_rejected(desk: Desk, page: Page, told: None) -> None:
    for option, command in (("Approve", "promote"), ("Reject", "reject")):
        frame = model_page(desk, page)
        frame.locator("#reason-promote").fill("asked for by the team")
        run = newest_run(desk, "promote", page, "Ask for promotion", frame)
        awaits(desk, "promote", run)
        frame.get_by_role("link", name="the page with the evidence").click()
        page.wait_for_url("**/tasks/approve/required_actions**")
        expect(page.get_by_role("link", name="The report")).to_be_visible()
        decide(desk, page, "promote", run, option, "seen")
        assert ended(desk, "promote", run) == "success"
        call = desk.calls(command)[-1]
        assert (call["model"], call["version"], call["by"], call["reason"]) == ("tiny", "3", USER, "seen")


def test_two_people_have_to_approve_and_the_same_one_is_not_taken(desk: Desk, page: Page) -> None:
    dag = "train__tiny-two"
    open_form(desk, page, dag)
    run = submit(page, desk, dag)
    decide(desk, page, dag, run, "Approve", "better on the news")
    decide(desk, page, dag, run, "Approve", "and again", "approve_second")
    # The same person's answer is taken away, and the question is open again.
    eventually(
        lambda: (
            desk.api.tasks(dag, run)["approve_second"]["state"] == "awaiting_input"
            and not desk.api.question(dag, run, "approve_second")["response_received"]
        ),
        "the second question is open again",
    )
    assert not [call for call in desk.calls("promote") if "tiny-two" in call["plan"]]
    browser = page.context.browser
    assert browser is not None
    with page_of(desk, browser, "ben") as other:
        other.goto(f"{desk.places.airflow}/dags/{dag}/runs/{run}/tasks/approve_second/required_actions")
        expect(other.get_by_text("has approved. A second, different person")).to_be_visible()
        decide(desk, other, dag, run, "Approve", "fewer wrong dates", "approve_second")
    assert ended(desk, dag, run) == "success"
    call = desk.calls("promote")[-1]
    assert call["by"] == f"{USER} and ben"
    assert call["reason"] == "better on the news; fewer wrong dates"


def test_the_second_person_can_reject(desk: Desk, page: Page) -> None:
    dag = "train__tiny-two"
    open_form(desk, page, dag)
    run = submit(page, desk, dag)
    decide(desk, page, dag, run, "Approve", "better on the news")
    decide(desk, page, dag, run, "Reject", "on second thoughts", "approve_second")
    assert ended(desk, dag, run) == "success"
    call = desk.calls("reject")[-1]
    assert (call["by"], call["reason"]) == (USER, "on second thoughts")


def test_a_first_rejection_asks_nobody_else(desk: Desk, page: Page) -> None:
    dag = "train__tiny-two"
    open_form(desk, page, dag)
    run = submit(page, desk, dag)
    decide(desk, page, dag, run, "Reject", "no")
    assert ended(desk, dag, run) == "success"
    assert desk.api.tasks(dag, run)["approve_second"]["state"] == "skipped"
    assert desk.calls("reject")[-1]["reason"] == "no"
