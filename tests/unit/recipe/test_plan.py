import json
from typing import Any

import pytest

from tasks.recipe.catalogue import Catalogue
from tasks.recipe.check import check
from tasks.recipe.failures import ConfigInvalid
from tasks.recipe.fingerprints import canonical, ingredients
from tasks.recipe.links import kind_of
from tasks.recipe.models import Budget, Recipe
from tasks.recipe.plan import Pinned, Plan, Rate, resolve
from tests.unit.recipe.conftest import ROOT

CODE = {"tasks/x": "c0de", "versions": {"torch": "2.13.0"}}


def pins(recipe: Recipe) -> dict[str, Pinned]:
    return {
        name: Pinned(digest=f"{name}-digest", kind=str(kind_of(source)), meta={"rows": 3})
        for name, source in recipe.data.items()
    }


@pytest.fixture
def freeze(catalogue):
    def function(text, champion=None, uris=None, catalogue=catalogue, **change):
        checked = check(text, catalogue, change.pop("overrides", ()))
        assert checked.recipe is not None, checked.problems
        recipe = checked.recipe
        settings = {
            "code": dict.fromkeys(recipe.steps, CODE),
            "run": "r1",
            "created": "2026-01-01T00:00:00+00:00",
            "data": pins(recipe),
        } | change
        return resolve(recipe, catalogue, champion=champion or {}, uris=uris or {}, **settings)

    return function


def test_everything_is_decided(freeze, small):
    plan = freeze(small, refresh=["tuned"])
    steps = {step.name: step for step in plan.steps}
    assert list(steps) == ["blank", "shards", "base", "tuned", "report"]
    assert steps["base"].method == "continue"
    assert steps["base"].options == {"lr": 3e-4, "epochs": 1, "schedule": "cosine"}
    assert steps["tuned"].options == {"lr": 2e-4, "epochs": 1}
    assert steps["tuned"].outputs == {"model": "model", "log": "training_log"}
    (data,), (model,) = steps["tuned"].inputs["data"], steps["tuned"].inputs["model"]
    assert (data.ref, data.kind, data.digest, data.step) == ("data.chats", "chats", "chats-digest", None)
    assert (model.ref, model.kind, model.digest, model.step, model.output) == (
        "base",
        "model",
        None,
        "base",
        "model",
    )
    assert plan.refresh == ["tuned"]
    assert plan.data["news"].meta == {"rows": 3}
    assert plan.code["base"] == CODE


def test_round_trip_and_stable_bytes(freeze, small):
    plan = freeze(small, overrides=["seed=3"])
    assert Plan.from_bytes(plan.to_bytes()) == plan
    assert Plan.model_validate_json(plan.model_dump_json(indent=1)) == plan
    assert freeze(small, overrides=["seed=3"]).to_bytes() == plan.to_bytes()
    assert plan.to_bytes() == canonical(json.loads(plan.to_bytes()))
    other = json.loads(plan.to_bytes()) | {"format": 99}
    with pytest.raises(ConfigInvalid, match="format 99"):
        Plan.from_bytes(json.dumps(other).encode())


def test_seeds_of_the_recipe_and_of_the_step(freeze, small):
    plan = freeze(small.replace("stage: sft", "stage: sft\n    seed: 9"), overrides=["seed=3"])
    assert {step.name: step.seed for step in plan.steps} == {
        "blank": 3,
        "shards": 3,
        "base": 3,
        "tuned": 9,
        "report": 3,
    }


def test_what_is_handed_on(freeze, small):
    text = small.replace(
        "  blank:",
        "  checked: {stage: validate, inputs: {documents: data.news, chats: data.chats}}\n  blank:",
    ).replace("data: data.chats}", "data: checked}")
    plan = freeze(text)
    steps = {step.name: step for step in plan.steps}
    assert steps["checked"].hands_on
    assert steps["checked"].outputs == {"result": "validation", "news": "documents", "chats": "chats"}
    (given,) = steps["tuned"].inputs["data"]
    assert (given.ref, given.step, given.output, given.label) == (
        "checked.chats",
        "checked",
        "chats",
        "chats",
    )


WITH_CHAMPION = ("baseline: base,", "baseline: base, champion: champion,")


def test_an_optional_champion_that_is_not_there_is_left_out(freeze, small):
    text = small.replace(*WITH_CHAMPION)
    first = freeze(text, {"champion": None})
    assert "champion" not in first.steps[-1].inputs
    assert first.bindings == {"champion": None}
    champion = Pinned(digest="champ", kind="model")
    later = freeze(text, {"champion": champion})
    assert later.steps[-1].inputs["champion"][0].digest == "champ"
    assert later.bindings == {"champion": champion}


def test_alternatives_take_the_first_that_exists(freeze, small):
    text = small.replace("model: blank, data: shards", "model: champion.base or blank, data: shards")
    first = freeze(text, {"champion.base": None}).steps[2].inputs["model"][0]
    assert (first.ref, first.step) == ("blank", "blank")
    pinned = Pinned(digest="old", kind="model")
    later = freeze(text, {"champion.base": pinned}).steps[2].inputs["model"][0]
    assert (later.ref, later.step, later.digest, later.label) == ("champion.base", None, "old", "base")


