"""Every port of the suite goes through it: read, scored, compared, and in the report under its names."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from tasks.evaluate import METHODS
from tasks.evaluate.measures import KINDS, PORTS, figure_names
from tasks.recipe.failures import DataInvalid
from tasks.stage import Input

ROWS: dict[str, list[dict[str, Any]]] = {
    "facts": [
        {"key": f"f{i}", "prompt": f"The key {i} is", "answer": "a name", "relation": "ab"[i % 2]}
        for i in range(4)
    ],
    "questions": [
        {"key": f"q{i}", "question": f"What is {i}?", "answers": ["a list"], "group": "ab"[i % 2]}
        for i in range(4)
    ],
    "programs": [{"key": f"p{i}", "prompt": f"x = {i}\n", "tests": f"assert x == {i}"} for i in range(2)],
    "requests": [{"key": f"r{i}", "prompt": f"Open door {i}", "refuse": i > 1} for i in range(4)],
    "prompts": [{"key": f"b{i}", "prompt": f"Driver {i} said"} for i in range(2)],
    "haystacks": [
        {"key": f"h{i}", "text": "the value of an object is a list of names. " * 5} for i in range(2)
    ],
}
SPEAKING = ("questions", "programs", "requests", "prompts")
"""Ports whose measures generate text."""
OPTIONS = {
    "resamples": 100,
    "max_length": 256,
    "prompt_style": "plain",
    "answer_tokens": 4,
    "program_samples": 2,
    "pass_k": 2,
    "program_tokens": 4,
    "program_seconds": 1,
    "reply_tokens": 4,
    "continuation_samples": 3,
    "continuation_tokens": 4,
    "haystack_characters": 200,
}


@pytest.mark.parametrize("port", sorted(ROWS))
def test_a_set_of_each_port_lands_in_the_report(
    port, make_context, write_rows, tiny_model_dir: Path, tiny_model_like: Callable[..., Path]
):
    given = Input(f"data.my_{port}", "d" * 64, KINDS.get(port, port), write_rows(port, ROWS[port]))
    context = make_context(
        {
            "model": [Input("new", "m" * 64, "model", tiny_model_dir)],
            "champion": [Input("champion", "c" * 64, "model", tiny_model_like(2))],
            port: [given],
        }
    )
    method = METHODS["suite"]
    method.run(context, method.options.model_validate(OPTIONS))
    out = context.output("report")
    sets = {entry["measure"]: entry for entry in json.loads((out / "report.json").read_text())["sets"]}
    assert set(sets) <= set(figure_names()[port]) == set(method.figures[port])
    (measure,) = PORTS[port]
    for figure in measure.figures:
        value = sets[figure.name]["values"]["model"]
        assert value["low"] <= value["value"] <= value["high"]
        assert math.isfinite(sets[figure.name]["against"]["champion"]["difference"])
        assert sets[figure.name]["name"] == f"my_{port}"
    for comparison in measure.comparisons:
        found = sets[comparison.name]["against"]["champion"]
        assert found is None or 0 <= found["difference"] <= 1
        assert sets[comparison.name]["values"]["model"] is None
    if port in ("facts", "questions"):
        assert set(sets[measure.figures[0].name]["groups"]) == {"a", "b"}
    table = pyarrow.parquet.read_table(out / "items" / f"my_{port}.parquet")
    assert table["key"].to_pylist() == [row["key"] for row in ROWS[port]]
    assert not any(text in str(table.column_names) for text in ("prompt", "text", "question", "said"))
    spoken = out / "restricted" / "said" / f"my_{port}.parquet"
    assert spoken.is_file() == (port in SPEAKING)
    if port in SPEAKING:
        said = pyarrow.parquet.read_table(spoken)
        assert said.column_names == ["key", "model.said", "champion.said"]
        assert said["key"].to_pylist() == table["key"].to_pylist()


@pytest.mark.parametrize(
    ("port", "changed", "trouble"),
    [
        ("facts", {"answer": ""}, "no answer"),
        ("facts", {"aliases": "x"}, "aliases is not a list"),
        ("questions", {"answers": []}, "no answers"),
        ("programs", {"entry_point": "not a name"}, "no name of a function"),
        ("requests", {"refuse": "yes"}, "not true or false"),
        ("prompts", {"prompt": " "}, "no prompt"),
        ("questions", {"group": 3}, "group"),
    ],
)
def test_a_broken_row_is_named(port, changed, trouble, write_rows):
    directory = write_rows("broken", [ROWS[port][0], ROWS[port][1] | changed])
    (measure,) = PORTS[port]
    with pytest.raises(DataInvalid, match=f"data.broken.: line 2.*{trouble}"):
        measure.read(Input("data.broken", "d", port, directory), None)
    assert len(measure.read(Input("data.broken", "d", port, directory), 1)) == 1
