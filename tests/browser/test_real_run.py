"""The main job as a user lives it, with the real steps: start, approve, start again, approve, roll back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from mlflow.tracking import MlflowClient
from playwright.sync_api import Page, expect

from tasks.artefacts import open_store
from tasks.tracking import ledger
from tests.browser.ui import awaits, decide, ended, open_form, submit

if TYPE_CHECKING:
    from tests.browser.conftest import Desk

# Two runs with training, beside other tests: minutes.
pytestmark = [pytest.mark.slow, pytest.mark.browser, pytest.mark.timeout(1500)]

DAG = "train__tiny"


def aliases(desk: Desk) -> dict[str, str]:
    return dict(MlflowClient(desk.places.mlflow).get_registered_model("tiny").aliases)


def test_two_releases_and_the_way_back(real_desk: Desk, real_page: Page) -> None:
    desk, page = real_desk, real_page
    open_form(desk, page, DAG)
    page.locator("#element_reason").fill("the first model")
    first = submit(page, desk, DAG)
    awaits(desk, DAG, first)
    page.goto(f"{desk.places.airflow}/dags/{DAG}/runs/{first}/tasks/approve/required_actions")
    expect(page.get_by_text("waits for a decision")).to_be_visible()
    expect(page.get_by_text("learned-the-news").first).to_be_visible()
    decide(desk, page, DAG, first, "Approve", "a beginning")
    assert ended(desk, DAG, first) == "success"
    assert aliases(desk) == {"champion": "1"}

    open_form(desk, page, DAG)
    page.get_by_role("button", name="Options", exact=True).last.click()
    page.locator("[name=element_merged__weight]").fill("0.3")
    second = submit(page, desk, DAG)
    decide(desk, page, DAG, second, "Approve", "less of the aligned one")
    assert ended(desk, DAG, second) == "success"
    assert aliases(desk) == {"champion": "2", "previous": "1"}

    open_form(desk, page, "rollback")
    page.locator("#element_model").fill("tiny")
    page.locator("#element_reason").fill("it answers worse")
    back = submit(page, desk, "rollback")
    assert ended(desk, "rollback", back) == "success"
    assert aliases(desk) == {"champion": "1", "previous": "2"}

    lines = ledger.history(open_store(f"file://{desk.store}"), "tiny")
    assert [(line.action, line.to_version, line.reason) for line in lines if line.action != "register"] == [
        ("promote", "1", "a beginning"),
        ("promote", "2", "less of the aligned one"),
        ("rollback", "1", "it answers worse"),
    ]
    assert {line.actor for line in lines if line.action != "register"} == {"admin"}
