"""The report's page in a browser without scripts: on a small screen, in the dark, on paper."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tasks.evaluate.page import write_pages
from tasks.release.gates import judge
from tasks.release.records import PlanFacts, ReleaseRules, Report
from tasks.release.verdict import with_verdict
from tests.browser.conftest import CHROMIUM, FLAGS
from tests.unit.evaluate.reports import logs, make
from tests.unit.release.test_verdict import RECORDS

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium to draw pages"),
]

RULES = ReleaseRules.model_validate(
    {
        "candidate": "tuned",
        "report": "report",
        "gates": [
            {
                "gate": f"update-{part}-{name}",
                "measure": f"{name}.bits_per_byte",
                "against": "baseline",
                "change": "relative",
                "confidence": 0.95,
                "reason": "It matters.",
                limit: 0.05,
            }
            for part, name, limit in (
                ("new", "news_heldout", "better_by"),
                ("old", "general_heldout", "worse_by"),
            )
        ],
    }
)
PLAN = PlanFacts(run="r", recipe="pydocs", model="pydocs", intent="i", release=RULES)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("page")
    report = make(out)
    write_pages(out, report, logs())
    verdicts = judge(RULES.gates, Report.model_validate(report))
    page = out / "report.html"
    page.write_bytes(with_verdict(page, "registered", "pydocs 1.0.0 waits", verdicts, PLAN, RECORDS))
    return page


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield found
        found.close()


def opened(browser: Browser, written: Path, width: int, scheme: str = "light") -> Page:
    """The page with scripts off; a request to anywhere else fails the test."""
    context = browser.new_context(
        java_script_enabled=False,
        viewport={"width": width, "height": 900},
        color_scheme="dark" if scheme == "dark" else "light",
    )
    page = context.new_page()
    page.on("request", lambda request: asked.append(request.url))
    asked: list[str] = []
    page.goto(written.as_uri())
    assert asked == [written.as_uri()], "nothing is fetched from elsewhere"
    return page


@pytest.mark.parametrize("width", [1280, 480, 360])
def test_the_page_fits_and_the_verdict_is_in_sight(browser: Browser, written: Path, width: int) -> None:
    page = opened(browser, written, width)
    box = page.locator("main").bounding_box()
    assert box is not None
    assert box["width"] <= width
    for section in page.locator("section").all():
        inside = section.bounding_box()
        assert inside is not None
        assert inside["x"] >= 0
        assert inside["x"] + inside["width"] <= width
    banner = page.locator(".banner").bounding_box()
    assert banner is not None
    assert banner["y"] + banner["height"] < 900, "the verdict is on the first screen"
    drawings = [drawn.bounding_box() for drawn in page.locator("svg.interval").all()]
    assert drawings
    assert all(drawn is not None and drawn["width"] > 100 for drawn in drawings)


def test_dark_and_light_differ_in_colour_alone(browser: Browser, written: Path) -> None:
    light, dark = (opened(browser, written, 1280, scheme) for scheme in ("light", "dark"))
    assert light.locator("main").inner_text() == dark.locator("main").inner_text()
    assert light.locator(".banner").screenshot() != dark.locator(".banner").screenshot()


def test_details_open_without_scripts_and_paper_has_it_all(browser: Browser, written: Path) -> None:
    page = opened(browser, written, 1280)
    closed = page.locator(".flips details").first
    assert not closed.locator("a").first.is_visible()
    closed.locator("summary").click()
    assert closed.locator("a").first.is_visible()
    assert len(page.pdf()) > 10_000
