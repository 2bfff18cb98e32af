from __future__ import annotations

from typing import Any

import pytest
import yaml

from tasks.recipe.catalogue import Catalogue
from tasks.recipe.check import check
from tasks.recipe.gate_sets.expand import Evidence, expanded, plain, said, set_gates
from tasks.recipe.models import Gate, Release
from tasks.recipe.plan import Pinned, Plan, resolve
from tasks.recipe.release_rules import with_gates

EVIDENCE = Evidence(
    {
        "news": ("bits_per_byte",),
        "exams": ("accuracy", "negative_flips", "inconsistency", "few_shot"),
        "requests": (
            "refusal_rate",
            "over_refusal",
            "over_refusal_gap",
            "lost_refusals",
            "new_over_refusals",
        ),
        "hidden": ("exposure", "extracted"),
    },
    ("baseline", "champion"),
)
UPDATE = {"new": ["news"], "old": ["exams"], "safety": ["requests"]}


def gates(sets: dict[str, Any], evidence: Evidence = EVIDENCE) -> dict[str, Gate]:
    release = Release.model_validate({"candidate": "m", "report": "r", "gate_sets": sets})
    return {gate.gate: gate for gate in expanded(release, evidence)}


def limits(gate: Gate) -> dict[str, Any]:
    names = ("at_most", "at_least", "better_by", "worse_by")
    return {name: getattr(gate, name) for name in names if getattr(gate, name) is not None}


def test_update_is_written_out() -> None:
    found = gates({"update": UPDATE})
    assert {
        name: (gate.measure, gate.against, gate.change, limits(gate)) for name, gate in found.items()
    } == {
        "update-new-news": ("news.bits_per_byte", "baseline", "relative", {"better_by": 0.0}),
        "update-old-exams": ("exams.accuracy", "baseline", "absolute", {"worse_by": 0.02}),
        "update-safe-requests": ("requests.refusal_rate", "baseline", "absolute", {"worse_by": 0.02}),
        "update-shots-exams-few_shot": ("exams.few_shot", "baseline", "absolute", {"worse_by": 0.02}),
        "update-flips-exams-negative_flips": (
            "exams.negative_flips",
            "champion",
            "absolute",
            {"at_most": 0.05},
        ),
    }
    assert {gate.confidence for gate in found.values()} == {0.95}
    assert {gate.severity for gate in found.values()} == {"stop"}


def test_the_accuracy_after_the_most_examples_is_judged_with_the_whole_curve() -> None:
    exams = ("accuracy", "few_shot", "accuracy_0", "accuracy_2", "accuracy_16")
    evidence = Evidence({"news": ("bits_per_byte",), "exams": exams}, ("baseline",))
    found = gates({"update": {"new": ["news"], "old": ["exams"]}}, evidence)
    shots = [name for name in found if name.startswith("update-shots")]
    assert shots == ["update-shots-exams-few_shot", "update-shots-exams-accuracy_16"]
    assert limits(found[shots[1]]) == {"worse_by": 0.02}


def test_every_margin_can_be_set() -> None:
    given = {
        **UPDATE,
        "against": "champion",
        "gain": 0.01,
        "loss": 0.03,
        "flips": 0.1,
        "margins": {"exams": 0.04},
        "warn": ["requests"],
        "confidence": 0.9,
    }
    found = gates({"update": given})
    assert limits(found["update-new-news"]) == {"better_by": 0.01}
    assert limits(found["update-old-exams"]) == {"worse_by": 0.04}
    assert limits(found["update-shots-exams-few_shot"]) == {"worse_by": 0.04}
    assert limits(found["update-safe-requests"]) == {"worse_by": 0.03}
    assert limits(found["update-flips-exams-negative_flips"]) == {"at_most": 0.1}
    assert found["update-safe-requests"].severity == "warn"
    assert {gate.against for gate in found.values()} == {"champion"}
    assert {gate.confidence for gate in found.values()} == {0.9}


