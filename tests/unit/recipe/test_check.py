from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.recipe.catalogue import Catalogue
from tasks.recipe.check import check, format_problems
from tasks.recipe.models import DataKind
from tasks.stage import KINDS
from tests.unit.recipe.conftest import RAW, ROOT, SMALL
from tests.unit.recipe.wrong_recipes import WRONG

CATALOGUE = Catalogue.model_validate(RAW)


def changed(*replacements: tuple[str, str]) -> str:
    text = SMALL
    for old, new in replacements:
        assert old in text
        text = text.replace(old, new)
    return text


def test_a_right_recipe(small, catalogue):
    checked = check(small, catalogue)
    assert checked.problems == []
    assert checked.recipe is not None
    assert list(checked.recipe.steps) == ["blank", "shards", "base", "tuned", "report"]
    assert checked.recipe.steps["tuned"].options == {"lr": 2e-4}


@pytest.mark.parametrize(
    "path", ["recipes/pydocs.yaml", "tests/recipes/tiny.yaml", "tests/recipes/evidence.yaml"]
)
def test_the_shipped_recipes_are_right(path):
    assert format_problems(check(ROOT / path, Catalogue.load()).problems) == ""


def test_data_kinds_are_kinds():
    assert set(get_args(DataKind)) <= set(KINDS)


@pytest.mark.parametrize("name", WRONG)
def test_each_error_is_named_with_key_line_and_remedy(name):
    (old, new), key, message, remedy = WRONG[name]
    text = changed((old, new))
    problems = check(text, CATALOGUE).problems
    found = [each for each in problems if each.key == key]
    assert found, format_problems(problems)
    assert message in found[0].message
    assert remedy in found[0].remedy
    # The line holds the last word of the key, or what the key is missing from.
    word = key.split(".")[-1].split("[")[0]
    near = "\n".join(text.splitlines()[found[0].line - 1 :][:3])
    assert word in near or found[0].message.startswith(("is missing", "input", "needs", "the steps")), near


def test_a_wrong_recipe_is_not_given_out(catalogue):
    assert check(changed(("model: small", "modell: small")), catalogue).recipe is None


def test_all_problems_at_once(catalogue):
    text = changed(
        ("recipe: small", "recipe: small\nrecipes: 1"),
        ("lr: 2e-4", "lr: 2"),
        ("stage: prepare", "stage: prepar"),
        ("model: blank, data: shards", "model: tuned, data: shards"),
        ("news.bits_per_byte", "new.bits_per_byte"),
    )
    assert {each.key for each in check(text, catalogue).problems} == {
        "recipes",
        "steps.tuned.options.lr",
        "steps.shards.stage",
        "steps.base.inputs",
        "release.gates[0].measure",
    }


def test_a_broken_part_makes_no_further_problems(catalogue):
    text = changed(("{stage: prepare,", "{stage: 5,"), ('"pydocs://chats"', "7"))
    assert {each.key for each in check(text, catalogue).problems} == {"steps.shards.stage", "data.chats.uri"}


def test_format():
    text = changed(("lr: 2e-4", "lr: 2"))
    assert format_problems(check(text, CATALOGUE).problems) == (
        "<recipe>:14:15: steps.tuned.options.lr: 2 is not a number above 0, at most 1\n"
        "    Peak learning rate; the default is 0.0003"
    )


def test_merge_needs_two_models(catalogue):
    steps = "  merged: {{stage: merge, method: slerp, inputs: {{models: {}}}}}\n  report: {{stage"
    for written, wrong in (("[tuned]", True), ("tuned", True), ("[tuned, base]", False)):
        problems = check(changed(("  report: {stage", steps.format(written))), catalogue).problems
        assert [each.key for each in problems] == (["steps.merged.inputs.models"] if wrong else [])


def test_a_required_option(catalogue):
    steps = "  merged: {stage: merge, inputs: {models: [tuned, base]}%s}\n  report: {stage"
    (problem,) = check(changed(("  report: {stage", steps % "")), catalogue).problems
    assert problem.key == "steps.merged.options"
    assert "'weights' of merge/linear is missing" in problem.message
    assert not check(
        changed(("  report: {stage", steps % ", options: {weights: [1, 2]}")), catalogue
    ).problems


def test_a_bare_reference_to_what_is_handed_on_goes_by_kind(catalogue):
    checked_step = (
        "  checked: {stage: validate, inputs: {documents: [data.news%s], chats: data.chats}}\n  blank:"
    )
    extra = ("  chats: {uri", '  more: {uri: "pydocs://language-reference"}\n  chats: {uri')
    one = changed(
        ("  blank:", checked_step % ""), ("documents: data.news, model", "documents: checked, model")
    )
    assert check(one, catalogue).problems == []
    two = changed(
        extra,
        ("  blank:", checked_step % ", data.more"),
        ("documents: data.news, model", "documents: checked, model"),
    )
    (problem,) = check(two, catalogue).problems
    assert problem.key == "steps.shards.inputs.documents"
    assert "checked.news, checked.more" in problem.message
    named = two.replace("documents: checked, model", "documents: checked.more, model")
    assert check(named, catalogue).problems == []
    none = changed(("  blank:", checked_step % ""), ("exams: data.exams}}\n", "exams: checked}}\n"))
    (problem,) = check(none, catalogue).problems
    assert "hands on none" in problem.message


