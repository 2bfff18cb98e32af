"""A model kept current by its news: three updates promoted, one of them rolled back, a fourth rejected.

With the real steps, from an empty registry. Each update is started by new data, as a watching DAG tells it;
people decide in Chromium. The screenshots of docs/ are taken here where PERENNIAL_SCREENSHOTS names a folder.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import FrameLocator, Page, expect

from tasks.artefacts import open_store
from tasks.local.places import ROOT, USER, environment
from tasks.sources import materialise
from tasks.tracking import ledger
from tests import warm
from tests.browser.conftest import logged_in, started
from tests.browser.ui import awaits, decide, ended, new_data, started_run, unpaused

if TYPE_CHECKING:
    from tests.browser.conftest import Desk

# Four runs with training: a minute each on a free machine.
pytestmark = [pytest.mark.slow, pytest.mark.browser, pytest.mark.timeout(3600)]

DAG = "train__updates"
DATES = ("2026-01", "2026-02", "2026-03", "2026-04")


@pytest.fixture(scope="module")
def news(tmp_path_factory: pytest.TempPathFactory) -> list[list[str]]:
    """The documents of four months: every fourth chapter of the language reference."""
    lines = []
    for split in ("train", "heldout"):  # each as it is by itself: nothing held out is among the training's
        folder = tmp_path_factory.mktemp(split)
        materialise("pydocs://language-reference", kind=None, split=split, options={}, directory=folder)
        lines += (folder / "rows.jsonl").read_text().splitlines(keepends=True)
    return [lines[number :: len(DATES)] for number in range(len(DATES))]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the news arrive, a file a month."""
    return tmp_path_factory.mktemp("news")


@pytest.fixture(scope="module")
def updates(tmp_path_factory: pytest.TempPathFactory, place: Path) -> Iterator[Desk]:
    """The services with nothing in the place of anything, and a recipe that new files start.

    Commands find their packages imported: there are a hundred of them.
    """
    text = (ROOT / "tests" / "recipes" / "tiny.yaml").read_text()
    text = text.replace("recipe: tiny", "recipe: updates").replace("model: tiny", "model: updates", 1)
    text = text.replace(
        '{uri: "pydocs://language-reference", split:', f'{{uri: "file://{place}", kind: documents, split:'
    )
    text = text.replace("tags: [test]", "tags: [test]\nschedule: {on: [news/updates]}")
    command = f"{warm.python()} -m tasks.cli"
    with started(tmp_path_factory.mktemp("updates"), command, {"updates.yaml": text}) as desk:
        for dag in (DAG, "rollback", "promote"):
            unpaused(desk, dag)
        yield desk


@pytest.fixture(scope="module")
def browser_page(updates: Desk) -> Iterator[Page]:
    with logged_in(updates) as page:
        yield page


def arrives(desk: Desk, place: Path, date: str, lines: list[str]) -> str:
    """A month's file arrives and Airflow is told; the run that this starts, at its approval."""
    with started_run(desk, DAG) as run:
        (place / f"{date}.jsonl").write_text("".join(lines))
        new_data(desk, "news/updates", date)
    awaits(desk, DAG, run[0])
    return run[0]


def picture(page: Page, name: str, tmp: Path) -> None:
    page.wait_for_timeout(3000)
    page.screenshot(path=Path(os.environ.get("PERENNIAL_SCREENSHOTS") or tmp) / f"{name}.png")


def model_page(desk: Desk, page: Page) -> FrameLocator:
    page.goto(f"{desk.places.airflow}/plugin/models/perennial/models/updates")
    frame = page.frame_locator("iframe")
    frame.get_by_role("heading", name="History").wait_for()
    return frame


def perennial(desk: Desk, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "tasks.cli", *arguments],
        cwd=ROOT, env=environment(desk.places), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_three_updates_one_taken_back_and_one_rejected(
    updates: Desk, browser_page: Page, place: Path, news: list[list[str]], tmp_path: Path
) -> None:
    desk, page = updates, browser_page
    for date, lines in zip(DATES[:3], news, strict=False):
        run = arrives(desk, place, date, lines)
        page.goto(f"{desk.places.airflow}/dags/{DAG}/runs/{run}/tasks/approve/required_actions")
        expect(page.get_by_role("heading", name="Gates")).to_be_visible()
        expect(page.get_by_role("heading", name="Regressions")).to_be_visible()
        expect(page.get_by_role("link", name="the run in MLflow")).to_be_visible()
        if date == DATES[2]:
            picture(page, "approval", tmp_path)
        decide(desk, page, DAG, run, "Approve", f"the news of {date}")
        assert ended(desk, DAG, run) == "success"

    frame = model_page(desk, page)
    expect(frame.locator(".card").first).to_contain_text("version 3")
    frame.locator("#reason-rollback").fill("it answers with wrong dates")
    with started_run(desk, "rollback") as back:
        frame.get_by_role("button", name="Roll back").click()
    assert ended(desk, "rollback", back[0]) == "success"

    run = arrives(desk, place, DATES[3], news[3])
    decide(desk, page, DAG, run, "Reject", "the same wrong dates")
    assert ended(desk, DAG, run) == "success"

    recorded = ledger.history(open_store(f"file://{desk.store}"), "updates")
    decisions = [(line.action, line.to_version, line.actor, line.reason) for line in recorded]
    assert [each for each in decisions if each[0] != "register"] == [
        ("promote", "1", USER, "the news of 2026-01"),
        ("promote", "2", USER, "the news of 2026-02"),
        ("promote", "3", USER, "the news of 2026-03"),
        ("rollback", "2", USER, "it answers with wrong dates"),
        ("reject", "4", USER, "the same wrong dates"),
    ]
    history = perennial(desk, "history", "updates")
    for words in ("the news of 2026-03", "it answers with wrong dates", "the same wrong dates"):
        assert words in history
    (audited,) = json.loads(perennial(desk, "audit", "updates", "--json"))  # it ended with 0
    assert audited["findings"] == []
    assert [each["version"] for each in audited["versions"] if each["sound"]] == ["1", "2", "3", "4"]

    page.wait_for_timeout(20_000)  # what the page keeps of the command's answer is older then
    page.set_viewport_size({"width": 1500, "height": 1700})
    frame = model_page(desk, page)
    expect(frame.locator(".card").nth(0)).to_contain_text("version 2")
    expect(frame.locator(".card").nth(2)).to_contain_text("version 3")
    assert frame.get_by_role("img", name="learned-the-news").locator("circle").count() == 4
    for words in ("promoted", "rolled back to", "rejected", "the same wrong dates"):
        expect(frame.get_by_text(words).first).to_be_visible()
    picture(page, "model-page", tmp_path)
    frame.get_by_role("link", name="report").first.click()
    expect(page.frame_locator("iframe").get_by_text("The gates allow this release")).to_be_visible()
