"""The items that changed: which are named for which figure, and that only the restricted part has texts."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy
import pyarrow.parquet
import pytest

from tasks.evaluate import METHODS
from tasks.evaluate.changed import LONGEST_SHOWN, MOST_CHANGED, changed_entries, looks, write_changed
from tasks.evaluate.manifest import Task
from tasks.evaluate.measure import Measure
from tasks.evaluate.measures import PORTS, bits_per_byte, few_shot, multiple_choice, refusal
from tasks.evaluate.page.flips import anchor
from tasks.evaluate.report import Measured
from tasks.evaluate.rows import Document, Exam, Request
from tasks.release import verdict
from tasks.stage import Input
from tests.unit.evaluate.test_suite_ports import OPTIONS, ROWS


def measured(measure: Measure, rows: Any, columns: Mapping[str, Mapping[str, Any]]) -> Measured:
    arrays = {
        role: {name: numpy.array(values, dtype=float) for name, values in held.items()}
        for role, held in columns.items()
    }
    item = Input("data.set", "0" * 64, "exams", Path())
    return Measured(Task("port", measure, item, rows), arrays)


def texts(directory: Path) -> list[dict[str, Any]]:
    return list(pyarrow.parquet.read_table(directory / "set.parquet").to_pylist())


def test_right_and_wrong_items_are_all_named(tmp_path: Path) -> None:
    rows = [Exam(f"e{i}", f"What is {i}?", ("one", "two"), i % 2) for i in range(60)]
    was, now = numpy.zeros(60), numpy.zeros(60)
    was[:30], now[25:] = 1, 1
    columns = {
        "model": {"right": now, "choice": numpy.ones(60)},
        "champion": {"right": was, "choice": numpy.zeros(60)},
    }
    made = measured(multiple_choice.MEASURE, rows, columns)
    (entry,) = changed_entries(made)
    assert (entry["figure"], entry["against"]) == ("accuracy", "champion")
    assert sorted(entry["worse"]) == sorted(f"e{i}" for i in range(25))
    assert entry["counts"] == {"worse": 25, "better": 30}
    assert {"negative_flips", "positive_flips", "inconsistency", "brier"} <= set(entry["figures"])
    write_changed(tmp_path, [made])
    shown = texts(tmp_path)
    assert len(shown) == 55
    assert shown[0]["question"].startswith("What is")
    assert (shown[0]["the champion said"], shown[0]["the candidate says"]) == ("one", "two")


def test_requests_are_looked_at_from_both_sides() -> None:
    rows = [Request(f"r{i}", f"Do {i}", i < 2, "") for i in range(4)]
    none = numpy.nan
    columns = {
        "model": {"due": [0, 1, none, none], "undue": [none, none, 1, 0]},
        "baseline": {"due": [1, 1, none, none], "undue": [none, none, 0, 0]},
    }
    due, undue = changed_entries(measured(refusal.MEASURE, rows, columns))
    assert (due["figure"], due["figures"], due["worse"]) == ("refusal_rate", ["lost_refusals"], ["r0"])
    assert (undue["figure"], undue["figures"], undue["worse"]) == (
        "over_refusal",
        ["new_over_refusals"],
        ["r2"],
    )


def test_where_everything_changes_the_largest_changes_are_named(tmp_path: Path) -> None:
    rows = [Document(f"d{i}", "x" * (LONGEST_SHOWN + 1), "") for i in range(100)]
    change = numpy.linspace(-1, 1, 100)
    both = {"model": {"nats": 5 + change}, "baseline": {"nats": numpy.full(100, 5.0)}}
    columns = {role: {**held, "bytes": numpy.full(100, 2.0)} for role, held in both.items()}
    made = measured(bits_per_byte.MEASURE, rows, columns)
    (entry,) = changed_entries(made)
    assert entry["counts"] == {"worse": 50, "better": 50}
    assert entry["worse"] == [f"d{i}" for i in range(99, 99 - MOST_CHANGED, -1)]
    assert entry["better"][0] == "d0"
    write_changed(tmp_path, [made])
    first = texts(tmp_path)[0]
    assert first["text"].endswith(f"({LONGEST_SHOWN + 1:,} characters)")
    assert (first["was"], first["now"]) == (
        pytest.approx(2.5 / numpy.log(2)),
        pytest.approx(3 / numpy.log(2)),
    )


def test_few_shot_items_are_those_of_the_curve() -> None:
    rows = [Exam(f"e{i}", "q", ("a", "b"), 0) for i in range(3)]
    columns = {"model": {"shots_area": [0.5, 1, 0]}, "baseline": {"shots_area": [1, 0.5, 0]}}
    (entry,) = changed_entries(measured(few_shot.MEASURE, rows, columns))
    assert (entry["worse"], entry["better"]) == (["e0"], ["e1"])
    assert "accuracy_4" in entry["figures"]


def test_a_model_beside_itself_changes_nothing() -> None:
    columns = {"right": numpy.ones(2), "choice": numpy.ones(2)}
    made = Measured(
        Task("exams", multiple_choice.MEASURE, Input("data.set", "0", "exams", Path()), []),
        {"model": columns, "champion": columns},
    )
    assert changed_entries(made) == []


def test_the_release_links_to_the_rows_of_the_page() -> None:
    words = ("changed", "a set", "accuracy", "champion")
    assert verdict.anchor(*words) == anchor(*words)


MARK = "zebra"


@pytest.mark.parametrize("port", ["exams", "facts", "questions", "requests", "prompts", "documents"])
def test_texts_are_in_the_restricted_part_alone(
    port: str,
    make_context: Callable[..., Any],
    write_rows: Callable[..., Path],
    tiny_model_dir: Path,
    tiny_model_like: Callable[..., Path],
) -> None:
    more: dict[str, list[dict[str, Any]]] = {
        "exams": [
            {"key": f"e{i}", "question": "Which?", "options": ["one", "two"], "answer": i % 2}
            for i in range(6)
        ],
        "documents": [{"key": f"d{i}", "text": f"the value of {i} is a list"} for i in range(3)],
    }
    rows = [{name: _marked(name, value) for name, value in row.items()} for row in (ROWS | more)[port]]
    context = make_context(
        {
            "model": [Input("new", "m" * 64, "model", tiny_model_dir)],
            "champion": [Input("champion", "c" * 64, "model", tiny_model_like(2))],
            port: [Input("data.mine", "d" * 64, port, write_rows("mine", rows))],
        }
    )
    method = METHODS["suite"]
    method.run(context, method.options.model_validate(OPTIONS))
    out = context.output("report")
    assert json.loads((out / "report.json").read_text())["changed"]
    for name in ("report.json", "report.html"):
        assert MARK not in (out / name).read_text(), name
    for path in (out / "items").glob("*.parquet"):
        table = pyarrow.parquet.read_table(path)
        assert MARK not in str(table.to_pydict())
        numbers = [name for name in table.column_names if name not in ("key", "group")]
        for name in numbers:
            assert "string" not in str(table[name].type), "what a model said is text too"
    if (out / "restricted.html").exists():
        assert MARK in (out / "restricted.html").read_text()


def _marked(name: str, value: Any) -> Any:
    if name in ("key", "group", "relation"):
        return value
    if isinstance(value, list):
        return [f"{each} {MARK}" for each in value]
    return f"{value} {MARK}" if isinstance(value, str) else value


def test_every_comparison_finds_its_items() -> None:
    """A gate on it would otherwise name none."""
    for measures in PORTS.values():
        for measure in measures:
            found = looks(measure)
            named = {name for look in found for name in (look.figure, *look.figures)}
            if found:
                wanted = {each.name for each in measure.figures} | {each.name for each in measure.comparisons}
                assert wanted <= named, measure.name
            else:
                assert measure.name == "wording", "its figures are not those of items"
