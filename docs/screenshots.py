"""Takes the README's screenshots from the real thing: the last promoted run and its model.

    python docs/screenshots.py [--recipe pydocs] [--run ID] [--to docs/images]

Run `make demo` first. Starts Airflow and MLflow where they are not up, opens them in headless Chromium, and
stops them again.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from playwright.sync_api import Page, ViewportSize, sync_playwright

from tasks.artefacts import open_store
from tasks.local import services
from tasks.local.airflow_api import AirflowApi
from tasks.local.places import Places, login
from tasks.recipe.run_names import run_name
from tasks.runner.settings import settings

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"]
SIZE: ViewportSize = {"width": 1800, "height": 620}
REPORT: ViewportSize = {"width": 1280, "height": 1240}
MODEL: ViewportSize = {"width": 1500, "height": 1500}
SETTLE_MS = 3000
"""Milliseconds for a page's drawing to come to rest after it has its data."""


def main() -> int:
    """Take the pictures; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="pydocs")
    parser.add_argument("--to", type=Path, default=Path(__file__).parent / "images")
    parser.add_argument("--run", help="Airflow's id of the run to show (default: the last successful one)")
    options = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        print("there is no Chromium: apt-get install chromium", file=sys.stderr)
        return 2
    options.to.mkdir(parents=True, exist_ok=True)
    places, started = services.start(settings())
    try:
        dag = f"train__{options.recipe}"
        run = options.run or AirflowApi(places.airflow, *login(places.home)).last_success(dag)
        if run is None:
            print(f"{dag} has no successful run yet: `make demo` makes one", file=sys.stderr)
            return 2
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
            page = browser.new_page(viewport=SIZE, device_scale_factor=1.5)
            page.set_default_timeout(60_000)
            airflow_run(page, places, dag, run)
            page.screenshot(path=options.to / "airflow-run.png")
            model_page(page, places, options.recipe)
            page.screenshot(path=options.to / "model-page.png")
            page.set_viewport_size(SIZE)
            mlflow_model(page, places, options.recipe)
            page.screenshot(path=options.to / "mlflow-registry.png")
            report(page, settings().store, run_name(options.recipe, run))
            page.screenshot(path=options.to / "report.png")
            browser.close()
    finally:
        if started:
            services.stop(places.home)
    for name in ("airflow-run.png", "model-page.png", "mlflow-registry.png", "report.png"):
        print(options.to / name)
    return 0


def airflow_run(page: Page, places: Places, dag: str, run: str) -> None:
    """Open the graph of a run in Airflow."""
    user, password = login(places.home)
    page.goto(f"{places.airflow}/auth/login")
    page.fill("input[name=username]", user)
    page.fill("input[name=password]", password)
    page.click("button[type=submit]")
    page.get_by_role("link", name="Dags").first.wait_for()
    page.goto(f"{places.airflow}/dags/{dag}/runs/{run}")
    page.get_by_label("Show Graph (Press g)").click()
    page.locator(".react-flow__node").first.wait_for()
    page.get_by_label("Collapse Details Panel").click()
    page.wait_for_timeout(SETTLE_MS)
    page.locator(".react-flow__controls-fitview").click()
    page.wait_for_timeout(SETTLE_MS)


def model_page(page: Page, places: Places, model: str) -> None:
    """Open the page of a model inside Airflow, of which one is logged in."""
    page.set_viewport_size(MODEL)
    page.goto(f"{places.airflow}/plugin/models/perennial/models/{model}")
    page.frame_locator("iframe").get_by_role("heading", name="History").wait_for()
    page.wait_for_timeout(SETTLE_MS)


def mlflow_model(page: Page, places: Places, model: str) -> None:
    """Open the page of a registered model in MLflow."""
    page.goto(f"{places.mlflow}/#/models/{model}")
    page.get_by_text("champion").first.wait_for()
    assistant = page.get_by_text("MLflow Assistant")
    if assistant.is_visible():  # an advertisement that covers a quarter of the page
        assistant.locator("xpath=ancestor::*[count(.//button)>=3][1]").get_by_role("button").nth(2).click()
    page.wait_for_timeout(SETTLE_MS)


def report(page: Page, store: str, run: str) -> None:
    """Open the report of a run, as the release left it in the store."""
    page.set_viewport_size(REPORT)
    page.set_content(open_store(store).read(f"runs/{run}/report.html").decode())


if __name__ == "__main__":
    sys.exit(main())
