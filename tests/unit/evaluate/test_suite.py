"""The whole evaluation of tiny models: the report, its page, its items, and what is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from tasks.evaluate import METHODS
from tasks.evaluate.scoring import load_subject
from tasks.evaluate.statistics.bootstrap import QUANTILES
from tasks.recipe.failures import ConfigInvalid, DataInvalid, Preempted
from tasks.stage import Input
from tests.unit.evaluate.suite_rows import DOCUMENTS, EXAMS, LOG


def report_of(out: Path):
    return json.loads((out / "report.json").read_text())


def entry_of(report, name: str) -> Any:
    """The entry that a gate calls `<set>.<figure>`."""
    return {f"{entry['name']}.{entry['measure']}": entry for entry in report["sets"]}[name]


def test_report_has_the_agreed_form(evaluate, inputs):
    out, result = evaluate(inputs)
    report = report_of(out)
    assert report["schema"] == 2
    assert report["models"]["model"] == {"digest": "m" * 64, "ref": "merged"}
    assert [entry["measure"] for entry in report["sets"]] == [
        "bits_per_byte",
        *("accuracy", "accuracy_unnormalised", "calibration_error", "brier"),
        *("negative_flips", "positive_flips", "inconsistency"),
    ]
    news, exams = entry_of(report, "news.bits_per_byte"), entry_of(report, "exams.accuracy")
    assert (news["name"], news["measure"], news["better"], news["items"]) == (
        "news",
        "bits_per_byte",
        "lower",
        6,
    )
    assert (exams["name"], exams["measure"], exams["better"], exams["items"]) == (
        "exams",
        "accuracy",
        "higher",
        9,
    )
    for entry in report["sets"][:5]:
        for role in ("model", "baseline", "champion"):
            value = entry["values"][role]
            assert value["low"] <= value["value"] <= value["high"]
        for role in ("baseline", "champion"):
            against = entry["against"][role]
            found = list(against["quantiles"].values())
            assert found == sorted(found)
            assert list(against["quantiles"]) == [f"{each:g}" for each in QUANTILES]
            assert against["detectable"] > against["error"] > 0
            difference = entry["values"]["model"]["value"] - entry["values"][role]["value"]
            assert against["difference"] == pytest.approx(difference)
            assert against["low"] <= against["difference"] <= against["high"]
    assert news["against"]["baseline"]["relative"] == pytest.approx(
        news["against"]["baseline"]["difference"] / news["values"]["baseline"]["value"]
    )
    assert result.figure.startswith("news ")
    assert result.figure.endswith("% vs base)")
    assert result.metrics["news.bits_per_byte"] == news["values"]["model"]["value"]


def test_every_figure_can_be_computed_again_from_the_items(evaluate, inputs):
    out, _ = evaluate(inputs)
    news, exams = (entry_of(report_of(out), name) for name in ("news.bits_per_byte", "exams.accuracy"))
    items = pyarrow.parquet.read_table(out / "items/news.parquet").to_pydict()
    assert items["key"] == [row["key"] for row in DOCUMENTS]
    bits = sum(items["baseline.nats"]) / sum(items["baseline.bytes"]) / 0.6931471805599453
    assert news["values"]["baseline"]["value"] == pytest.approx(bits)
    items = pyarrow.parquet.read_table(out / "items/exams.parquet").to_pydict()
    right = sum(c == a for c, a in zip(items["champion.choice"], items["champion.answer"], strict=True))
    assert exams["values"]["champion"]["value"] == pytest.approx(right / 9)
    assert all(len(values) == 3 for values in items["model.log_likelihoods"])


def test_the_same_inputs_give_the_same_bytes(evaluate, inputs):
    files = []
    for name in ("one", "two"):
        out, _ = evaluate(inputs, name)
        files.append({str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()})
    assert files[0] == files[1]
    tables = {f"{part}/{name}.parquet" for part in ("items", "restricted") for name in ("news", "exams")}
    assert set(files[0]) == {"report.json", "report.html", "restricted.html"} | tables


def test_values_do_not_depend_on_the_batch(evaluate, inputs):
    one, seven, many = (
        report_of(evaluate(inputs, str(size), batch_size=size)[0])["sets"] for size in (1, 7, 64)
    )
    for other in (seven, many):
        for a, b in zip(one, other, strict=True):
            if a["values"]["model"] is not None:
                assert a["values"]["model"]["value"] == pytest.approx(b["values"]["model"]["value"], abs=1e-5)
            against = [each["against"]["champion"]["difference"] for each in (a, b)]
            assert against[0] == pytest.approx(against[1], abs=1e-5)


def test_a_model_in_two_roles_is_scored_once(evaluate, inputs, monkeypatch: pytest.MonkeyPatch):
    loaded = []

    def counted(item: Input, max_length: int):
        loaded.append(item.ref)
        return load_subject(item, max_length)

    monkeypatch.setattr("tasks.evaluate.methods.suite.load_subject", counted)
    inputs["champion"] = [Input("champion", "m" * 64, "model", inputs["model"][0].path)]
    out, _ = evaluate(inputs)
    assert len(loaded) == 2
    assert report_of(out)["sets"][0]["against"]["champion"]["difference"] == 0.0
    assert "is this same model" in (out / "report.html").read_text()


def test_without_a_champion_its_places_are_null(evaluate, inputs):
    del inputs["champion"]
    report = report_of(evaluate(inputs)[0])
    assert report["models"]["champion"] is None
    for entry in report["sets"]:
        assert entry["values"]["champion"] is None
        assert entry["against"]["champion"] is None


def test_without_anything_to_compare_with_the_page_still_stands(evaluate, inputs):
    out, result = evaluate({port: inputs[port] for port in ("model", "exams")})
    assert report_of(out)["sets"][0]["against"] == {"baseline": None, "champion": None}
    assert "Differences" not in (out / "report.html").read_text()
    assert re.fullmatch(r"exams \d+% right", result.figure)


def test_manifest_freezes_what_the_scores_depend_on(evaluate, inputs):
    one = report_of(evaluate(inputs, "one")[0])
    other = report_of(evaluate(inputs, "two", exam_prompt="{question}")[0])
    news = one["manifest"]["sets"]["news"]
    assert len(news.pop("items_digest")) == 64
    assert news == {
        "digest": "n" * 64,
        "items": 6,
        "port": "documents",
        "measures": {"bits_per_byte": {"version": 1, "templates": {}}},
    }
    templates = [each["manifest"]["sets"]["exams"]["measures"]["multiple_choice"] for each in (one, other)]
    assert templates[0]["templates"]["exam_prompt"] != templates[1]["templates"]["exam_prompt"]
    assert one["manifest"]["dtype"] == "float32"
    assert "does not depend on the batch" in one["manifest"]["batch_policy"]
    assert len(one["measured"]["model"]["chat_template"]) == 64
    assert one["manifest_digest"] != other["manifest_digest"]
    assert one["measured"]["model"]["prefix"].startswith("beginning of text")
    assert one["measured"]["model"]["window"] == 256


class Balance(HTMLParser):
    """Fails on a tag that closes another, and on anything fetched from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        assert not {"src", "srcset"} & {name for name, _ in attrs}
        assert tag not in ("link", "script", "img", "iframe")
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_page_is_whole_self_contained_and_has_the_place_for_changes(evaluate, inputs):
    page = (evaluate(inputs)[0] / "report.html").read_text()
    parser = Balance()
    parser.feed(page)
    assert parser.open == []
    assert page.count("<!-- changes -->") == 1
    assert page.count('class="interval') == 4  # two sets beside baseline and champion
    assert page.count('class="curve"') == 1
    assert "What changed and why" in page
    for shown in ("merged", "base", "news", "exams", "adapted"):
        assert shown in page
    assert "the value of an object" not in page  # items stay in the store