def test_an_output_of_the_champions_step(freeze, small):
    given = "model: blank, data: shards"
    text = small.replace(given, f"{given}, before: champion.base.log")
    assert "before" not in freeze(text, {"champion.base.log": None}).steps[2].inputs
    pinned = Pinned(digest="old", kind="training_log")
    (later,) = freeze(text, {"champion.base.log": pinned}).steps[2].inputs["before"]
    assert (later.ref, later.kind, later.digest, later.label) == (
        "champion.base.log",
        "training_log",
        "old",
        "base.log",
    )
    with pytest.raises(ConfigInvalid, match=r"'champion\.base\.log' is of kind model"):
        freeze(text, {"champion.base.log": Pinned(digest="old", kind="model")})


def test_a_needed_champion_that_is_not_there(freeze, small):
    text = small.replace("model: blank, data: shards", "model: champion.base, data: shards")
    with pytest.raises(ConfigInvalid, match=r'steps.base.inputs.model.*"champion.base or base"'):
        freeze(text, {"champion.base": None})


def test_models_by_uri_and_kinds_at_planning(freeze, small):
    text = small.replace("model: blank, data: shards", 'model: "hf://org/tiny", data: shards')
    plan = freeze(text, uris={"hf://org/tiny": Pinned(digest="hub", kind="model")})
    assert plan.steps[2].inputs["model"][0].digest == "hub"
    with pytest.raises(ConfigInvalid, match="of kind tokens"):
        freeze(text, uris={"hf://org/tiny": Pinned(digest="hub", kind="tokens")})
    with pytest.raises(ConfigInvalid, match="not pinned"):
        freeze(text)


SAME_WORK: dict[str, dict[str, Any]] = {
    "run": {"run": "r2", "created": "2027-01-01T00:00:00+00:00"},
    "refresh": {"refresh": ["base"]},
    "champion": {"champion": {"champion": Pinned(digest="champ", kind="model")}},
}


@pytest.mark.parametrize("name", SAME_WORK)
def test_intent_is_the_same_where_the_work_is(freeze, small, name):
    text = small.replace(*WITH_CHAMPION)
    before = freeze(text, {"champion": None})
    change = dict(SAME_WORK[name])
    after = freeze(text, change.pop("champion", {"champion": None}), **change)
    assert after.intent == before.intent
    assert after != before


def test_words_for_people_do_not_change_intent(freeze, small):
    assert freeze("tags: [x]\n" + small).intent == freeze(small).intent
    assert freeze("tags: [x]\n" + small).recipe_digest != freeze(small).recipe_digest


def test_intent_differs_where_the_work_does(freeze, small):
    text = small.replace(*WITH_CHAMPION)
    plan = freeze(text, {"champion": None})
    others = [
        freeze(text, {"champion": None}, overrides=[override])
        for override in ("steps.tuned.options.lr=1e-4", "seed=3", "release.gates.kept.at_most=0.2", "model=b")
    ]
    names = [step.name for step in plan.steps]
    others.append(freeze(text, {"champion": None}, code={name: {} for name in names}))
    data = {**plan.data, "news": Pinned(digest="other", kind="documents")}
    others.append(freeze(text, {"champion": None}, data=data))
    others.append(freeze(small))
    assert len({plan.intent, *(other.intent for other in others)}) == len(others) + 1


def test_the_shipped_recipe_is_planned(freeze):
    plan = freeze(ROOT / "recipes" / "pydocs.yaml", {"champion": None}, catalogue=Catalogue.load())
    steps = {step.name: step for step in plan.steps}
    assert [given.ref for given in steps["merged"].inputs["models"]] == ["tuned", "aligned"]
    assert steps["merged"].options["weight"] == 0.5
    assert [given.label for given in steps["report"].inputs["logs"]] == [
        "base.log",
        "adapted.log",
        "tuned.log",
        "aligned.log",
    ]
    assert steps["checked"].outputs["exams_general"] == "exams"


def test_a_budget_and_prices_change_no_fingerprint_and_no_intent(freeze, small):
    plain = freeze(small)
    tight = freeze(small, overrides=["budget.device_hours=1.5"], rates={"cpu": Rate(price=2.0, watts=90)})
    raised = freeze(small, overrides=["budget.device_hours=3"], currency="EUR")
    assert plain.budget is None
    assert tight.budget == Budget(device_hours=1.5)
    assert tight.intent == raised.intent == plain.intent
    assert tight.steps == raised.steps == plain.steps
    for step in plain.steps:
        digests = {port: ["d"] * len(many) for port, many in step.inputs.items()}
        assert "budget" not in str(ingredients(step, digests, plain.code[step.name]))
    assert Plan.from_bytes(tight.to_bytes()) == tight
