from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tasks.recipe.failures import PerennialError
from tasks.recipe.plan import Rate
from tasks.release.gates import Changed, GateResult
from tasks.release.records import Output, Pinned, PlanFacts, ReleaseRules, StepRecord
from tasks.release.verdict import MARKS, verdicts, with_verdict

PLAN = PlanFacts(
    run="run-1",
    recipe="pydocs",
    model="pydocs",
    intent="i",
    release=ReleaseRules(candidate="tuned", report="report"),
    rates={"cpu": Rate(price=0.1), "gpu": Rate(price=3.0)},
    currency="EUR",
    steps=[{"name": "tuned", "resources": "gpu"}, {"name": "report", "resources": "cpu"}],
)
RECORDS = {
    "tuned": StepRecord(
        fingerprint="f",
        step="tuned",
        stage="sft",
        method="completion",
        outputs={"model": Output(digest="abc" * 20, kind="model")},
        device_seconds=7200,
        figure="loss <2>",
        reasons=["options.lr changed: 1 -> <2>"],
    ),
    "report": StepRecord(
        fingerprint="f",
        step="report",
        stage="evaluate",
        method="suite",
        inputs={"model": ["abc" * 20]},
        outputs={"report": Output(digest="def" * 20, kind="report")},
        device_seconds=30,
        cached=True,
    ),
}


def result(gate: str, verdict: str, **more: Any) -> GateResult:
    fields: dict[str, Any] = {
        "gate": gate,
        "measure": "exams.accuracy",
        "passed": verdict == "passed",
        "severity": "stop",
        "value": 0.03,
        "low": -0.01,
        "high": 0.07,
        "threshold": 0.0,
        "text": f"{gate}: {verdict} <b>",
        "verdict": verdict,
        "against": "baseline",
        "change": True,
        "sign": -1,
        "items": 120,
        "confidence": 0.95,
        "reason": "It matters.",
    }
    return GateResult(**fields | more)


GATES = [
    result(
        "learned",
        "passed",
        percent=True,
        strict=True,
        sign=1,
        value=-0.2,
        low=-0.3,
        high=-0.1,
        threshold=-0.05,
    ),
    result("kept", "failed", value=-0.05, low=-0.08, high=-0.03, threshold=-0.02),
    result("shots", "undecided", needed=617, detectable=0.05),
    result("soft", "undecided", severity="warn"),
    result(
        "size", "passed", measure="model.bytes", against="none", value=1e6, low=None, high=None, items=None
    ),
]