def test_names_from_recipes_are_escaped_on_the_page(evaluate, inputs):
    inputs["model"] = [Input("<script>x", "m" * 64, "model", inputs["model"][0].path)]
    assert "<script>x" not in (evaluate(inputs)[0] / "report.html").read_text()


def test_limit_uses_the_first_rows(evaluate, inputs):
    report = report_of(evaluate(inputs, limit=4)[0])
    assert {entry["items"] for entry in report["sets"]} == {4}


def test_stopping_ends_as_preempted(make_context, inputs):
    context = make_context({})
    context.inputs = inputs
    context.stop_after = 2
    with pytest.raises(Preempted):
        METHODS["suite"].run(context, METHODS["suite"].options())


def test_progress_rises_to_one(make_context, inputs):
    context = make_context({})
    context.inputs = inputs
    METHODS["suite"].run(context, METHODS["suite"].options.model_validate({"resamples": 100}))
    shares = [done for done, _ in context.said]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_the_report_keeps_what_a_training_did_and_needed(evaluate, inputs):
    log = inputs["logs"][0].path
    needs = {
        "samples": 1200,
        "tokens": 99_000,
        "repeated_share": 0.5,
        "optimiser_steps": 75,
        "tokens_per_step": 1320,
        "parameters": 2_600_000,
        "trained_parameters": 2_500_000,
        "memory_bytes": {"process": 3 * 2**20, "weights": 10 * 2**20, "copies": 0},
        "checkpoint_bytes": 30 * 2**20,
    }
    header = {"objective": "causal_lm", "device": "cpu", "world_size": 2, "needs": needs}
    (log / "header.json").write_text(json.dumps(header))
    (log / "mask_report.json").write_text(json.dumps({"rows": 40, "kept": 37}))
    out, _ = evaluate(inputs)
    kept = report_of(out)["trainings"]["adapted"]
    assert kept == {
        "objective": "causal_lm",
        "device": "cpu",
        "processes": 2,
        **needs,
        "rows_kept": 37,
        "rows_dropped": 3,
    }
    page = (out / "report.html").read_text()
    for shown in ("1,200", "99,000", "2,500,000", "13 MiB", "3 left out", "1,320 tokens each"):
        assert shown in page
    assert "copies" not in page


