"""docs/writing-a-recipe.md shows a recipe that is right and messages that are real."""

import re
from pathlib import Path

import pytest

from tasks.recipe.catalogue import Catalogue
from tasks.recipe.check import check, format_problems
from tests.unit.recipe.conftest import ROOT

GUIDE = (ROOT / "docs" / "writing-a-recipe.md").read_text(encoding="utf-8")

SLIPS = (
    ("replay: 0.25", "replay: 1.5"),
    ("inputs: {model: adapted, data: checked}", "inputs: {model: adaptd, data: checked.notes}"),
    ("method: slerp", "method: slrp"),
    ("approval: human", "aproval: human"),
    ("notes_heldout.bits_per_byte", "notes.bits_per_byte"),
    ("[adapted.lr,", "[adapted.lrr,"),
)
"""The slips that the guide names."""


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", GUIDE, re.DOTALL)
    assert found is not None
    return found.group(1)


@pytest.fixture(scope="module")
def shipped() -> Catalogue:
    return Catalogue.load()


def test_the_recipe_of_the_guide_is_right(shipped):
    assert format_problems(check(block("yaml"), shipped).problems) == ""


def test_the_messages_of_the_guide_are_real(shipped, tmp_path: Path, monkeypatch):
    text = block("yaml")
    for right, wrong in SLIPS:
        assert right in text
        text = text.replace(right, wrong)
    monkeypatch.chdir(tmp_path)
    Path("recipes").mkdir()
    Path("recipes/notes.yaml").write_text(text, encoding="utf-8")
    problems = format_problems(check("recipes/notes.yaml", shipped).problems)
    assert f"$ perennial check recipes/notes.yaml\n{problems}\n" == block("console")


def test_the_shipped_recipe_is_right(shipped):
    assert format_problems(check(ROOT / "recipes" / "pydocs.yaml", shipped).problems) == ""
