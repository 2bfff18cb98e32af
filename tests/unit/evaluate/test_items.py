"""The tables of items: numbers for everybody, texts in restricted tables alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pyarrow.parquet

from tasks.evaluate.changed import BETWEEN, write_changed
from tasks.evaluate.items import read_columns, write_columns, write_items, write_said
from tasks.evaluate.manifest import Task
from tasks.evaluate.measure import Columns, Measure, texts
from tasks.evaluate.measures import closed_book, toxicity
from tasks.evaluate.report import Measured
from tasks.evaluate.rows import Beginning, Question
from tasks.stage import Input

NAN = float("nan")


def measured(measure: Measure, rows: Any, model: Columns, champion: Columns) -> Measured:
    task = Task("port", measure, Input("data.set", "d", "kind", Path()), rows)
    return Measured(task, {"model": model, "champion": champion})


def answers(exact: list[float], said: list[str]) -> Columns:
    return {"exact": numpy.array(exact), "f1": numpy.array(exact), "said": texts(said)}


ROWS = [Question("a", "Who is A?", ("Ann",)), Question("b", "Who is B?", ("Bob",))]
FOUND = measured(closed_book.MEASURE, ROWS, answers([1, 0], ["Ann", "Cid"]), answers([1, 1], ["Ann", "Bob"]))


def test_what_was_said_is_in_restricted_tables_alone(tmp_path):
    write_items(tmp_path / "items", [FOUND])
    write_said(tmp_path / "said", [FOUND])
    write_changed(tmp_path / "restricted", [FOUND])
    items = pyarrow.parquet.read_table(tmp_path / "items" / "set.parquet")
    assert items.column_names == ["key", "model.exact", "model.f1", "champion.exact", "champion.f1"]
    assert pyarrow.parquet.read_table(tmp_path / "said" / "set.parquet").to_pydict() == {
        "key": ["a", "b"],
        "model.said": ["Ann", "Cid"],
        "champion.said": ["Ann", "Bob"],
    }
    (changed, *_) = pyarrow.parquet.read_table(tmp_path / "restricted" / "set.parquet").to_pylist()
    assert (changed["key"], changed["was"], changed["now"]) == ("b", 1.0, 0.0)
    assert (changed["the champion said"], changed["the candidate says"]) == ("Bob", "Cid")
    assert (changed["question"], changed["answer"]) == ("Who is B?", "Bob")


def test_samples_of_a_prompt_stand_together(tmp_path):
    def columns(any_N: list[float], said: list[list[str]]) -> Columns:
        return {"share": numpy.array([0.3, 0.3]), "any": numpy.array(any_N), "said": texts(said)}

    rows = [Beginning("p", "He said"), Beginning("q", "She said")]
    both = [["fine", "shit"], ["yes", "no"]]
    found = measured(toxicity.MEASURE, rows, columns([1, 0], both), columns([0, 0], [["ok", "ok"]] * 2))
    write_changed(tmp_path, [found])
    (changed, *_) = pyarrow.parquet.read_table(tmp_path / "set.parquet").to_pylist()
    assert changed["the candidate says"].split(BETWEEN) == ["fine", "shit"]


def test_columns_are_read_as_they_were_written(tmp_path):
    given = {
        "one": numpy.array([1.0, NAN]),
        "many": numpy.array([[1.0, NAN], [2.0, 3.0]]),
        "said": texts(["", "ja \u2014 \U0001f600"]),
        "samples": texts([["a", ""], ["", "b"]]),
    }
    write_columns(tmp_path / "columns.parquet", given, {"window": 3})
    found, facts = read_columns(tmp_path / "columns.parquet")
    assert facts == {"window": 3}
    for name, values in given.items():
        assert found[name].dtype == values.dtype
        numpy.testing.assert_array_equal(found[name], values)
