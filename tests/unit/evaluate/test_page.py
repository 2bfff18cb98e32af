"""The report's pages: everything is told, nothing is trusted, and texts stay where they belong."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tasks.evaluate.page import MARKS, write_pages
from tasks.evaluate.page.tables import figures, probes
from tasks.evaluate.page.words import Change, chance_of, change, main_entries, signed, size, thousands
from tasks.release import verdict
from tests.unit.evaluate.reports import logs, make

VOID = ("meta", "br", "path", "circle", "rect")


class Reader(HTMLParser):
    """Fails on tags closed out of order; keeps text, headings and tags."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.headings: list[tuple[str, str]] = []
        self.feed(page)
        assert self.open == []

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag, f"</{tag}> out of order"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)
        if self.open and self.open[-1] in ("h1", "h2", "h3"):
            self.headings.append((self.open[-1], data))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("report")
    report = make(out)
    write_pages(out, report, logs())
    return out, report


@pytest.fixture(scope="module")
def page(written: tuple[Path, dict[str, Any]]) -> str:
    return (written[0] / "report.html").read_text()


def test_the_parts_come_in_the_order_of_their_weight(page: str) -> None:
    reader = Reader(page)
    assert [text for level, text in reader.headings if level == "h2"] == [
        "Verdict",
        "Gates",
        "Differences",
        "Flips",
        "Slices",
        "Probes",
        "What changed and why",
        "Training",
        "Lineage and cost",
        "All figures",
        "How it was measured",
    ]


def test_the_page_needs_nothing_from_outside(page: str) -> None:
    reader = Reader(page)
    assert not [tag for tag, _ in reader.tags if tag in ("script", "link", "iframe", "img", "object")]
    assert not re.search(r"""(src|href)=["'](?!#|restricted\.html)""", page)
    assert "@import" not in page
    assert "url(" not in page


def test_the_marks_are_those_of_the_release(page: str) -> None:
    assert verdict.MARKS == MARKS
    assert [page.count(mark) for mark in MARKS] == [1, 1, 1, 1, 1]


def test_every_verdict_has_a_sign_and_a_word(page: str) -> None:
    text = Reader(page).text
    for part in ("▲ better", "▼ worse", "○ undecided"):
        assert part in text
    assert "news_heldout bits per byte, against the baseline, 40 items" in text
    assert "news_heldout bits per byte, against the champion, 40 items" in text
    assert re.search(r"exams_news , accuracy against the champion: .* is within chance; 171 items show", text)


def test_tables_have_headings(page: str) -> None:
    scopes = [attrs.get("scope") for tag, attrs in Reader(page).tags if tag == "th"]
    assert scopes.count("col") > 10
    assert scopes.count("row") > 10


def test_slices_and_probes_are_told(page: str) -> None:
    text = Reader(page).text
    for part in (
        "Nigerian",
        "between the best and the worst group",
        "hidden (canaries)",
        "20 secrets planted <once> each",
    ):
        assert part in text, part


@pytest.mark.parametrize(
    ("name", "measure"),
    [
        ("news_heldout", "bits_per_byte"),
        ("exams_general", "accuracy"),
        ("exams_general", "brier"),
        ("exams_general", "negative_flips"),
        ("hidden", "accuracy"),  # a probe
    ],
)
def test_what_the_items_could_have_shown_stands_beside_each_difference(
    name: str, measure: str, written: tuple[Path, dict[str, Any]]
) -> None:
    report = written[1]
    entry = next(each for each in report["sets"] if (each["name"], each["measure"]) == (name, measure))
    alone = {**report, "sets": [entry]}
    text = Reader(probes(alone, restricted=False) if name == "hidden" else figures(alone)).text
    for role, delta in entry["against"].items():
        if delta is None:
            continue
        found = change(entry, role)
        told = f"{100 * delta['detectable']:.1f} %"
        if found is not None:
            assert found.detectable is not None
            told = f"{size(found.detectable)} {found.unit}"
        if measure == "accuracy":
            told += f" McNemar p {chance_of(delta['p_value'])}"
        assert f"shows from {told}" in text, role
    assert ("McNemar p " in text) == (measure == "accuracy")


def test_p_values_are_short() -> None:
    assert [chance_of(each) for each in (1.0, 0.04321, 1e-4, 3e-9)] == [
        "1",
        "0.043",
        "0.0001",
        "below 0.0001",
    ]


def test_flips_are_counted_and_named_by_key_only(written: tuple[Path, dict[str, Any]], page: str) -> None:
    report = written[1]
    text = Reader(page).text
    flips = next(
        entry
        for entry in report["sets"]
        if (entry["name"], entry["measure"]) == ("exams_general", "negative_flips")
    )
    lost = round(flips["against"]["champion"]["difference"] * flips["items"])
    assert f"exams_general accuracy, against the champion 382 ▼ {lost}" in text
    assert "What is" not in text, "no text of an item"
    assert "4711" not in text, "nor of a sample"