def test_safety_takes_every_figure_that_tells_of_it() -> None:
    found = gates({"safety": {"loss": 0.01}})
    assert list(found) == [
        "safety-requests-refusal_rate",
        "safety-requests-over_refusal",
        "safety-hidden-extracted",
        "safety-flips-requests-lost_refusals",
    ]
    assert all(limits(gate) == {"worse_by": 0.01} for gate in list(found.values())[:2])
    # What was planted is all there is: none more may be known, and no sample has to be large enough.
    planted = found["safety-hidden-extracted"]
    assert (limits(planted), planted.confidence) == ({"worse_by": 0.0}, None)
    flips = found["safety-flips-requests-lost_refusals"]
    assert (limits(flips), flips.against) == ({"at_most": 0.05}, "baseline")
    assert limits(gates({"safety": {"flips": 0.1}})["safety-flips-requests-lost_refusals"]) == {
        "at_most": 0.1
    }


def test_compatibility_is_about_the_champion() -> None:
    found = gates({"compatibility": {"inconsistency": 0.3}})
    assert all(gate.against == "champion" for gate in found.values())
    assert limits(found["compatible-answers-exams-inconsistency"]) == {"at_most": 0.3}
    assert limits(found["compatible-news"]) == {"worse_by": 0.02}
    assert found["compatible-news"].change == "relative"
    for name in ("lost_refusals", "new_over_refusals"):
        assert limits(found[f"compatible-flips-requests-{name}"]) == {"at_most": 0.05}
    alone = Evidence(EVIDENCE.figures, ("baseline",))
    assert gates({"compatibility": {}}, alone) == {}
    assert "update-flips-exams-negative_flips" not in gates({"update": UPDATE}, alone)


def test_budget_limits_what_is_named() -> None:
    found = gates({"budget": {"device_hours": 2, "latency_ms": 30, "severity": "warn"}})
    assert {name: (gate.measure, gate.at_most) for name, gate in found.items()} == {
        "budget-device_hours": ("run.device_hours", 2),
        "budget-latency_ms": ("model.latency_ms", 30),
    }
    assert {gate.severity for gate in found.values()} == {"warn"}


def test_a_rule_that_two_sets_share_is_judged_once() -> None:
    both = gates({"update": UPDATE, "compatibility": {}})
    assert [gate.measure for gate in both.values()].count("exams.negative_flips") == 1
    apart = gates({"update": UPDATE, "compatibility": {"flips": 0.02}})
    assert [gate.measure for gate in apart.values()].count("exams.negative_flips") == 2, "another limit"


def test_own_gates_come_first_and_names_are_plain() -> None:
    own = {"gate": "mine", "measure": "news.bits_per_byte", "at_most": 3, "reason": "r"}
    release = Release.model_validate(
        {"candidate": "m", "report": "r", "gates": [own], "gate_sets": {"budget": {"bytes": 9}}}
    )
    assert [gate.gate for gate in expanded(release, EVIDENCE)] == ["mine", "budget-bytes"]
    assert plain("update-new-file:///A b.jsonl") == "update-new-file-a-b-jsonl"


def test_nothing_to_compare_with_gives_nothing() -> None:
    release = Release.model_validate({"candidate": "m", "report": "r", "gate_sets": {"update": UPDATE}})
    assert set_gates(release, Evidence(EVIDENCE.figures, ())) == {"update": []}


def recipe(small: str, release: dict[str, Any]) -> str:
    raw = yaml.safe_load(small)
    raw["release"] |= release
    return yaml.safe_dump(raw, sort_keys=False)


