"""probe.json and its items: what they hold, that figures follow from items, that they are the same again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy
import pyarrow.parquet
import pytest

from tasks.evaluate.measure import Figure, ratio
from tasks.evaluate.probes.models import Probing
from tasks.evaluate.probes.options import ProbeOptions
from tasks.evaluate.probes.report import Found, write_probe
from tasks.stage import Input

KEYS = [f"k{i}" for i in range(40)]
DRAW = numpy.random.default_rng(3)
COLUMNS = {
    "model": {"score": DRAW.normal(1.0, 0.1, 40)},
    "champion": {"score": DRAW.normal(2.0, 0.1, 40)},
}
FIGURES = (
    Figure("mean", "lower", "nats", "the mean", ratio("score")),
    Figure(
        "nothing", "lower", "", "has no value", lambda columns, weights: numpy.full(len(weights), numpy.nan)
    ),
)
OPTIONS = ProbeOptions(resamples=500)


@pytest.fixture
def write(make_context, tmp_path):
    def run(name="one", options=OPTIONS, columns=COLUMNS, keys=KEYS, **more):
        context = make_context({}, directory=tmp_path / name, step="watch")
        models = {role: Input(role, role[0] * 64, "model", Path("unused")) for role in ("model", "champion")}
        found = Found(
            Probing("example", 3, options or OPTIONS),
            keys,
            columns,
            FIGURES,
            ["a note"],
            [{"text": "ab"}],
            **more,
        )
        return context.output("probe"), write_probe(context, models, found, options)

    return run


def test_the_agreed_form(write):
    out, result = write()
    whole = json.loads((out / "probe.json").read_text())
    assert (whole["schema"], whole["probe"], whole["notes"]) == (1, "example", ["a note"])
    assert whole["samples"] == [{"text": "ab"}]
    assert (whole["manifest"]["probe"], whole["manifest"]["version"]) == ("example", 3)
    assert "resamples" not in whole["manifest"]["options"], "the items' numbers do not depend on it"
    assert whole["models"]["model"] == {"digest": "m" * 64, "ref": "model"}
    assert whole["models"]["baseline"] is None
    (entry,) = whole["sets"]  # a figure without a value is left out
    assert (entry["name"], entry["measure"], entry["better"], entry["items"]) == (
        "watch",
        "mean",
        "lower",
        40,
    )
    assert entry["values"]["baseline"] is None
    assert entry["against"]["baseline"] is None
    value, difference = entry["values"]["model"], entry["against"]["champion"]
    assert value["low"] < value["value"] < value["high"]
    assert difference["difference"] == pytest.approx(value["value"] - entry["values"]["champion"]["value"])
    assert difference["low"] < difference["difference"] < difference["high"]
    assert result.metrics["mean"] == value["value"]
    assert result.metrics["mean.against_champion"] == difference["difference"]
    assert result.figure.startswith("mean ")


def test_figures_follow_from_the_items(write):
    out, result = write()
    table = pyarrow.parquet.read_table(out / "items/watch.parquet").to_pydict()
    assert table["key"] == KEYS
    assert result.metrics["mean"] == pytest.approx(numpy.mean(table["model.score"]))


def test_the_items_that_changed_are_named(write):
    known = {
        "model": {"score": numpy.array([1.0, 0.0, 1.0])},
        "champion": {"score": numpy.array([0.0, 1.0, 1.0])},
    }
    out, _ = write(columns=known, keys=KEYS[:3])
    (entry,) = json.loads((out / "probe.json").read_text())["changed"]
    assert (entry["set"], entry["measure"], entry["figure"]) == ("watch", "example", "mean")
    assert entry["against"] == "champion"
    assert (entry["worse"], entry["better"]) == ([KEYS[0]], [KEYS[1]])  # lower is better


def test_differences_are_paired(write):
    shifted = {"model": {"score": COLUMNS["champion"]["score"] + 0.01}, "champion": COLUMNS["champion"]}
    out, _ = write(columns=shifted)
    found = json.loads((out / "probe.json").read_text())["sets"][0]["against"]["champion"]
    assert found["low"] == pytest.approx(0.01)
    assert found["high"] == pytest.approx(0.01)


def test_what_is_no_sample_has_no_width(write):
    out, _ = write(options=None)
    entry = json.loads((out / "probe.json").read_text())["sets"][0]
    value, difference = entry["values"]["model"], entry["against"]["champion"]
    assert value["low"] == value["value"] == value["high"]
    assert difference["low"] == difference["difference"] == difference["high"]


def test_the_same_again(write):
    files = []
    for name in ("one", "two"):
        out, _ = write(name)
        files.append({str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()})
    assert files[0] == files[1]
    assert {*files[0]} == {"probe.json", "items/watch.parquet"}