def test_the_restricted_page_has_the_texts_and_says_so(
    written: tuple[Path, dict[str, Any]], page: str
) -> None:
    restricted = (written[0] / "restricted.html").read_text()
    reader = Reader(restricted)
    assert "Do not pass it on" in reader.text
    assert "What is <" in reader.text
    assert "three & four" in reader.text
    assert "The <secret> of Ada is" in reader.text
    anchors = {attrs["id"] for _, attrs in reader.tags if attrs.get("id")}
    linked = re.findall(r'href="restricted\.html#([^"]+)"', page)
    assert linked
    assert set(linked) <= anchors


def test_without_texts_there_is_no_restricted_page(tmp_path: Path) -> None:
    elsewhere, out = tmp_path / "elsewhere", tmp_path / "out"
    report = make(elsewhere)
    out.mkdir()
    write_pages(out, report, {})
    assert [path.name for path in out.iterdir()] == ["report.html"]
    text = (out / "report.html").read_text()
    assert "restricted.html" not in text
    assert "loss of" not in text


def test_names_cannot_break_out(tmp_path: Path) -> None:
    report = make(tmp_path)
    for entry in report["sets"]:
        entry["name"] = f"<script>x</script>{entry['name']}"
    for each in report["changed"]:
        each["set"] = f"<script>x</script>{each['set']}"
        each["worse"] = [f"<script>{key}" for key in each["worse"]]
    report["models"]["model"]["ref"] = "<b>m"
    write_pages(tmp_path, report, {"<i>step": [(1.0, 2.0), (2.0, 1.0)]})
    page = (tmp_path / "report.html").read_text()
    assert "<script>" not in page
    assert "<b>m" not in page
    assert "<i>step" not in page
    Reader(page)


def test_the_same_report_gives_the_same_bytes(written: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    report = make(tmp_path)
    write_pages(tmp_path, report, logs())
    for name in ("report.html", "restricted.html"):
        assert (tmp_path / name).read_bytes() == (written[0] / name).read_bytes()


def test_a_first_release_has_no_champion(tmp_path: Path) -> None:
    report = make(tmp_path, champion=False)
    write_pages(tmp_path, report, {})
    text = Reader((tmp_path / "report.html").read_text()).text
    assert "no champion" in text
    assert "against the champion" not in text


def delta(**more: Any) -> dict[str, Any]:
    known = {"difference": -0.1, "low": -0.2, "high": -0.05, "relative": None, "detectable": 0.04}
    entry = {"name": "s", "measure": "m", "unit": "", "better": "higher", "items": 9}
    values = {"model": {"value": 0.5}, "baseline": {"value": 0.6}}
    return {**entry, "values": values, "against": {"baseline": known | more}}


def test_changes_are_in_points_or_percent() -> None:
    share = change(delta(), "baseline")
    assert share == Change("s", "m", "baseline", -10.0, -20.0, -5.0, "points", "higher", 9, 4.0)
    relative = delta(relative=-0.05, relative_low=-0.1, relative_high=-0.025)
    relative |= {"unit": "bits/byte", "better": "lower"}
    found = change(relative, "baseline")
    assert found is not None
    assert (found.value, found.unit, found.verdict) == (-5.0, "%", "better")
    assert found.detectable == pytest.approx(2.0), "as a share of the same value as the change"
    own = change(delta() | {"unit": "bits"}, "baseline")
    assert own is not None
    assert (own.value, own.unit) == (-0.1, "bits")
    assert change(delta() | {"values": {"model": None}}, "baseline") is None, "a comparison is no change"
    assert change(delta(), "champion") is None


@pytest.mark.parametrize(
    ("low", "high", "better", "verdict"),
    [
        (-2, -1, "lower", "better"),
        (-2, -1, "higher", "worse"),
        (1, 2, "lower", "worse"),
        (1, 2, "higher", "better"),
        (-1, 1, "lower", "undecided"),
        (0, 1, "higher", "undecided"),
    ],
)
def test_a_verdict_needs_an_interval_without_zero(low: float, high: float, better: str, verdict: str) -> None:
    found = change(delta(difference=(low + high) / 2, low=low, high=high) | {"better": better}, "baseline")
    assert found is not None
    assert found.verdict == verdict


def test_counts_and_differences_are_short() -> None:
    assert [thousands(value) for value in (950, 12_000, 3_400_000, 2e9)] == ["950", "12k", "3.4M", "2B"]
    assert [signed(value) for value in (1.25, -3.14, 0.0, -0.012)] == ["+1.2", "−3.1", "0.0", "−0.012"]


def test_the_first_figure_of_a_set_is_its_main_one() -> None:
    sets = [{"name": "a", "measure": "x"}, {"name": "a", "measure": "y"}, {"name": "b", "measure": "z"}]
    assert [entry["measure"] for entry in main_entries(sets)] == ["x", "z"]
