"""Recipes in order become DAGs; the others are reported whole, without taking these down."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from airflow.dag_processing.dagbag import DagBag
from shared.recipes import read

from tasks import cli
from tasks.recipe.failures import Failure

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "recipes" / "pydocs.yaml", tmp_path / "good.yaml")
    text = (tmp_path / "good.yaml").read_text()
    (tmp_path / "wrong.yaml").write_text(
        text.replace("recipe: pydocs", "recipe: wrong").replace("stage: sft", "stage: sftt")
    )
    return tmp_path


def test_a_wrong_recipe_does_not_take_the_others_down(folder: Path) -> None:
    found = read(folder)
    assert [each.recipe.recipe for each in found.good] == ["pydocs"]
    assert [path.name for path in found.problems] == ["wrong.yaml"]
    assert "did you mean 'sft'?" in found.problems[folder / "wrong.yaml"]


def test_two_files_cannot_name_one_recipe(folder: Path) -> None:
    shutil.copy(folder / "good.yaml", folder / "twin.yaml")
    found = read(folder)
    assert [each.path.name for each in found.good] == ["good.yaml"]
    assert "'pydocs' is the name of good.yaml already" in found.problems[folder / "twin.yaml"]


def test_airflow_shows_the_problems_as_an_import_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERENNIAL_RECIPES", str(folder))
    bag = DagBag(str(ROOT / "dags"))
    assert "train__pydocs" in bag.dags
    assert "train__wrong" not in bag.dags
    assert [Path(file).name for file in bag.import_errors] == ["broken_recipes.py"]
    (text,) = bag.import_errors.values()
    assert "wrong.yaml" in text
    assert "did you mean 'sft'?" in text
    wrong = folder / "wrong.yaml"
    assert cli.main(["check", str(wrong)]) == Failure.CONFIG_INVALID
    wrong.write_text(wrong.read_text().replace("stage: sftt", "stage: sft"))  # the remedy
    assert cli.main(["check", str(wrong)]) == 0
    bag = DagBag(str(ROOT / "dags"))
    assert {"train__pydocs", "train__wrong"} <= set(bag.dags)
    assert bag.import_errors == {}


def test_a_step_of_a_size_that_there_is_not_is_a_problem_of_its_recipe(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before a run, a plan or a pod; and the other recipes keep their DAGs."""
    monkeypatch.setenv("PERENNIAL_RECIPES", str(folder))
    monkeypatch.setenv("PERENNIAL_RUNTIME", "cpu=process,gpu=process")
    text = (folder / "good.yaml").read_text()
    (folder / "wrong.yaml").write_text(
        text.replace("recipe: pydocs", "recipe: huge").replace(
            "stage: sft", "resources: large\n    stage: sft"
        )
    )
    found = read(folder)
    assert [each.recipe.recipe for each in found.good] == ["pydocs"]
    problem = found.problems[folder / "wrong.yaml"]
    assert "resources: PERENNIAL_RUNTIME (cpu=process,gpu=process) names no runtime for steps of" in problem
    assert "use another size (cpu, gpu)" in problem
    bag = DagBag(str(ROOT / "dags"))
    assert "train__pydocs" in bag.dags
    assert [Path(file).name for file in bag.import_errors] == ["broken_recipes.py"]
