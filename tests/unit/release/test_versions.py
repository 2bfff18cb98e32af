from __future__ import annotations

from typing import Any

import pytest

from tasks.recipe.failures import DataInvalid
from tasks.release.records import StepRecord
from tasks.release.versions import LineageFacts, lineage, next_version


def facts(**more: Any) -> LineageFacts:
    fields = {
        "tokenizer": "t1",
        "architecture": "Llama",
        "shapes": {"hidden": 192},
        "trained": {"a", "b"},
        "model": "m1",
        "semantic": "1.2.3",
    }
    return LineageFacts.model_validate(fields | more)


@pytest.mark.parametrize(
    ("change", "version", "reason"),
    [
        ({"tokenizer": "t2"}, "2.0.0", "tokenizer"),
        ({"architecture": "Qwen"}, "2.0.0", "Llama -> Qwen"),
        ({"shapes": {"hidden": 256}}, "2.0.0", "hidden 192 -> 256"),
        ({"shapes": {"hidden": 192, "layers": 4}}, "2.0.0", "layers None -> 4"),
        ({"trained": {"a", "c"}, "model": "m2"}, "1.3.0", "1 newly trained"),
        ({"trained": {"a"}, "model": "m2"}, "1.3.0", "new weights"),
        ({"model": "m2"}, "1.2.4", "merged or stored"),
        ({}, "1.2.4", "other evidence"),
        ({"tokenizer": "t2", "trained": {"c"}, "model": "m2"}, "2.0.0", "tokenizer"),
    ],
)
def test_the_number_follows_from_what_changed(change: dict[str, Any], version: str, reason: str) -> None:
    found, why = next_version(facts(), facts(**change, semantic=""))
    assert found == version
    assert reason in why


def test_the_first_release_is_one() -> None:
    assert next_version(None, facts()) == ("1.0.0", "first release")


def test_a_number_never_names_two_models() -> None:
    new = facts(trained={"z"})
    assert next_version(facts(), new, taken={"1.3.0", "1.4.0"})[0] == "1.5.0"
    assert next_version(None, facts(), taken={"1.0.0"})[0] == "2.0.0"
    assert next_version(facts(), facts(model="m2"), taken={"1.2.4"})[0] == "1.2.5"


def test_a_champion_without_a_number_is_told() -> None:
    with pytest.raises(DataInvalid, match="which is no version"):
        next_version(facts(semantic="v2"), facts())


def record(step: str, stage: str, inputs: list[str], digest: str, **meta: Any) -> StepRecord:
    shapes = {"vocab_size": 1, "hidden": 2, "layers": 3, "parameters": 4}
    output = {
        "digest": digest,
        "kind": "model",
        "meta": {"tokenizer": "t", "architecture": "L", **shapes} | meta,
    }
    return StepRecord.model_validate(
        {
            "fingerprint": "f",
            "step": step,
            "stage": stage,
            "method": "x",
            "inputs": {"models": inputs},
            "outputs": {"model": output},
        }
    )


def test_lineage_is_what_the_candidate_was_made_from() -> None:
    records = {
        "base": record("base", "pretrain", ["data"], "d-base"),
        "tuned": record("tuned", "sft", ["d-base"], "d-tuned"),
        "aside": record("aside", "sft", ["d-base"], "d-aside"),
        "merged": record("merged", "merge", ["d-tuned", "d-base"], "d-merged"),
    }
    found = lineage(records, "merged")
    assert found.trained == {"d-base", "d-tuned"}
    assert found.model == "d-merged"
    assert found.shapes == {"vocab_size": 1, "hidden": 2, "layers": 3, "parameters": 4}
    assert lineage(records, "tuned.model").trained == {"d-base", "d-tuned"}


def test_missing_facts_are_told() -> None:
    broken = record("base", "pretrain", [], "d")
    del broken.outputs["model"].meta["tokenizer"]
    with pytest.raises(DataInvalid, match="lacks tokenizer"):
        lineage({"base": broken}, "base")