def test_names_that_are_handed_on_are_distinct(catalogue):
    twice = "  checked: {stage: validate, inputs: {documents: data.news, chats: data.chats}}\n"
    twice += "  again: {stage: validate, inputs: {documents: [checked.news, data.news]}}\n  blank:"
    (problem,) = check(changed(("  blank:", twice)), catalogue).problems
    assert problem.key == "steps.again.inputs.documents[1]"
    assert "'news'" in problem.message


def test_sets_of_a_report_are_distinct(catalogue):
    text = changed(
        ("  blank:", "  checked: {stage: validate, inputs: {documents: data.news}}\n  blank:"),
        ("documents: data.news, exams", "documents: [data.news, checked.news], exams"),
    )
    (problem,) = check(text, catalogue).problems
    assert problem.key == "steps.report.inputs.documents[1]"


def test_a_champion_without_an_alternative_is_left_to_the_plan(catalogue):
    assert check(changed(("model: base, data: d", "model: champion.old, data: d")), catalogue).problems == []


def test_an_output_of_the_champions_step_is_one_of_its_method(catalogue):
    small = ("model: blank, data: shards", "model: blank, data: shards, before: champion.base.{}")
    found = {
        output: [(each.key, each.message) for each in check(text, catalogue).problems]
        for output in ("log", "lgo", "model")
        for text in [changed((small[0], small[1].format(output)))]
    }
    assert found == {
        "log": [],
        "lgo": [("steps.base.inputs.before", "step 'base' has no output 'lgo'")],
        "model": [
            ("steps.base.inputs.before", "takes training_log, but 'champion.base.model' is a model"),
        ],
    }


def test_the_gate_that_is_named_is_the_one_in_the_file(catalogue):
    gates = "gates:\n    - {gate: broken}\n    - {gate: odd, measure: x.y, at_most: 1, reason: r}\n"
    problems = check(changed(("gates:\n", gates)), catalogue).problems
    assert {each.key for each in problems} == {
        "release.gates[0].measure",
        "release.gates[0].reason",
        "release.gates[1].measure",
    }
    twice = changed(
        ("  gates:\n", "  gates:\n    - {gate: kept, measure: news.bits_per_byte, at_most: 3, reason: r}\n")
    )
    assert [each.key for each in check(twice, catalogue).problems] == ["release.gates[1].gate"]


def test_no_steps(catalogue):
    (problem,) = check("recipe: a\nmodel: b\nsteps: {}\n", catalogue).problems
    assert problem.key == "steps"


def test_overrides_are_checked_where_they_were_given(catalogue, small):
    problems = check(small, catalogue, ["seed=3", "steps.tuned.options.lr=2"]).problems
    assert [(each.file, each.line, each.key) for each in problems] == [("--set", 2, "steps.tuned.options.lr")]
    right = check(small, catalogue, {"steps.tuned.options.lr": 1e-3, "seed": 3}).recipe
    assert right is not None
    assert (right.steps["tuned"].options, right.seed) == ({"lr": 1e-3}, 3)


def test_an_unreadable_file(catalogue, tmp_path: Path):
    path = tmp_path / "r.yaml"
    path.write_bytes(b"\xff\xfe\n")
    assert [each.message for each in check(path, catalogue).problems] == ["byte 0xff is not UTF-8"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=80, deadline=None)
@given(st.text(max_size=200))
def test_no_text_raises(text):
    checked = check(text + "\n", CATALOGUE)
    assert checked.problems
    assert format_problems(checked.problems)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(inner, (*path, key))


def put(place: Any, path: tuple[Any, ...], value: Any) -> None:
    """Write a value where a recipe had one, unless an earlier change took the place away."""
    *above, last = path
    for part in above:
        known = range(len(place)) if isinstance(place, list) else place if isinstance(place, dict) else ()
        if part not in known:
            return
        place = place[part]
    if isinstance(place, dict) or (isinstance(place, list) and last in range(len(place))):
        place[last] = value


PLACES = list(places(yaml.safe_load(SMALL)))[1:]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(PLACES), json_values), min_size=1, max_size=3))
def test_nothing_anywhere_in_a_recipe_raises(changes):
    raw = yaml.safe_load(SMALL)
    for path, value in changes:
        put(raw, path, value)
    text = yaml.safe_dump(raw, allow_unicode=True)
    checked = check(text + "\n", CATALOGUE)
    assert (checked.recipe is None) == bool(checked.problems)
    assert format_problems(checked.problems) or checked.recipe