class Balanced(HTMLParser):
    """Fails on a tag that is closed out of order, and collects text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag not in ("path", "circle", "meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "report.html"
    path.write_text("<main>" + "".join(f"<div>{mark}</div>" for mark in MARKS) + "</main>")
    return path


def words(data: bytes) -> str:
    parser = Balanced()
    parser.feed(data.decode())
    assert parser.open == []
    return " ".join(" ".join(parser.text).split())


def test_the_verdict_comes_first_and_is_told_without_colour(page: Path) -> None:
    text = words(with_verdict(page, "refused", "pydocs: refused", GATES, PLAN, RECORDS))
    assert text.startswith(
        "✗ The gates stop this release pydocs: refused. Gates: 2 passed, 1 failed, 2 undecided. "
        "✗ kept failed: exams.accuracy is −5.0 points (−8.0 to −3.0 points) against the baseline, "
        "allowed at least −2.0 points ? shots undecided:"
    ), "what stops it stands in the banner"
    banner, _, table = text.partition("A gate with a confidence")
    assert "learned" not in banner
    assert "soft" not in banner
    for part in (
        "✓ passed learned",
        "✗ failed kept",
        "? undecided shots",
        "only warns",
        "−20.0 % against the baseline −30.0 % to −10.0 %",
        "less than −5.0 % 95 % confidence",
        "about 617 needed",
        "95 % confidence shows from 5.0 points beyond",
        "for all 5 of them together",
    ):
        assert part in table, part
    assert table.index("kept") < table.index("soft") < table.index("learned"), "what stops comes first"
    missing = text.partition("What could not be decided")[2]
    assert (
        "shots : 120 items decide from about 5.0 points beyond the limit on; as near to it as this" in missing
    )
    assert "soft : undecided <b>" in missing


def test_a_share_of_flips_is_no_change(page: Path) -> None:
    flips = result("flips", "failed", change=False, sign=1, value=0.1, low=0.06, high=0.14, threshold=0.05)
    text = words(with_verdict(page, "refused", "h", [flips], PLAN, RECORDS))
    assert "is 10.0 % (6.0 % to 14.0 %) against the baseline, allowed at most 5.0 %" in text


def test_the_items_that_changed_stand_beside_each_gate(page: Path) -> None:
    items = Changed("an exam", "accuracy", "champion", 12, 3, ("e1", "e2"), ("e9",))
    gate = result("flips", "failed", changed=items)
    data = with_verdict(page, "refused", "h", [gate], PLAN, RECORDS)
    assert "120 ▼ 12 ▲ 3" in words(data)
    link = '<a href="#changed-an_exam-accuracy-champion" aria-label="12 items worse, 3 better">'
    assert link in data.decode()
    (told,) = json.loads(verdicts("refused", PLAN, [gate], RECORDS))["gates"]
    assert (told["changed"]["worse"], told["changed"]["worse_keys"]) == (12, ["e1", "e2"])


def test_the_time_of_a_token_is_told_where_it_was_measured(page: Path) -> None:
    assert "Time for a new token" not in words(with_verdict(page, "refused", "h", [], PLAN, RECORDS))
    metrics = {"latency_ms": 3.214, "latency_ms.champion": 3.0}
    records = RECORDS | {"report": RECORDS["report"].model_copy(update={"metrics": metrics})}
    text = words(with_verdict(page, "refused", "h", [], PLAN, records))
    assert "on the report step's machine: candidate 3.21 ms, champion 3 ms." in text


def test_forgetting_is_drawn_against_gain(page: Path) -> None:
    new = result("update-new-news", "passed", measure="news.bits_per_byte", percent=True)
    new = replace(new, value=-0.2, low=-0.3, high=-0.1, better="lower")
    old = result("update-old-general", "failed", measure="general.bits_per_byte", percent=True)
    old = replace(old, value=0.05, low=0.02, high=0.08, better="lower")
    other = result("update-old-exams", "passed", better="higher")
    text = words(with_verdict(page, "refused", "h", [new, old, other], PLAN, RECORDS))
    assert "Forgetting against gain" in text
    assert "news +20.0 % [+10.0, +30.0], general −5.0 % [−8.0, −2.0]" in text, "better is positive"
    assert "exams +3.0" not in text, "points do not belong beside percent"
    assert "Forgetting" not in words(with_verdict(page, "refused", "h", [old], PLAN, RECORDS))


def test_a_passed_release_names_nothing_that_stops_it(page: Path) -> None:
    text = words(with_verdict(page, "registered", "pydocs 1.0.0", GATES[:1], PLAN, RECORDS))
    assert text.startswith("✓ The gates allow this release")
    assert "What could not be decided" not in text
    assert "The recipe has no gates" in words(with_verdict(page, "no_change", "same", [], PLAN, RECORDS))


def test_lineage_and_cost(page: Path) -> None:
    text = words(with_verdict(page, "refused", "h", GATES, PLAN, RECORDS))
    for part in (
        "options.lr changed: 1 -> <2>",
        "1 of 2 steps : unchanged (report)",
        "tuned sft/completion, part of the candidate",
        "loss <2> abcabcabcabc",
        "2.00 h 6",
        "report evaluate/suite tuned",
        "not run again",
        "All steps 2.01 h 6.001",
    ):
        assert part in text, part


def test_the_same_as_json() -> None:
    content = json.loads(verdicts("refused", PLAN, GATES, RECORDS))
    assert content["stopped_by"] == ["kept", "shots"]
    assert content["outcome"] == "refused"
    assert content["gates"][2]["needed"] == 617
    assert [gate["verdict"] for gate in content["gates"]] == [gate.verdict for gate in GATES]


def test_what_changed_lineage_and_cost_are_data_too(page: Path) -> None:
    metrics = {"latency_ms": 3.214}
    trained = Output(digest="abc" * 20, kind="model", meta={"tokens": 900, "samples": 3})
    records = {
        "tuned": RECORDS["tuned"].model_copy(
            update={"inputs": {"data": ["1" * 64]}, "outputs": {"model": trained}}
        ),
        "report": RECORDS["report"].model_copy(update={"metrics": metrics}),
    }
    plan = PLAN.model_copy(update={"data": {"chats": Pinned(digest="1" * 64, kind="chats")}})
    content = json.loads(verdicts("refused", plan, GATES, records))
    assert content["changes"] == [
        {"step": "tuned", "reason": "options.lr changed: 1 -> <2>"},
        {"step": "1 of 2 steps", "reason": "unchanged (report)"},
    ]
    assert content["mixture"] == [
        {"step": "tuned", "tokens": 900, "shares": {"other": 1.0}, "words": "chats from data.chats"}
    ]
    tuned, report = content["lineage"]
    assert (tuned["made_from"], tuned["candidate"], tuned["machine"]) == (["data.chats"], True, "gpu")
    assert (tuned["device_seconds"], tuned["cost"], tuned["digest"]) == (7200, 6.0, "abc" * 20)
    assert (report["made_from"], report["candidate"], report["cached"]) == (["tuned"], False, True)
    assert content["cost"]["cost"] == pytest.approx(6 + 30 / 36000)
    assert (content["cost"]["device_seconds"], content["cost"]["currency"]) == (7230, "EUR")
    assert content["latency_ms"] == {"candidate": 3.214}
    text = words(with_verdict(page, "refused", "h", GATES, plan, records))
    for told in ("chats from data.chats, 900 tokens", "data.chats loss <2>", "All steps 2.01 h 6.001"):
        assert told in text, told  # the page says the same


def test_a_page_without_the_marks_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("<main><!-- verdict --></main>")
    with pytest.raises(PerennialError, match="<!-- gates -->"):
        with_verdict(path, "refused", "h", [], PLAN, RECORDS)
