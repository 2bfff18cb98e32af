"""The part of a recipe that evaluates, about another model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tasks.recipe.catalogue import Catalogue
from tasks.recipe.check import check
from tasks.recipe.failures import ConfigInvalid
from tasks.recipe.models import Recipe
from tasks.runner.evaluate import derive, recipe_path

ROOT = Path(__file__).resolve().parents[3]
MODEL = "models:/tiny/2"


def read(name: str = "tests/recipes/tiny.yaml") -> Recipe:
    recipe = check(ROOT / name, Catalogue.load()).recipe
    assert recipe is not None
    return recipe


def test_the_version_takes_the_candidates_place_and_nothing_is_trained() -> None:
    found = derive(read(), None, MODEL)
    assert list(found.recipe["steps"]) == ["report"]
    inputs = found.recipe["steps"]["report"]["inputs"]
    assert inputs["model"] == MODEL
    assert inputs["champion"] == "champion"
    assert "baseline" not in inputs
    assert inputs["documents"] == ["data.news_heldout", "data.general_heldout"]
    assert found.left_out[0] == "report.baseline: base (made by training)"
    assert "report.logs: aligned.log (made by training)" in found.left_out
    assert set(found.recipe["data"]) == {
        *("news_heldout", "general_heldout", "exams_news", "exams_general"),
    }


def test_what_is_left_is_a_recipe_that_is_right() -> None:
    found = derive(read(), None, MODEL, "models:/tiny/1")
    assert found.recipe["steps"]["report"]["inputs"]["baseline"] == "models:/tiny/1"
    assert not any("baseline" in each for each in found.left_out)
    checked = check(json.dumps(found.recipe, indent=1) + "\n", Catalogue.load())
    assert checked.problems == []


def test_probes_of_the_candidate_are_kept_and_those_of_other_trainings_are_not() -> None:
    found = derive(read("tests/recipes/evidence.yaml"), None, MODEL)
    kept = found.recipe["steps"]
    probes = kept["report"]["inputs"].get("probes", [])
    assert set(kept) >= {"report", *(each.partition(".")[0] for each in probes)}
    stages = {step["stage"] for step in kept.values()}
    assert not stages & {"pretrain", "sft", "align", "distill", "merge"}
    texts = json.dumps(kept)
    assert texts.count(MODEL) >= 1 + len(probes)
    assert check(json.dumps(found.recipe, indent=1) + "\n", Catalogue.load()).problems == []


def test_an_unknown_suite_is_refused_with_a_remedy() -> None:
    with pytest.raises(ConfigInvalid, match=r"no suite 'reprot'.*did you mean 'report'\?"):
        derive(read(), "reprot", MODEL)


def test_a_recipe_is_named_by_file_or_by_name() -> None:
    assert recipe_path("pydocs") == "recipes/pydocs.yaml"
    assert recipe_path("somewhere/else.yaml") == "somewhere/else.yaml"
