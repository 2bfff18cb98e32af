"""What a user does in the Airflow UI, for the tests of this folder."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from playwright.sync_api import Browser, Page

from tasks.local.airflow_api import AirflowApi
from tasks.local.demo import READING_SECONDS
from tasks.local.places import Places

if TYPE_CHECKING:
    from tests.browser.conftest import Desk

# A page whose server shares two cores with a training takes its time.
PATIENCE_MS = 60_000


def eventually(look: Callable[[], Any], what: str, seconds: float = 600.0) -> Any:
    """What `look` gives once it gives something."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found = look()
        if found:
            return found
        time.sleep(0.5)
    raise AssertionError(f"{what}: not within {seconds:.0f} s")


def unpaused(desk: Desk, dag: str) -> None:
    """Wait until Airflow knows a DAG, and let it run."""
    eventually(lambda: desk.api.dag(dag), f"Airflow lists {dag}")
    desk.api.set_paused(dag, False)


@contextmanager
def started_run(desk: Desk, dag: str) -> Iterator[list[str]]:
    """The id of the run that what is done meanwhile starts, also where the run has ended by the end of it."""

    def runs() -> set[str]:
        path, params = f"/api/v2/dags/{dag}/dagRuns", {"limit": 100, "order_by": "-id"}
        return {str(run["dag_run_id"]) for run in desk.api._ask("GET", path, params=params)["dag_runs"]}

    before, found = runs(), list[str]()
    yield found
    found.extend(eventually(lambda: runs() - before, f"a run of {dag} starts"))


def open_form(desk: Desk, page: Page, dag: str) -> None:
    unpaused(desk, dag)
    page.goto(f"{desk.places.airflow}/dags/{dag}")
    page.get_by_test_id("trigger-dag-button").click()
    page.get_by_test_id("trigger-dag-submit").wait_for()


def submit(page: Page, desk: Desk, dag: str) -> str:
    """Press the form's button; the id of the run it starts."""
    with started_run(desk, dag) as run:
        page.get_by_test_id("trigger-dag-submit").click()
        page.wait_for_url(f"**/dags/{dag}/runs/**")
    return run[0]


def ended(desk: Desk, dag: str, run: str) -> str:
    def look() -> str:
        state = str(desk.api.run(dag, run)["state"])
        return state if state in ("success", "failed") else ""

    return str(eventually(look, f"run {run} ends"))


def awaits(desk: Desk, dag: str, run: str, task: str = "approve") -> None:
    eventually(lambda: is_asked(desk.api, desk.places, dag, run, task), f"{dag}'s {task} asks")


def is_asked(api: AirflowApi, places: Places, dag: str, run: str, task: str = "approve") -> bool:
    """The scheduler has seen the asking process end, too: before that an answer is lost (demo.py)."""
    found = api.tasks(dag, run).get(task, {})
    lines = (places.logs / "scheduler.log").read_text(errors="replace").splitlines()
    words = f"task_id='{task}', run_id='{run}', try_number={found.get('try_number')},"
    seen = any("Received executor event" in line and words in line for line in lines)
    return seen and found.get("state") == "awaiting_input"


def decide(
    desk: Desk, page: Page, dag: str, run: str, option: str, reason: str, task: str = "approve"
) -> None:
    awaits(desk, dag, run, task)
    page.goto(f"{desk.places.airflow}/dags/{dag}/runs/{run}/tasks/{task}/required_actions")
    page.wait_for_timeout(1000 * READING_SECONDS)
    page.locator("#element_reason").fill(reason)
    with page.expect_response(lambda it: "hitlDetails" in it.url and it.request.method == "PATCH") as answer:
        page.get_by_test_id(f"hitl-option-{option}").click()
    assert answer.value.ok, answer.value.text()


@contextmanager
def page_of(desk: Desk, browser: Browser, user: str) -> Iterator[Page]:
    """A page of one user, with cookies of its own: logged in on Airflow's own page.

    Somebody else gets another page. To log out on a page that shows Airflow races with the page itself, which
    goes to the login by its own will when its next question of the server is refused.
    """
    passwords = json.loads((desk.places.airflow_home / "passwords.json").read_text())
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.set_default_timeout(PATIENCE_MS)
    page.goto(f"{desk.places.airflow}/auth/login")
    page.fill("input[name=username]", user)
    page.fill("input[name=password]", passwords[user])
    page.click("button[type=submit]")
    page.get_by_role("link", name="Dags").first.wait_for()
    yield page
    page.close()


def new_data(desk: Desk, asset: str, date: str) -> None:
    """Tell Airflow that an asset has news, as a DAG that watches it does."""
    found = eventually(
        lambda: desk.api._ask("GET", "/api/v2/assets", params={"name_pattern": asset})["assets"],
        f"Airflow knows the asset {asset}",
    )
    desk.api._ask("POST", "/api/v2/assets/events", {"asset_id": found[0]["id"], "extra": {"date": date}})
