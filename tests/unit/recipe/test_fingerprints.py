from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.recipe.fingerprints import canonical, digest, explain, fingerprint, ingredients
from tasks.recipe.plan import PlannedInput, PlannedStep

CODE = {"tasks/merge": "aaa", "tasks/training": "bbb", "versions": {"torch": "2.12.0"}}


def step(**change: Any) -> PlannedStep:
    base: dict[str, Any] = {
        "name": "tuned",
        "stage": "sft",
        "method": "completion",
        "options": {"lr": 1e-4, "epochs": 1},
        "seed": 0,
        "resources": "cpu",
        "inputs": {"model": [PlannedInput(ref="adapted", kind="model", label="adapted", step="adapted")]},
        "outputs": {"model": "model"},
        "hands_on": False,
    }
    return PlannedStep.model_validate(base | change)


def made(digest_: str = "abc123456", code: Mapping[str, Any] = CODE, **change: Any) -> dict[str, Any]:
    planned = step(**change)
    return ingredients(planned, {port: [digest_] * len(many) for port, many in planned.inputs.items()}, code)


def test_canonical_is_one_form():
    assert canonical({"b": [1, 1.5, None], "a": "é"}) == '{"a":"é","b":[1,1.5,null]}'.encode()
    for number in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="JSON compliant"):
            canonical({"a": number})


@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8")),
        st.integers() | st.floats(allow_nan=False, allow_infinity=False),
    )
)
def test_order_of_keys_does_not_count(value):
    assert digest(value) == digest(dict(reversed(value.items())))


def test_the_same_work_has_one_fingerprint_whatever_it_is_called():
    assert fingerprint(made()) == fingerprint(made(name="other", resources="gpu"))


def test_ingredients_need_a_digest_for_each_input():
    with pytest.raises(ValueError, match="one digest"):
        ingredients(step(), {"model": []}, CODE)


def inputs(*labels: str) -> dict[str, list[PlannedInput]]:
    return {"models": [PlannedInput(ref=label, kind="model", label=label, step=label) for label in labels]}


REASONS = [
    (made(), made(options={"lr": 2e-4, "epochs": 1}), ["options.lr changed: 1e-4 -> 2e-4"]),
    (
        made(),
        made(options={"lr": 1.5e-5}),
        ["options.epochs changed: 1 -> unset", "options.lr changed: 1e-4 -> 1.5e-5"],
    ),
    (made(options={"weight": 0.5}), made(options={"weight": 0.3}), ["options.weight changed: 0.5 -> 0.3"]),
    (made(options={"way": "a"}), made(options={"way": None}), ["options.way changed: a -> null"]),
    (made(), made(seed=4), ["seed changed: 0 -> 4"]),
    (made(), made("def456789"), ["input model changed (adapted): abc123 -> def456"]),
    (made(), made(code=CODE | {"tasks/merge": "zzz"}), ["code of tasks/merge changed"]),
    (made(), made(code=CODE | {"versions": {"torch": "2.13.0"}}), ["torch changed: 2.12.0 -> 2.13.0"]),
    (made(), made(method="other"), ["method changed: sft/completion -> sft/other"]),
    (
        made(inputs=inputs("a", "b")),
        made(inputs=inputs("b", "a")),
        ["input models is called otherwise: a -> b", "input models is called otherwise: b -> a"],
    ),
    (made(inputs=inputs("a")), made(inputs=inputs("a", "b")), ["input models changed: [a] -> [a, b]"]),
    (made(inputs={}), made(inputs=inputs("a")), ["input models is new (a)"]),
    (made(inputs=inputs("a")), made(inputs={}), ["input models is gone (a)"]),
    (None, made(), ["never run before"]),
    (made(), made(), []),
]


@pytest.mark.parametrize(("old", "new", "reasons"), REASONS)
def test_every_difference_has_its_reason(old, new, reasons):
    assert explain(old, new) == reasons
    if old is not None:
        assert (fingerprint(old) == fingerprint(new)) == (not reasons)


@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(allow_nan=False, allow_infinity=False))
def test_two_values_never_read_the_same(old, new):
    for reason in explain(made(options={"lr": old}), made(options={"lr": new})):
        before, after = reason.removeprefix("options.lr changed: ").split(" -> ")
        assert (float(before), float(after)) == (old, new)
