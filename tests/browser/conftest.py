"""The real services on a home of their own, and a browser of which one is logged in."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from tasks.local import services
from tasks.local.airflow_api import AirflowApi
from tasks.local.places import USER, Places, login
from tasks.runner.settings import settings
from tests import warm
from tests.browser.ui import PATIENCE_MS, page_of
from tests.integration.airflow_runs import migrated_database

ROOT = Path(__file__).resolve().parents[2]
FAKE = ROOT / "tests" / "integration" / "fake_perennial.py"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"]

expect.set_options(timeout=PATIENCE_MS)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave these tests out where there is no browser, and say how to get it."""
    missing = pytest.mark.skip(
        reason="Chromium is missing, so Airflow's and MLflow's pages were not driven; get it with `apt-get "
        "install chromium`"
    )
    for item in items:
        if CHROMIUM is None and Path(item.path).parent == Path(__file__).parent:
            item.add_marker(missing)


@dataclass
class Desk:
    """Airflow as it was started: its places, its API, and the store with the calls of the stand-in."""

    places: Places
    api: AirflowApi
    store: Path

    def calls(self, command: str) -> list[dict[str, Any]]:
        """The calls of one command so far."""
        lines = (self.store / "calls.jsonl").read_text().splitlines()
        return [call for call in map(json.loads, lines) if call["command"] == command]


@contextmanager
def started(folder: Path, command: str | None, recipes: Mapping[str, str] | None = None) -> Iterator[Desk]:
    """MLflow and Airflow on free ports with the recipe `tiny`; `command` runs in the place of `perennial`.

    Beside it there is `tiny-two`, which two people have to approve, and a second user, ben. `recipes` are
    others in their place: file name -> text.
    """
    (folder / "recipes").mkdir()
    text = (ROOT / "tests" / "recipes" / "tiny.yaml").read_text()
    two = text.replace("recipe: tiny", "recipe: tiny-two").replace("model: tiny", "model: tiny-two", 1)
    two = two.replace("approval: human", "approval: human\n  approvals: 2")
    for name, content in (recipes or {"tiny.yaml": text, "tiny-two.yaml": two}).items():
        (folder / "recipes" / name).write_text(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PERENNIAL_HOME", str(folder / "home"))
        patch.setenv("PERENNIAL_STORE", f"file://{folder}/store")
        patch.setenv("PERENNIAL_RECIPES", str(folder / "recipes"))
        patch.setenv("PERENNIAL_USERS", "admin:admin,ben:admin")
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        if command is None:
            patch.delenv("PERENNIAL_COMMAND", raising=False)
        else:
            patch.setenv("PERENNIAL_COMMAND", command)
        places, _ = services.start(settings())
        try:
            yield Desk(places, AirflowApi(places.airflow, *login(places.home)), folder / "store")
        finally:
            services.stop(places.home)


@contextmanager
def logged_in(desk: Desk, user: str = USER) -> Iterator[Page]:
    """A page of Chromium, logged in as the user `up` prints, or another."""
    assert CHROMIUM is not None
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        with page_of(desk, browser, user) as page:
            yield page
        browser.close()


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """The services with a stand-in for the steps' work, and Airflow's database ready to be used."""
    folder = tmp_path_factory.mktemp("browser")
    airflow = folder / "home" / "airflow"
    airflow.mkdir(parents=True)
    shutil.copy(migrated_database(), airflow / "airflow.db")
    (airflow / "migrated").write_text(version("apache-airflow"), encoding="utf-8")
    with started(folder, f"{sys.executable} {FAKE}") as desk:
        yield desk


@pytest.fixture(scope="module")
def page(desk: Desk) -> Iterator[Page]:
    with logged_in(desk) as page:
        yield page


@pytest.fixture(scope="module")
def real_desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """The services with nothing in the place of anything; commands find their packages imported."""
    with started(tmp_path_factory.mktemp("real"), f"{warm.python()} -m tasks.cli") as desk:
        yield desk


@pytest.fixture(scope="module")
def real_page(real_desk: Desk) -> Iterator[Page]:
    with logged_in(real_desk) as page:
        yield page
