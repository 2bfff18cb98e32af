"""The trigger form: typed fields from the recipe, and what was filled in as arguments of `perennial plan`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from shared.form import arguments, form
from shared.recipes import Found

from tasks.recipe.failures import ConfigInvalid
from tasks.recipe.models import Recipe

LR = {"type": "number", "exclusiveMinimum": 0, "title": "adapted: lr", "description": "The peak."}


@pytest.fixture
def found() -> Found:
    recipe = Recipe.model_validate(
        {
            "recipe": "small",
            "model": "small",
            "steps": {"adapted": {"stage": "pretrain"}, "merged": {"stage": "merge"}},
        }
    )
    field: dict[str, Any] = {
        "key": "adapted__lr",
        "name": "adapted.lr",
        "path": "steps.adapted.options.lr",
        "default": 1e-3,
        "schema": LR,
    }
    return Found(Path("recipes/small.yaml"), recipe, [field])


def filled(found: Found, **conf: Any) -> list[str]:
    defaults = {name: param.value for name, param in form(found).items()}
    return arguments(defaults | conf, conf, found)


def test_an_untouched_form_changes_nothing(found: Found) -> None:
    assert filled(found) == []


def test_a_field_becomes_an_override(found: Found) -> None:
    assert filled(found, adapted__lr=0.0002) == ["--set=steps.adapted.options.lr=0.0002"]


def test_a_field_filled_with_its_default_changes_nothing(found: Found) -> None:
    assert filled(found, adapted__lr=1e-3) == []


def test_the_text_may_be_nested_or_dotted(found: Found) -> None:
    nested = "steps:\n  merged:\n    options: {weight: 0.3}"
    assert filled(found, overrides=nested) == ["--set=steps.merged.options.weight=0.3"]
    assert filled(found, overrides="steps.merged.options.weight: 0.3") == [
        "--set=steps.merged.options.weight=0.3"
    ]


def test_steps_to_run_again(found: Found) -> None:
    assert filled(found, refresh=" merged, adapted ") == ["--refresh=merged", "--refresh=adapted"]


def test_p18_an_unknown_key_is_refused_with_a_remedy(found: Found) -> None:
    with pytest.raises(ConfigInvalid, match=r"'adapted__lrr'; did you mean 'adapted__lr'\?"):
        filled(found, adapted__lrr=1.0)


def test_an_unknown_step_is_refused_with_a_remedy(found: Found) -> None:
    with pytest.raises(ConfigInvalid, match=r"'merge' again; did you mean 'merged'\?"):
        filled(found, refresh="merge")


def test_one_option_cannot_be_set_twice(found: Found) -> None:
    with pytest.raises(ConfigInvalid, match=r"'steps\.adapted\.options\.lr' is set twice"):
        filled(found, adapted__lr=0.5, overrides="steps.adapted.options.lr: 0.4")


def test_a_text_that_is_no_mapping_is_refused(found: Found) -> None:
    with pytest.raises(ConfigInvalid, match="overrides"):
        filled(found, overrides="- just\n- a list")


def test_fields_carry_type_limits_and_description(found: Found) -> None:
    field = form(found)["adapted__lr"]
    assert field.value == 1e-3
    assert field.description == "The peak."
    assert field.schema["type"] == "number"
    assert field.schema["exclusiveMinimum"] == 0


def test_p18_every_field_is_a_flat_scalar_with_a_valid_default(found: Found) -> None:
    for name, field in form(found).items():
        assert field.schema["type"] in (["null", "string"], "string", "number", "integer", "boolean"), name
        field.resolve()  # a scheduled DAG with an invalid default would not load at all


def test_a_run_is_taken_up_again_from_a_step(found: Found) -> None:
    assert filled(found, from_run="manual__1", from_step="merged", overrides="seed: 3") == [
        "--set=seed=3",
        "--from-run=small-manual__1",
        "--from-step=merged",
    ]
    assert filled(found, from_run="small-manual__1", from_step="merged")[0] == "--from-run=small-manual__1"


@pytest.mark.parametrize("conf", [{"from_run": "manual__1"}, {"from_step": "merged"}])
def test_a_run_without_a_step_is_refused(found: Found, conf: dict[str, str]) -> None:
    with pytest.raises(ConfigInvalid, match="fill in both"):
        filled(found, **conf)
