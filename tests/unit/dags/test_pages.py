"""The pages about models: what they show, escaped, and what their forms need to be taken."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from perennial_pages import plots, render, tickets
from perennial_pages.facts import Kept

from tests.page_facts import FACTS, GATE, version

ROOT = Path(__file__).resolve().parents[3]

TICKETS = {"promote": "1.a", "rollback": "1.b"}


class Words(HTMLParser):
    """The text of a page, its forms' actions and every tag."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.forms: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag == "form":
            self.forms.append(str(dict(attrs)["action"]))

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def shown(facts: dict[str, Any] = FACTS, given: dict[str, str] = TICKETS) -> str:
    return render.model_page(facts, "/perennial", "", tickets=given)


def test_the_page_shows_what_is_in_production_what_waits_and_what_was_before() -> None:
    words = " ".join(Words(shown()).words)
    for expected in ("champion", "1.1.0", "candidate", "1.2.0", "previous", "1.0.0", "10.4 MB", "1.5 h"):
        assert expected in words
    assert "0 of 1 gates passed" in words
    assert "is not in the store" in words
    assert "two approvals" in words
    assert "3.75 USD" in words
    assert "Cost (USD)" in words
    assert words.count("1.25") == 3


def test_costs_of_two_currencies_are_not_added_and_a_small_one_is_not_nothing() -> None:
    made = [version("3", cost=0.0042), version("2", "champion", currency="EUR"), version("1", cost=None)]
    words = " ".join(Words(shown(FACTS | {"versions": made})).words)
    assert words.count("0.0042 USD") == words.count("1.25 EUR") == 2
    assert "0.0042 USD and 1.25 EUR" in words


def test_text_from_elsewhere_is_text() -> None:
    page = shown()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert Words(page).tags.count("script") == 1  # the page's own, which the policy names by its digest
    assert re.search(r"script-src 'sha256-[A-Za-z0-9+/=]{44}'", render.POLICY)


def test_forms_are_for_those_who_may_start_the_dags() -> None:
    assert Words(shown()).forms == ["/perennial/models/pydocs/promote", "/perennial/models/pydocs/rollback"]
    assert Words(shown(given={})).forms == []
    assert Words(shown(given={"rollback": "t"})).forms == ["/perennial/models/pydocs/rollback"]


def test_there_is_no_way_back_without_a_previous_version() -> None:
    assert Words(shown(FACTS | {"previous": None})).forms == ["/perennial/models/pydocs/promote"]


def test_the_champion_is_not_offered_for_promotion() -> None:
    page = shown()
    assert '<option value="3" selected>' in page
    assert '<option value="2"' not in page


def test_a_gate_over_time_is_a_drawing_with_its_words() -> None:
    figure = plots.gate_plots(FACTS["versions"])
    drawing = ElementTree.fromstring(figure[figure.index("<svg") : figure.index("</svg>") + 6])
    circles = [each for each in drawing if each.tag == "circle"]
    assert [each.get("class") for each in circles] == ["passed", "passed", "failed"]
    places = [float(each.get("cx", "")) for each in circles]
    assert places == sorted(places)
    heights = [float(each.get("cy", "")) for each in circles]
    assert heights[2] < heights[0] == heights[1]  # -10 % is drawn above -20 %
    label = drawing.get("aria-label", "")
    assert "1.2.0: -10.0 % (-25.0 % to -16.0 %), failed, allowed at most -15.0 %" in label


def test_a_gate_nobody_could_measure_and_versions_without_gates_are_no_error() -> None:
    unknown = version("1", gates=[GATE | {"value": None, "low": None, "high": None}])
    assert "not known" in plots.gate_plots([unknown])
    assert plots.gate_plots([version("1", gates=[])]) == ""


def test_one_gate_with_one_value_is_drawn() -> None:
    flat = GATE | {"value": 0.0, "low": None, "high": None, "threshold": 0.0}
    assert plots.gate_plots([version("1", gates=[flat])]).count("<circle") == 1


def test_the_list_names_every_model() -> None:
    facts = {"models": [{"model": "a&b", "champion": "2", "candidate": None, "previous": None}]}
    page = render.list_page(facts, "/perennial")
    assert 'href="/perennial/models/a%26b"' in page
    assert "a&amp;b" in page
    assert "No model is registered" in render.list_page({"models": []}, "/perennial")


def test_a_ticket_is_for_one_user_one_purpose_and_some_hours() -> None:
    ticket = tickets.issue("secret", "ada", "rollback pydocs", now=1000.0)
    assert tickets.good("secret", "ada", "rollback pydocs", ticket, now=2000.0)
    for secret, user, purpose, given, now in (
        ("other", "ada", "rollback pydocs", ticket, 2000.0),
        ("secret", "eve", "rollback pydocs", ticket, 2000.0),
        ("secret", "ada", "promote pydocs", ticket, 2000.0),
        ("secret", "ada", "rollback pydocs", ticket, 1000.0 + 13 * 3600),
        ("secret", "ada", "rollback pydocs", ticket, 0.0),
        ("secret", "ada", "rollback pydocs", "2000." + ticket.partition(".")[2], 2000.0),
        ("secret", "ada", "rollback pydocs", "", 2000.0),
        ("secret", "ada", "rollback pydocs", "²." + ticket.partition(".")[2], 2000.0),
        ("", "ada", "rollback pydocs", tickets.issue("", "ada", "rollback pydocs", now=1000.0), 1000.0),
    ):
        assert not tickets.good(secret, user, purpose, given, now=now)


def test_a_command_is_asked_once_in_a_while() -> None:
    asked: list[tuple[str, ...]] = []

    def ask(*arguments: str) -> str:
        asked.append(arguments)
        return json.dumps({"n": len(asked)})

    kept = Kept(ask, seconds=60)
    assert kept.json("page", "a") == kept.json("page", "a") == {"n": 1}
    assert kept.json("page", "b") == {"n": 2}
    kept.drop()
    assert kept.json("page", "a") == {"n": 3}
    for number in range(40):
        kept.get("report", str(number))
    assert len(kept._answers) <= 16


def test_a_failed_command_is_asked_again() -> None:
    def ask(*_: str) -> str:
        raise RuntimeError("away")

    kept = Kept(ask)
    for _ in range(2):
        with pytest.raises(RuntimeError):
            kept.get("page")
