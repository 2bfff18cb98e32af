import pytest

from tasks.recipe.failures import ConfigInvalid
from tasks.recipe.loading import load_text
from tasks.recipe.overrides import apply_overrides, overrides_arguments, parse_overrides_text


def test_values_are_yaml(small):
    changed = apply_overrides(
        load_text(small),
        [
            "steps.tuned.options.lr=5e-5",
            "--set steps.base.options.schedule=wsd",
            "steps.tuned.inputs.data=data.news",
            "steps.report.inputs.documents=[data.news]",
            "release.approval=none",
            "release.gates.kept.at_most=0.2",
            "seed=7",
        ],
    )
    assert changed.problems == []
    steps = changed.value["steps"]
    assert steps["tuned"]["options"] == {"lr": 5e-5}
    assert steps["base"]["options"] == {"schedule": "wsd"}
    assert steps["report"]["inputs"]["documents"] == ["data.news"]
    assert changed.value["release"]["approval"] == "none"
    assert changed.value["release"]["gates"][0]["at_most"] == 0.2
    assert changed.value["seed"] == 7
    assert changed.at[("release", "gates", 0, "at_most")] == 6


def test_the_loaded_recipe_stays_as_it_is(small):
    loaded = load_text(small)
    apply_overrides(loaded, ["steps.tuned.options.lr=5e-5"])
    assert loaded.value == load_text(small).value


@pytest.mark.parametrize(
    ("text", "message", "remedy"),
    [
        ("steps.tund.options.lr=1", "no step 'tund'", "'tuned'"),
        ("steps.tuned.optoins.lr=1", "no key 'optoins'", "'options'"),
        ("steps.tuned.stage.x=1", "no such part", "as a whole"),
        ("steps.tuned.options.lr.x=1", "no such part", "as a whole"),
        ("step.tuned.options.lr=1", "no key 'step'", "'steps'"),
        ("data.new.uri=x", "no data set 'new'", "'news'"),
        ("release.gates.kep.at_most=1", "no gate 'kep'", "'kept'"),
        ("release.gates.kept.atmost=1", "no key 'atmost'", "'at_most'"),
        ("release.canditate=x", "no key 'canditate'", "'candidate'"),
        ("recipe=x", "changes nothing", "file"),
        ("schedule.cron=x", "changes nothing", "file"),
        ("seed.x=1", "nothing below", "seed="),
        ("lr", "sets nothing", "="),
        ("steps..lr=1", "sets nothing", "="),
        ("seed=[1", "not YAML", "YAML"),
    ],
)
def test_a_path_that_leads_nowhere(small, text, message, remedy):
    (problem,) = apply_overrides(load_text(small), ["seed=1", text]).problems
    assert (problem.file, problem.line) == ("--set", 2)
    assert message in problem.message
    assert remedy in problem.remedy


@pytest.mark.parametrize(
    "text", ["5\n", "steps: 5\n", "steps: {tuned: 5}\n", "release: {gates: 5}\nsteps: {}\n"]
)
def test_recipes_that_are_none_get_problems_and_no_traceback(text):
    for override in ("steps.tuned.options.lr=1", "release.gates.kept.at_most=1"):
        assert apply_overrides(load_text(text), [override]).problems


def test_the_text_of_the_form():
    expected = {"steps.adapted.options.lr": 1e-4}
    assert parse_overrides_text("steps.adapted.options.lr: 1e-4") == expected
    assert parse_overrides_text("steps: {adapted: {options: {lr: 1e-4}}}") == expected
    assert parse_overrides_text("steps.adapted:\n  options.lr: 1e-4\nseed: 3\n") == {**expected, "seed": 3}
    assert (
        parse_overrides_text(" \n") == parse_overrides_text("# nothing\n") == parse_overrides_text("~") == {}
    )


@pytest.mark.parametrize("text", ["5", "- a", "a: [", "a: 1\na: 2"])
def test_a_text_that_is_none(text):
    with pytest.raises(ConfigInvalid, match="overrides"):
        parse_overrides_text(text)


def test_arguments_give_the_same_overrides(small):
    wanted = {"steps.tuned.options.lr": 1e-7, "steps.report.inputs.exams": ["data.exams"], "model": "true"}
    arguments = overrides_arguments(wanted)
    loaded = load_text(small)
    assert apply_overrides(loaded, arguments).value == apply_overrides(loaded, wanted).value
    assert apply_overrides(loaded, wanted).value["model"] == "true"
