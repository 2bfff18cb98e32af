"""What a gate's confidence means, on simulated results per item through the bootstrap and the gates.

A candidate that is better by chance alone passes no more often than the stated error; one that is worse where
it must not be is stopped; a real small gain passes where there are items enough, and where there are not the
gate says how many there should be.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy
import pytest
from scipy import stats

from tasks.evaluate.measure import Array
from tasks.recipe.gate_sets.expand import Evidence, expanded
from tasks.recipe.models import Gate, Release
from tasks.release.gates import GateResult, failure, judge, stopped
from tasks.release.records import Report
from tests.claims.simulated import changed, curves, documents, flips, questions, report

TRIALS = 300
ERROR = 0.05
LARGEST = ERROR + 2.33 * (ERROR * (1 - ERROR) / TRIALS) ** 0.5
"""A true rate of 5 % shows more than this in one of a hundred such tests."""

EVIDENCE = Evidence(
    {"news": ("bits_per_byte",), "exams": ("accuracy",), "general": ("accuracy",)}, ["baseline"]
)


def update(**more: Any) -> list[Gate]:
    """The gates of the shipped set `update`, as a recipe of a few lines has them."""
    sets = {"update": {"new": ["news"], "old": ["general"], **more}}
    return expanded(Release.model_validate({"candidate": "m", "report": "r", "gate_sets": sets}), EVIDENCE)


def verdicts(gates: Sequence[Gate], sets: Sequence[Mapping[str, Any]], **more: Any) -> list[GateResult]:
    return judge(gates, Report.model_validate(report(sets)), **more)


def one(rule: Mapping[str, Any], entry: Mapping[str, Any]) -> GateResult:
    """One gate with a confidence, alone."""
    fields = {"gate": "g", "measure": f"{entry['name']}.{entry['measure']}", "against": "baseline"}
    gate = Gate.model_validate({**fields, "confidence": 1 - ERROR, "reason": "r", **rule})
    (result,) = verdicts([gate], [entry])
    return result


def test_better_on_the_news_and_worse_on_the_general_set_is_stopped_with_both_figures() -> None:
    generator = numpy.random.default_rng(0)
    sets = [
        documents("news", generator, items=60, change=-0.2),
        questions("general", generator, items=400, gained=0.02, lost=0.14),
    ]
    learned, kept = results = verdicts(update(), sets)
    assert learned.verdict == "passed"
    assert kept.verdict == "failed"
    assert stopped(results) == [kept]
    message = str(failure("m", results))
    for result in results:
        assert result.value is not None
        assert result.text in message
    assert re.search(r"update-old-general: FAILED: general.accuracy is -\d+\.\d points \(", message)
    assert re.search(r"update-new-news: passed: news.bits_per_byte is -\d+\.\d% \(", message)


@pytest.mark.parametrize(
    ("items", "changed"),
    [
        pytest.param(40, 0.3, id="few"),
        pytest.param(200, 0.1, id="alike", marks=pytest.mark.slow),
        pytest.param(200, 0.5, id="different", marks=pytest.mark.slow),
    ],
)
def test_better_by_chance_alone_passes_no_more_often_than_stated(items: int, changed: float) -> None:
    generator = numpy.random.default_rng(items)
    results = [
        one({"better_by": 0.0}, questions("exams", generator, items, gained=changed / 2, lost=changed / 2))
        for _ in range(TRIALS)
    ]
    assert sum(result.passed for result in results) / TRIALS <= LARGEST
    # The figure alone, without its interval, lets almost every second one through.
    assert sum((result.value or 0) > 0 for result in results) / TRIALS > 0.3


@pytest.mark.slow
def test_a_release_that_is_better_by_chance_alone_passes_update_no_more_often_than_stated() -> None:
    """The whole shipped set, for candidates that learnt nothing and lost nothing."""
    generator = numpy.random.default_rng(9)
    gates = update(margins={"general": 0.2})
    released = better = 0
    for _ in range(TRIALS):
        news = documents("news", generator, 60, change=0.0)
        general = questions("general", generator, 100, gained=0.05, lost=0.05)
        results = verdicts(gates, [news, general])
        released += not stopped(results)
        better += news["against"]["baseline"]["difference"] < 0
    assert released / TRIALS <= LARGEST
    assert better / TRIALS > 0.4, "the figure alone releases about every second of them"


@pytest.mark.parametrize("items", [30, pytest.param(150, marks=pytest.mark.slow)])
def test_chance_alone_in_bits_per_byte(items: int) -> None:
    generator = numpy.random.default_rng(items)
    rule = {"better_by": 0.0, "change": "relative"}
    passed = [one(rule, documents("news", generator, items, change=0.0)).passed for _ in range(TRIALS)]
    assert sum(passed) / TRIALS <= LARGEST


@pytest.mark.slow
def test_a_loss_as_large_as_the_margin_passes_no_more_often_than_stated() -> None:
    generator = numpy.random.default_rng(3)
    rule = {"worse_by": 0.04}
    results = [one(rule, questions("general", generator, 300, gained=0.04, lost=0.08)) for _ in range(TRIALS)]
    assert sum(result.passed for result in results) / TRIALS <= LARGEST
    # And what loses nothing is seldom called a failure: the other side of the same confidence.
    fine = [one(rule, questions("general", generator, 300, gained=0.06, lost=0.06)) for _ in range(TRIALS)]
    assert sum(result.verdict == "failed" for result in fine) / TRIALS <= LARGEST


@pytest.mark.slow
def test_many_gates_together_err_no_more_often_than_stated() -> None:
    """Where nothing was learnt the correction bounds the chance that any set is called a gain."""
    names = [f"exams_{number}" for number in range(6)]
    evidence = Evidence({name: ("accuracy",) for name in names}, ["baseline"])
    sets = {"update": {"new": names[:5], "old": names[5:], "margins": {names[5]: 0.05}}}
    release = Release.model_validate({"candidate": "m", "report": "r", "gate_sets": sets})
    gates = [gate for gate in expanded(release, evidence) if gate.better_by is not None]
    generator = numpy.random.default_rng(4)
    corrected, alone = 0, 0
    for _ in range(TRIALS):
        found = [questions(name, generator, 150, gained=0.1, lost=0.1) for name in names]
        corrected += any(result.passed for result in verdicts(gates, found))
        alone += any(result.passed for result in verdicts(gates, found, correction="none"))
    assert corrected / TRIALS <= LARGEST
    assert alone / TRIALS > 0.12, "without the correction about one in five is called a gain somewhere"


@pytest.mark.slow
def test_a_false_release_needs_no_correction() -> None:
    """All gates must pass, so the error of a release is that of one of them (intersection-union)."""
    generator = numpy.random.default_rng(5)
    released = 0
    for _ in range(TRIALS):
        found = [
            documents("news", generator, 60, change=-0.2),
            questions("general", generator, 300, gained=0.04, lost=0.08),
        ]
        released += not stopped(verdicts(update(margins={"general": 0.04}), found, correction="none"))
    assert released / TRIALS <= LARGEST


@pytest.mark.slow
def test_a_real_small_gain_with_enough_items_passes() -> None:
    generator = numpy.random.default_rng(6)
    gain = {"gained": 0.10, "lost": 0.07}
    passed = [one({"better_by": 0.0}, questions("exams", generator, 2000, **gain)).passed for _ in range(20)]
    assert sum(passed) >= 16


def test_too_few_items_are_undecided_and_the_number_told_is_enough() -> None:
    generator = numpy.random.default_rng(7)
    gain = {"gained": 0.10, "lost": 0.07}
    results = [one({"better_by": 0.0}, questions("exams", generator, 120, **gain)) for _ in range(40)]
    undecided = [result for result in results if result.verdict == "undecided"]
    assert len(undecided) >= 25
    assert stopped(undecided) == undecided
    told = [result for result in undecided if result.value == pytest.approx(0.03, abs=0.011)]
    assert told, "some of them show about the true gain"
    for result in told:
        assert result.needed is not None
        assert f"it takes about {result.needed:,}" in result.text
    needed = int(numpy.median([result.needed for result in told if result.needed is not None]))
    assert 600 < needed < 3000
    again = [one({"better_by": 0.0}, questions("exams", generator, needed, **gain)).passed for _ in range(20)]
    assert sum(again) >= 12, "the number told decides about four times in five"


def test_a_set_shows_differences_of_the_size_it_says() -> None:
    """The smallest detectable difference is found in about four of five trials."""
    generator = numpy.random.default_rng(8)
    least = one({"better_by": 0.0}, questions("exams", generator, 400, gained=0.1, lost=0.1)).detectable
    assert least is not None
    found = [
        one(
            {"better_by": 0.0},
            questions("exams", generator, 400, gained=0.1 + least / 2, lost=0.1 - least / 2),
        )
        for _ in range(100)
    ]
    assert 0.65 <= sum(result.passed for result in found) / 100 <= 0.92


def test_no_flip_among_few_items_is_no_proof() -> None:
    """Right in production and wrong now: none of 20 does not mean fewer than 5 %."""
    rule = {"at_most": 0.05}
    assert one(rule, flips("exams", numpy.zeros(20))).verdict == "undecided"
    assert one(rule, flips("exams", numpy.zeros(400))).verdict == "passed"


@pytest.mark.parametrize(("items", "limit"), [(20, 0.15), (60, 0.05), (100, 0.05), (300, 0.02), (400, 0.05)])
def test_flips_at_the_limit_pass_no_more_often_than_stated(items: int, limit: float) -> None:
    """Every number of flips that there can be, with its chance where the limit is just reached in truth."""
    chance = 0.0
    for count in range(int(items * limit) + 1):
        lost: Array = numpy.repeat([1.0, 0.0], [count, items - count])
        if one({"at_most": limit}, flips("exams", lost)).passed:
            chance += float(stats.binom.pmf(count, items, limit))
    assert chance <= ERROR


@pytest.mark.parametrize("gain", [0.0, 0.01])
@pytest.mark.parametrize(
    ("items", "margin"), [(30, 0.15), (60, 0.04), pytest.param(120, 0.08, marks=pytest.mark.slow)]
)
def test_a_loss_at_the_margin_by_every_outcome(items: int, margin: float, gain: float) -> None:
    """Every number of answers gained and lost, with its chance where the loss is just the margin in truth.

    Losses alone are the hardest: resamples of few of them have too short a tail.
    """
    chance = 0.0
    for lost in range(items + 1):
        for gained in range(items + 1 - lost):
            happens = stats.binom.pmf(lost, items, margin + gain)
            happens *= stats.binom.pmf(gained, items - lost, gain / (1 - margin - gain))
            if happens > 1e-5 and one({"worse_by": margin}, changed("general", items, gained, lost)).passed:
                chance += float(happens)
    assert chance <= 1.1 * ERROR


@pytest.mark.parametrize(("items", "lost", "part"), [(30, 0.04, 1.0), (60, 0.08, 0.5), (150, 0.04, 1.0)])
def test_a_loss_of_few_shot_ability_at_the_margin(items: int, lost: float, part: float) -> None:
    """Items that count in part have the bootstrap alone to go by, where hardly one of them changed."""
    generator = numpy.random.default_rng(items)
    rule = {"worse_by": 0.04}
    passed = [one(rule, curves("exams", generator, items, lost, part)).passed for _ in range(TRIALS)]
    assert sum(passed) / TRIALS <= LARGEST


def test_nothing_changed_among_few_items_is_no_proof_in_percent_either() -> None:
    rule = {"worse_by": 0.02, "change": "relative"}
    entry = questions("general", numpy.random.default_rng(1), 10, gained=0.0, lost=0.0)
    assert one(rule, entry).verdict == "undecided"