def test_a_log_without_a_header_has_its_curve_alone(evaluate, inputs):
    out, _ = evaluate(inputs)
    assert report_of(out)["trainings"] == {}
    assert list(report_of(out)["curves"]) == ["adapted"]
    assert {len(each) for each in report_of(out)["curves"]["adapted"].values()} == {len(LOG)}


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The references of the models that were loaded."""
    loaded: list[str] = []

    def counted(item: Input, max_length: int):
        loaded.append(item.ref)
        return load_subject(item, max_length)

    monkeypatch.setattr("tasks.evaluate.methods.suite.load_subject", counted)
    return loaded


def files_of(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_a_model_is_never_scored_twice_on_one_manifest(
    make_context, inputs, loads, tiny_model_like: Callable[..., Path], tmp_path: Path
):
    kept: dict[str, Path] = {}

    def run(name: str, kept: dict[str, Path], candidate: Input, **options) -> dict[str, bytes]:
        context = make_context({**inputs, "model": [candidate]}, directory=tmp_path / name, step="report")
        context.kept = kept
        method = METHODS["suite"]
        method.run(context, method.options.model_validate({"resamples": 100, "limit": 3, **options}))
        return files_of(tmp_path / name / "outputs/report")

    first, second = inputs["model"][0], Input("tuned", "t" * 64, "model", tiny_model_like(3))
    run("one", kept, first)
    assert loads == ["merged", "base", "champion"]
    reused = run("two", kept, second)
    assert loads[3:] == ["tuned"]  # champion and base are known
    assert run("three", {}, second) == reused  # and the report is the same as without what was kept
    assert loads[4:] == ["tuned", "base", "champion"]
    run("four", kept, second, confidence=0.9, batch_size=3)
    assert len(loads) == 7  # nothing that scores depend on has changed
    run("five", kept, second, stride=100)
    assert loads[7:] == ["tuned", "base", "champion"]  # a changed manifest scores the champion too
    run("six", kept, second, stride=100)
    assert len(loads) == 10
    run("seven", kept, second, shots=[0, 1])
    assert loads[10:] == ["tuned", "base", "champion"]


def test_reused_scores_are_told(make_context, inputs, tmp_path: Path):
    notes = []
    kept: dict[str, Path] = {}
    for name in ("one", "two"):
        context = make_context(inputs, directory=tmp_path / name)
        context.kept = kept
        METHODS["suite"].run(context, METHODS["suite"].options.model_validate({"resamples": 100}))
        notes.append(context.notes)
    assert notes[0] == []
    assert notes[1][0] == "merged: 2 of 2 measurements were made before and are used again"


def test_flips_are_shares_of_items_against_each_model(evaluate, inputs):
    out, _ = evaluate(inputs)
    report = report_of(out)
    items = pyarrow.parquet.read_table(out / "items/exams.parquet").to_pydict()
    pairs = list(zip(items["model.right"], items["champion.right"], strict=True))
    for name, pair in (("negative_flips", (0, 1)), ("positive_flips", (1, 0))):
        entry = entry_of(report, f"exams.{name}")
        assert entry["values"] == {"model": None, "baseline": None, "champion": None}
        assert entry["against"]["champion"]["difference"] == pytest.approx(pairs.count(pair) / 9)
        assert entry["against"]["champion"]["relative"] is None
        assert entry["against"]["champion"]["high"] > entry["against"]["champion"]["difference"]
    flips = [entry_of(report, f"exams.{name}")["against"]["champion"]["difference"] for name in
             ("negative_flips", "positive_flips")]  # fmt: skip
    accuracy = entry_of(report, "exams.accuracy")["against"]["champion"]
    assert accuracy["difference"] == pytest.approx(flips[1] - flips[0])
    assert 0 < accuracy["p_value"] <= 1
    assert entry_of(report, "exams.brier")["against"]["champion"]["p_value"] is None


def test_the_text_of_what_changed_stands_in_the_restricted_table_alone(evaluate, inputs):
    out, _ = evaluate(inputs)
    items = pyarrow.parquet.read_table(out / "items/exams.parquet").to_pydict()
    changed = pyarrow.parquet.read_table(out / "restricted/exams.parquet").to_pylist()
    for role in ("baseline", "champion"):
        rights = zip(items["key"], items["model.right"], items[f"{role}.right"], strict=True)
        expected = [(key, was, now) for key, now, was in rights if was != now]
        assert [(row["key"], row["was"], row["now"]) for row in changed if row["against"] == role] == expected
    assert changed
    texts = {row["key"]: row["question"] for row in EXAMS}
    assert all(row["question"] == texts[row["key"]] for row in changed)
    assert changed[0]["options"].count("* ") == 1
    for name, content in files_of(out).items():
        assert name.startswith("restricted") or b"What is the key" not in content


def test_groups_have_their_figures_and_their_gap(evaluate, inputs, write_rows):
    rows = [{**row, "group": "north" if i < 4 else "south"} for i, row in enumerate(EXAMS)]
    del rows[8]["group"]
    inputs["exams"] = [Input("data.exams", "g" * 64, "exams", write_rows("grouped", rows))]
    out, _ = evaluate(inputs)
    report = report_of(out)
    entry, gap = entry_of(report, "exams.accuracy"), entry_of(report, "exams.accuracy_gap")
    items = pyarrow.parquet.read_table(out / "items/exams.parquet").to_pydict()
    assert items["group"] == ["north"] * 4 + ["south"] * 4 + [""]
    rights = {"north": items["champion.right"][:4], "south": items["champion.right"][4:8]}
    assert list(entry["groups"]) == ["north", "south"]
    for group, right in rights.items():
        assert entry["groups"][group]["items"] == 4
        assert entry["groups"][group]["values"]["champion"]["value"] == pytest.approx(sum(right) / 4)
    apart = abs(sum(rights["north"]) - sum(rights["south"])) / 4
    assert gap["values"]["champion"]["value"] == pytest.approx(apart)
    assert gap["better"] == "lower"
    assert "groups" not in entry_of(report, "news.bits_per_byte")


def test_a_group_that_is_no_text_is_named(evaluate, inputs, write_rows):
    rows = [{**DOCUMENTS[0], "group": 3}]
    inputs["documents"] = [Input("data.bad", "x", "documents", write_rows("bad", rows))]
    with pytest.raises(DataInvalid, match=r"data\.bad.*line 1.*group 3"):
        evaluate(inputs)


def test_an_equal_model_differs_by_nothing_and_is_sure_of_it(evaluate, inputs):
    inputs["champion"] = [Input("champion", "m" * 64, "model", inputs["model"][0].path)]
    report = report_of(evaluate(inputs)[0])
    for entry in report["sets"]:
        against = entry["against"]["champion"]
        assert against["low"] == against["high"] == against["difference"] == 0
        assert against["detectable"] is None


def test_every_measure_of_a_port_has_columns_of_its_own(evaluate, inputs):
    prompts = {"wordings": ["{question}", "Q: {question}\nA:"], "wordings_unseen": ["Say: {question}"]}
    out, result = evaluate(inputs, shots=[0, 1, 4], **prompts)
    report = report_of(out)
    named = {name.partition(".")[2] for name in result.metrics if name.startswith("exams.")}
    assert {"few_shot", "accuracy_0", "accuracy_4", "wording_worst", "wording_unseen_mean"} <= named
    assert "accuracy_2" not in named
    accuracy = entry_of(report, "exams.accuracy")["values"]["model"]["value"]
    assert entry_of(report, "exams.accuracy_0")["values"]["model"]["value"] == accuracy
    columns = pyarrow.parquet.read_table(out / "items/exams.parquet").column_names
    assert {"model.right_at_4", "model.worded", "champion.worded_unseen", "model.right"} <= set(columns)


CHANGED = {
    "set": "whatever",
    "measure": "noise",
    "figure": "drop",
    "figures": [],
    "against": "champion",
    "counts": {"worse": 1, "better": 0},
    "worse": ["a"],
    "better": [],
}


def probe_of(directory: Path, **changes: Any) -> Path:
    import pyarrow as arrow

    value = {"value": 0.2, "low": 0.1, "high": 0.3}
    entry = {
        "name": "whatever",
        "measure": "drop",
        "unit": "",
        "better": "lower",
        "items": 3,
        "values": {"model": value, "baseline": None, "champion": None},
        "against": {"baseline": None, "champion": None},
    }
    content = {
        "schema": 1,
        "probe": "noise",
        "manifest": {"version": 1},
        "models": {"model": {"digest": "m" * 64, "ref": "merged"}},
        "sets": [entry],
        "changed": [CHANGED],
        "notes": ["three seeds"],
        "samples": [{"text": "a secret sample"}],
        **changes,
    }
    (directory / "items").mkdir(parents=True)
    (directory / "probe.json").write_text(json.dumps(content))
    arrow.parquet.write_table(arrow.table({"key": ["a"]}), directory / "items/noise.parquet")
    return directory


def test_a_probes_figures_go_into_the_report_under_its_steps_name(evaluate, inputs, tmp_path: Path):
    inputs["probes"] = [Input("brittle", "p" * 64, "probe", probe_of(tmp_path / "probe"))]
    out, result = evaluate(inputs)
    report = report_of(out)
    assert entry_of(report, "brittle.drop")["values"]["model"]["value"] == 0.2
    assert report["probes"] == {"brittle": {"probe": "noise", "notes": ["three seeds"]}}
    assert {**CHANGED, "set": "brittle"} in report["changed"]
    assert 'id="changed-brittle' in (out / "report.html").read_text()
    assert report["manifest"]["probes"] == {"brittle": {"version": 1}}
    assert result.metrics["brittle.drop"] == 0.2
    assert (out / "items/brittle.noise.parquet").is_file()
    for name, content in files_of(out).items():
        assert (b"a secret sample" in content) == (name in ("restricted/brittle.json", "restricted.html"))


def test_a_probe_of_another_model_is_refused(evaluate, inputs, tmp_path: Path):
    other = {"model": {"digest": "o" * 64, "ref": "older"}}
    inputs["probes"] = [Input("brittle.probe", "p" * 64, "probe", probe_of(tmp_path / "probe", models=other))]
    with pytest.raises(ConfigInvalid, match="'older' as its model, the report has 'merged'"):
        evaluate(inputs)