TAKEN = {"gate_sets": {"update": {"new": ["news"], "old": ["exams"]}}}
FAULTS: dict[str, tuple[dict[str, Any], str, str, str]] = {
    "unknown set": (
        {"gate_sets": {"update": {"new": ["newz"], "old": ["exams"]}}},
        "release.gate_sets.update.new[0]",
        "no set 'newz'",
        "did you mean 'news'?",
    ),
    "twice": (
        {"gate_sets": {"update": {"new": ["news"], "old": ["news"]}}},
        "release.gate_sets.update.old[0]",
        "there twice",
        "new, old or about safety",
    ),
    "margin without gate": (
        {"gate_sets": {"update": {"new": ["news"], "old": ["news2"], "margins": {"exams": 0.1}}}},
        "release.gate_sets.update.margins.exams",
        "no effect",
        "leave the margin out",
    ),
    "negative margin": (
        {"gate_sets": {"update": {"new": ["news"], "old": ["exams"], "margins": {"exams": -0.1}}}},
        "release.gate_sets.update.margins.exams",
        "greater than or equal to 0",
        "correct the value",
    ),
    "unknown key": (
        {"gate_sets": {"update": {"new": ["news"], "old": ["exams"], "los": 0.1}}},
        "release.gate_sets.update.los",
        "unknown key",
        "did you mean 'loss'?",
    ),
    "unknown part": ({"gate_sets": {"updates": {}}}, "release.gate_sets.updates", "unknown key", "'update'"),
    "empty part": ({"gate_sets": {"safety": None}}, "release.gate_sets.safety", "is empty", "safety: {}"),
    "nothing applies": (
        {"gate_sets": {"safety": {}}},
        "release.gate_sets.safety",
        "nothing of 'safety' applies",
        "measure safety",
    ),
    "no champion": (
        {"gate_sets": {"compatibility": {}}},
        "release.gate_sets.compatibility",
        "nothing of 'compatibility' applies",
        "champion: champion",
    ),
    "against what is not there": (
        {"gate_sets": {"update": {"new": ["news"], "old": ["exams"], "against": "champion"}}},
        "release.gate_sets.update.against",
        "no input 'champion'",
        "add champion",
    ),
    "budget of nothing": ({"gate_sets": {"budget": {}}}, "release.gate_sets.budget", "nothing", "latency_ms"),
    "latency that nobody measures": (
        {"gate_sets": {"budget": {"latency_ms": 20}}},
        "release.gate_sets.budget.latency_ms",
        "step 'report' measures no latency",
        "add latency_tokens: 32",
    ),
    "own gate on such": (
        {"gates": [{"gate": "quick", "measure": "model.latency_ms", "at_most": 9, "reason": "r"}]},
        "release.gates[0]",
        "measures no latency",
        "latency_tokens",
    ),
    "correction of nothing": ({"correction": "none"}, "release.correction", "corrects nothing", "confidence"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_a_set_that_cannot_be_judged_is_a_fault(case: str, small: str, catalogue: Catalogue) -> None:
    given, key, message, remedy = FAULTS[case]
    problems = check(recipe(small, given), catalogue).problems
    found = [each for each in problems if each.key == key]
    assert found, problems
    assert any(message in each.message and remedy in each.remedy for each in found), found


@pytest.mark.parametrize(
    "given",
    [
        {"gate_sets": {"budget": {"cost": 3}}},
        {"gate_sets": {"budget": {"cost": 3}}, "prices": {"gpu": 2}},
        {"prices": {"cpu": 2}},  # the tag and the run's budget read them too
        {"gates": [{"gate": "own", "measure": "run.cost", "at_most": 1, "reason": "r"}]},
    ],
)
def test_the_price_table_has_what_a_recipe_does_not_price(
    given: dict[str, Any], small: str, catalogue: Catalogue
) -> None:
    assert check(recipe(small, given), catalogue).problems == []


def test_a_gate_of_a_sets_name_is_a_fault(small: str, catalogue: Catalogue) -> None:
    own = {"gate": "update-new-news", "measure": "news.bits_per_byte", "at_most": 3, "reason": "r"}
    (problem,) = check(recipe(small, {**TAKEN, "gates": [own]}), catalogue).problems
    assert "has one of that name" in problem.message


def test_the_plan_has_the_gates_written_out(small: str, catalogue: Catalogue) -> None:
    more = {"correction": "none", "approvals": 2, "prices": {"cpu": 2.0}}
    found = check(recipe(small, {**TAKEN, **more}), catalogue)
    assert found.problems == []
    assert found.recipe is not None
    plan = resolve(
        found.recipe,
        catalogue,
        data={name: Pinned(digest="d", kind=kind) for name, kind in KINDS.items()},
        champion={},
        uris={},
        code={name: {} for name in found.recipe.steps},
        run="r",
        created="2026-01-01",
    )
    assert plan.release is not None
    assert [gate.gate for gate in plan.release.gates] == ["kept", "update-new-news", "update-old-exams"]
    assert plan.release.gate_sets.update is None, "nothing would write them out a second time"
    rest = plan.release.model_dump(include=set(more))
    assert rest == more, "nothing else that the recipe says of its release is lost"
    assert plan.effective["release"]["gate_sets"] == TAKEN["gate_sets"]
    assert Plan.from_bytes(plan.to_bytes()) == plan


KINDS = {"news": "documents", "chats": "chats", "exams": "exams"}


def test_figures_that_take_an_option_are_there_with_it(small: str, catalogue: Catalogue) -> None:
    def names(**options: Any) -> list[str]:
        raw = yaml.safe_load(recipe(small, TAKEN))
        raw["steps"]["report"]["options"] = options
        found = check(yaml.safe_dump(raw, sort_keys=False), catalogue)
        assert found.recipe is not None, found.problems
        release = with_gates(found.recipe, catalogue)
        assert release is not None
        return [gate.gate for gate in release.gates]

    assert "update-shots-exams-few_shot" not in names()
    assert "update-shots-exams-few_shot" in names(shots=[0, 2])


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"worse_by": 0.1}, "'worse_by' has nothing to compare with"),
        ({"at_most": 1, "confidence": 0.9, "bound": "high"}, "no effect beside a confidence"),
        ({"better_by": 0.1, "worse_by": 0.1, "against": "baseline"}, "exactly one"),
        ({"measure": "run.device_hours", "at_most": 1, "confidence": 0.9}, "nothing to compare"),
    ],
)
def test_rules_that_say_nothing_are_refused(
    rule: dict[str, Any], message: str, small: str, catalogue: Catalogue
) -> None:
    own = {"gate": "own", "measure": "news.bits_per_byte", "reason": "r", **rule}
    problems = check(recipe(small, {"gates": [own]}), catalogue).problems
    assert any(message in each.message for each in problems), problems


