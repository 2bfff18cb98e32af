"""Two models compared after the fact: on the same manifest only, with a report's figures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy
import pytest

from tasks.evaluate.items import write_items
from tasks.evaluate.manifest import Task, of_report
from tasks.evaluate.measure import Columns, Measure
from tasks.evaluate.measures import bits_per_byte, multiple_choice
from tasks.evaluate.options import SuiteOptions
from tasks.evaluate.report import Measured, entries, write_json
from tasks.evaluate.versions import compare
from tasks.recipe.failures import DataInvalid
from tasks.stage import Input
from tests.unit.evaluate.reports import Row

A, B = "a" * 64, "b" * 64
MODELS = {A: 0.0, B: 0.1}
"""Model -> how much better than A it is."""


def documents(digest: str) -> Columns:
    draw = numpy.random.default_rng(1)
    bytes_N = draw.lognormal(6.5, 1.0, 60).round()
    rate_N = draw.normal(1.6, 0.3, 60) * (1 - MODELS[digest])
    return {"nats": bytes_N * rate_N, "bytes": bytes_N, "tokens": bytes_N / 4}


def exams(digest: str) -> Columns:
    draw = numpy.random.default_rng(2)
    right_N = (draw.normal(0, 1, 200) + 3 * MODELS[digest] > 0.3).astype(float)
    return {
        **{column: right_N for column in ("right", "right_unnormalised")},
        "confidence": 0.4 + 0.3 * right_N,
        "brier": 1 - 0.8 * right_N,
        "choice": 3 - right_N,
    }


SETS: dict[str, tuple[str, Measure, Any, int]] = {
    "news": ("documents", bits_per_byte.MEASURE, documents, 60),
    "quiz": ("exams", multiple_choice.MEASURE, exams, 200),
}


def report(
    folder: Path,
    models: Mapping[str, str],
    *,
    sets: Mapping[str, str] = {"news": "1" * 64, "quiz": "2" * 64},
    **options: Any,
) -> Path:
    """A report's folder, as the suite writes it, about models by role; the entries stand in report.json."""
    chosen = SuiteOptions(resamples=200, **options)
    measured = []
    for name, digest in sets.items():
        port, measure, columns, items = SETS[name]
        rows = [Row(f"{digest[:4]}/{number}") for number in range(items)]
        task = Task(port, measure, Input(f"data.{name}", digest, port, Path()), rows)
        measured.append(Measured(task, {role: columns(model) for role, model in models.items()}))
    folder.mkdir()
    for each in measured:
        write_items(folder / "items", [each])
    write_json(
        folder / "report.json",
        {
            "models": {role: {"digest": model, "ref": role} for role, model in models.items()},
            "manifest": of_report([each.task for each in measured], chosen, 0),
            "sets": [entry for each in measured for entry in entries(each, chosen, 0)],
        },
    )
    return folder


def test_two_reports_give_what_one_report_of_both_would(tmp_path: Path) -> None:
    first, second = report(tmp_path / "a", {"model": A}), report(tmp_path / "b", {"model": B})
    both = report(tmp_path / "both", {"model": B, "champion": A})
    found = compare([second, first], A, B)
    assert found.left_out == []
    wanted = json.loads((both / "report.json").read_text())["sets"]
    assert json.loads(json.dumps(found.entries)) == [{**each, "name": each["name"]} for each in wanted]
    news = found.entries[0]
    assert (news["name"], news["measure"]) == ("news", "bits_per_byte")
    assert news["against"]["champion"]["high"] < 0
    flips = {
        each["measure"]: each["against"]["champion"] for each in found.entries if "flips" in each["measure"]
    }
    assert flips["positive_flips"]["difference"] > 0 == flips["negative_flips"]["difference"]


def test_one_report_is_enough_where_the_other_was_its_champion(tmp_path: Path) -> None:
    elsewhere = report(tmp_path / "a", {"model": A}, sets={"news": "3" * 64})
    second = report(tmp_path / "b", {"model": B, "champion": A})
    found = compare([second, elsewhere], A, B)
    assert {each["name"] for each in found.entries} == {"news", "quiz"}
    assert found.left_out == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"sets": {"news": "3" * 64}}, "items"),
        ({"stride": 7}, "settings"),
        ({"max_length": 64}, "window"),
    ],
)
def test_other_manifests_are_not_compared_and_it_is_said_why(
    tmp_path: Path, change: dict[str, Any], told: str
) -> None:
    first = report(tmp_path / "a", {"model": A}, **({"sets": {"news": "1" * 64}} | change))
    second = report(tmp_path / "b", {"model": B}, sets={"news": "1" * 64})
    found = compare([second, first], A, B)
    assert found.entries == []
    ((name, measure, why),) = found.left_out
    assert (name, measure) == ("news", "bits_per_byte")
    assert why.startswith("scored on another manifest: ")
    assert told in why


def test_a_set_of_one_report_only_is_said(tmp_path: Path) -> None:
    first = report(tmp_path / "a", {"model": A}, sets={"news": "1" * 64})
    second = report(tmp_path / "b", {"model": B})
    found = compare([second, first], A, B)
    assert found.left_out == [("quiz", "multiple_choice", "only the second was scored on it")]


def test_a_model_is_no_different_from_itself(tmp_path: Path) -> None:
    found = compare([report(tmp_path / "a", {"model": A})], A, A)
    assert {each["against"]["champion"]["difference"] for each in found.entries} == {0.0}


def test_a_report_without_a_manifest_is_told(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text("{}")
    with pytest.raises(DataInvalid, match="not a report with its manifest"):
        compare([tmp_path], A, B)