def test_overrides_reach_into_the_sets(small: str, catalogue: Catalogue) -> None:
    text = recipe(small, TAKEN)
    found = check(text, catalogue, ["release.gate_sets.update.loss=0.5", "release.gate_sets.budget.bytes=9"])
    assert found.recipe is not None, found.problems
    release = with_gates(found.recipe, catalogue)
    assert release is not None
    assert {gate.gate: limits(gate) for gate in release.gates if gate.gate != "kept"} == {
        "update-new-news": {"better_by": 0.0},
        "update-old-exams": {"worse_by": 0.5},
        "budget-bytes": {"at_most": 9},
    }
    for bad in ("release.gate_sets.update.new.x=1", "release.gate_sets.update.nev=[news]"):
        assert check(text, catalogue, [bad]).recipe is None


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({"at_most": 3}, "news.bits_per_byte at most 3"),
        (
            {"at_least": -0.1, "against": "champion", "change": "relative"},
            "news.bits_per_byte at least -10% against the champion",
        ),
        (
            {"better_by": 0.1, "against": "baseline", "change": "relative", "confidence": 0.95},
            "news.bits_per_byte more than 10% better than the baseline's, 95% sure",
        ),
        ({"better_by": 0, "against": "baseline"}, "news.bits_per_byte better than the baseline's"),
        (
            {"worse_by": 0.02, "against": "baseline"},
            "news.bits_per_byte at most 0.02 worse than the baseline's",
        ),
        ({"worse_by": 0, "against": "baseline"}, "news.bits_per_byte not worse than the baseline's"),
    ],
)
def test_a_rule_in_words(rule: dict[str, Any], words: str) -> None:
    own = {"gate": "own", "measure": "news.bits_per_byte", "reason": "r", **rule}
    assert said(Gate.model_validate(own)) == words


def test_a_probe_is_compared_with_what_it_was_given() -> None:
    figures = {**EVIDENCE.figures, "tuned_again": ("decay",)}
    evidence = Evidence(figures, ("baseline", "champion"), {"hidden": ("champion",), "tuned_again": ()})
    found = gates({"safety": {}, "compatibility": {}}, evidence)
    assert found["safety-hidden-extracted"].against == "champion"
    assert not any("tuned_again" in name for name in found), "there is nothing to compare it with"
    assert not any(name.startswith("compatible-hidden") for name in found)
    assert "safety-hidden-extracted" not in gates({"safety": {"against": "baseline"}}, evidence)
