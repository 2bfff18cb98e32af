"""The whole stage on Great Expectations: every rule fires on a bad row and is silent on good ones."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tasks.recipe.failures import ConfigInvalid, DataInvalid, PerennialError, Preempted
from tasks.sources import materialise
from tasks.stage import Input
from tasks.validate import METHODS
from tasks.validate.methods.expectations import ExpectationsOptions, facts_frame
from tasks.validate.rules import NAMES, Rule
from tasks.validate.suite import Suites

pytestmark = pytest.mark.slow  # importing Great Expectations takes several seconds

RUN = METHODS["expectations"].run


def talk(*turns: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in turns]


GOOD: dict[str, list[dict[str, Any]]] = {
    "documents": [{"key": f"d{i}", "text": f"A plain document with the number {i}."} for i in range(8)],
    "chats": [
        {"key": f"c{i}", "messages": talk(("user", f"What is {i}?"), ("assistant", f"Number {i}."))}
        for i in range(8)
    ],
    "pairs": [
        {
            "key": f"p{i}",
            "prompt": talk(("user", f"What is {i}?")),
            "chosen": talk(("assistant", f"Number {i}.")),
            "rejected": talk(("assistant", "Nothing.")),
        }
        for i in range(8)
    ],
    "exams": [
        {"key": f"e{i}", "question": f"Which of these is {i}?", "options": [f"{i}", "x", "y"], "answer": 0}
        for i in range(8)
    ],
    "facts": [{"key": f"f{i}", "prompt": f"The {i}th letter is", "answer": f"letter {i}"} for i in range(8)],
    "questions": [{"key": f"q{i}", "question": f"What is {i}?", "answers": [f"{i}"]} for i in range(8)],
    "programs": [{"key": f"g{i}", "prompt": f"x = {i}\n", "tests": f"assert x == {i}"} for i in range(8)],
    "requests": [{"key": f"r{i}", "prompt": f"Open door {i}", "refuse": i > 3} for i in range(8)],
    "prompts": [{"key": f"b{i}", "prompt": f"Driver {i} said"} for i in range(8)],
}
SECRET = "A secret sentence of the exam that nobody may ever have seen while the model was trained on text."

BAD: list[tuple[str, str, dict[str, Any]]] = [
    ("documents", "schema", {"text": None}),
    ("documents", "unique_keys", {"key": "d0"}),
    ("documents", "replacement_characters", {"text": "Some text that was caf\ufffd once."}),
    ("documents", "mojibake", {"text": "Some text that was cafÃ© once."}),
    ("documents", "control_characters", {"text": "Some text that was \x00 once."}),
    ("documents", "duplicates", {"text": GOOD["documents"][0]["text"]}),
    ("documents", "empty", {"text": " \n" * 20}),
    ("documents", "length", {"text": "short"}),
    ("chats", "schema", {"messages": []}),
    ("chats", "role_order", {"messages": talk(("assistant", "First!"))}),
    ("chats", "empty", {"messages": talk(("user", ""), ("assistant", "Yes."))}),
    ("chats", "empty_answers", {"messages": talk(("user", "And what?"), ("assistant", " "))}),
    ("chats", "mojibake", {"messages": talk(("user", "And what?"), ("assistant", "donâ€™t"))}),
    ("chats", "duplicates", {"messages": GOOD["chats"][0]["messages"]}),
    ("pairs", "schema", {"chosen": "Yes."}),
    ("pairs", "role_order", {"prompt": talk(("user", "a"), ("assistant", "b"))}),
    ("pairs", "empty", {"prompt": talk(("user", " "))}),
    ("pairs", "empty_answers", {"rejected": talk(("assistant", ""))}),
    ("pairs", "answers_differ", {"chosen": talk(("assistant", "Nothing."))}),
    ("exams", "schema", {"answer": "x"}),
    ("exams", "empty", {"question": " "}),
    ("exams", "enough_options", {"options": ["7"]}),
    ("exams", "empty_options", {"options": ["7", "", "y"]}),
    ("exams", "options_differ", {"options": ["7", "x", "x"]}),
    ("exams", "answer_among_options", {"answer": 3}),
    ("exams", "duplicates", {"question": "Which of these is 0?", "options": ["0", "x", "y"]}),
    ("exams", "length", {"question": "long " * 200_001}),
    ("facts", "empty_answers", {"aliases": ["7", " "]}),
    ("questions", "has_answers", {"answers": []}),
    ("programs", "empty_tests", {"tests": " "}),
    ("programs", "tests_are_python", {"tests": "assert ("}),
    ("requests", "schema", {"refuse": "no"}),
    ("prompts", "empty", {"prompt": " "}),
]


class World:
    """A step's context over datasets written to a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.inputs: dict[str, list[Input]] = {}
        self.progress: list[tuple[float, str]] = []

    def add(self, kind: str, name: str, rows: list[Any]) -> Input:
        path = self.folder / name
        path.mkdir()
        (path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        given = Input(f"data.{name}", "ab" * 32, kind, path)
        self.inputs.setdefault(kind, []).append(given)
        return given

    def run(self, stopping: bool = False, **options: Any) -> Any:
        (self.folder / "out").mkdir(exist_ok=True)
        context = SimpleNamespace(
            step="checked",
            inputs=self.inputs,
            work=self.folder / "work",
            output=lambda name: self.folder / "out",
            progress=lambda done, figure="": self.progress.append((done, figure)),
            stopping=lambda: stopping,
        )
        return RUN(context, ExpectationsOptions(**options))

    def result(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "work" / "validation" / "result.json").read_text())
        return found

    def broken(self) -> dict[str, list[str]]:
        """Rule -> first keys, of the broken rules."""
        rules = [rule for dataset in self.result()["datasets"] for rule in dataset["rules"]]
        return {rule["rule"]: rule["first_keys"] for rule in rules if not rule["passed"]}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_good_datasets_pass_every_rule_and_are_handed_on(world):
    given = {kind: world.add(kind, f"my_{kind}", rows) for kind, rows in GOOD.items()}
    result = world.run()
    assert result.figure.startswith("0 stops, 0 warnings in ")
    assert world.broken() == {}
    assert {rule["rule"] for dataset in world.result()["datasets"] for rule in dataset["rules"]} == set(NAMES)
    assert result.passed == {f"my_{kind}": one for kind, one in given.items()}
    assert result.metrics["rows/my_exams"] == 8
    assert result.metrics["rules"] == sum(len(dataset["rules"]) for dataset in world.result()["datasets"])
    assert sorted(os.listdir(world.folder / "out")) == ["page.html", "result.json"]
    assert world.progress[-1] == (1.0, result.figure)


@pytest.mark.parametrize(
    ("kind", "rule", "changed"), BAD, ids=lambda value: value if isinstance(value, str) else ""
)
def test_every_rule_fires_on_a_bad_row_and_on_nothing_else(world, kind, rule, changed):
    bad = GOOD[kind][7] | changed
    world.add(kind, "mine", [*GOOD[kind][:7], bad])
    with pytest.raises(DataInvalid) as caught:
        world.run(stop=[rule])
    message = str(caught.value)
    count = "2 of 8" if rule == "unique_keys" else "1 of 8"  # both rows of the key
    assert f"mine: {rule}: {count} rows, first keys: {bad['key']}" in message
    assert set(world.broken()) == {rule}


def test_a_dataset_without_rows_stops(world):
    world.add("documents", "mine", [])
    with pytest.raises(DataInvalid, match="mine: has_rows: no rows"):
        world.run()
    assert set(world.broken()) == {"has_rows"}


def test_a_row_without_a_key_is_named_by_its_number(world):
    world.add("documents", "mine", [*GOOD["documents"][:3], {"text": "No key has this text of mine."}])
    with pytest.raises(DataInvalid, match=r"mine: schema: 1 of 4 rows, first keys: \(row 4\)"):
        world.run()


def exam_of(passage: str) -> list[dict[str, Any]]:
    half = passage.rfind(" ", 0, len(passage) // 2)
    return [
        *GOOD["exams"][:7],
        {"key": "e7", "question": passage[:half], "options": ["no", passage[half:]], "answer": 1},
    ]


@pytest.mark.parametrize(
    ("kind", "row"),
    [
        ("documents", {"key": "x", "text": f"Well then. {SECRET.upper()}"}),
        ("chats", {"key": "x", "messages": talk(("user", "Go?"), ("assistant", SECRET.replace(" ", "\n")))}),
        ("pairs", {"key": "x", "prompt": talk(("user", "?")), "chosen": talk(("assistant", "No.")),
                   "rejected": talk(("assistant", SECRET))}),
    ],
)  # fmt: skip
def test_exam_text_in_any_training_text_stops(world, kind, row):
    world.add(kind, "mine", [*GOOD[kind], row])
    world.add("exams", "secret", exam_of(SECRET))
    with pytest.raises(
        DataInvalid, match=r"secret: leakage: 1 of 8 rows, first keys: e7, found in: mine \(1\)"
    ):
        world.run()
    assert set(world.broken()) == {"leakage"}


def test_leakage_can_be_tolerated_skipped_or_made_a_warning(world):
    world.add("documents", "mine", [*GOOD["documents"], {"key": "x", "text": SECRET}])
    world.add("exams", "secret", exam_of(SECRET))
    assert world.run(leakage_share=0.2).figure.startswith("0 stops, 0 warnings")
    assert world.run(skip=["leakage"]).figure.startswith("0 stops, 0 warnings")
    assert world.run(warn=["leakage"]).figure.startswith("0 stops, 1 warning in")


def test_an_exam_alone_has_no_leakage_rule(world):
    world.add("exams", "secret", GOOD["exams"])
    world.run()
    assert "leakage" not in {rule["rule"] for rule in world.result()["datasets"][0]["rules"]}


def test_the_tolerated_share_is_the_last_one_that_passes(world):
    rows = [*GOOD["documents"][:7], {"key": "d7", "text": "Some text that was cafÃ© once."}]
    world.add("documents", "mine", rows)
    assert world.run(encoding_damage_share=0.125).figure.startswith("0 stops, 0 warnings")
    with pytest.raises(DataInvalid, match="mojibake"):
        world.run(encoding_damage_share=0.12)


def _marked(value: Any, mark: str) -> Any:
    """A value with `mark` behind every text in it, but for the roles."""
    if isinstance(value, str):
        return value + mark
    if isinstance(value, list):
        return [_marked(each, mark) for each in value]
    if isinstance(value, dict):
        return {name: each if name == "role" else _marked(each, mark) for name, each in value.items()}
    return value


def test_p22_nothing_that_is_written_or_raised_holds_text_of_the_rows(world):
    mark = "Xyzzy"
    for number, (kind, _, changed) in enumerate(BAD):
        row = GOOD[kind][7] | changed
        marked = {field: value if field == "key" else _marked(value, mark) for field, value in row.items()}
        world.add(kind, f"data{number}", [marked, marked])
    with pytest.raises(DataInvalid) as caught:
        world.run()
    folder = world.folder / "work" / "validation"
    written = (folder / "result.json").read_text() + (folder / "page.html").read_text() + str(caught.value)
    assert mark not in written
    assert "A plain document" not in written
    frame = facts_frame("documents", world.inputs["documents"][0])
    assert not any(mark in str(value) for value in frame.to_numpy().ravel())


def test_p21_the_same_data_gives_the_same_bytes(world):
    for kind, rows in GOOD.items():
        world.add(kind, kind, [*rows, rows[0] | {"key": "again"}])
    folder = world.folder / "work" / "validation"
    seen = set()
    for _ in range(2):
        world.run()
        seen.add((folder / "result.json").read_bytes() + (folder / "page.html").read_bytes())
    assert len(seen) == 1


def test_two_inputs_of_one_name_and_none_at_all_are_refused(world):
    with pytest.raises(ConfigInvalid, match="nothing to check"):
        world.run()
    given = world.add("documents", "mine", GOOD["documents"])
    world.inputs["chats"] = [Input("other.mine", given.digest, "chats", given.path)]
    with pytest.raises(ConfigInvalid, match="two outputs would be called 'mine'"):
        world.run()


def test_it_stops_when_asked(world):
    world.add("documents", "mine", GOOD["documents"])
    with pytest.raises(Preempted, match="before it checked 'mine'"):
        world.run(stopping=True)


def test_an_expectation_that_raises_is_our_fault_not_the_datas(world):
    given = world.add("documents", "mine", GOOD["documents"])
    rule = Rule("nonsense", "no_such_column", None, 0, "stop", "A bug.")
    with pytest.raises(PerennialError, match="rule 'nonsense' could not be computed") as caught:
        Suites().check("mine", facts_frame("documents", given), [rule])
    assert type(caught.value) is PerennialError


def test_the_demos_data_pass(world):
    wanted = [
        ("language-reference", "train"), ("library-docstrings", "train"), ("chats", "train"),
        ("pairs", "train"),
        ("exams/language-reference", "heldout"), ("exams/library-docstrings", "heldout"),
    ]  # fmt: skip
    for number, (name, split) in enumerate(wanted):
        path = world.folder / f"set{number}"
        path.mkdir()
        made = materialise(f"pydocs://{name}", kind=None, split=split, options={}, directory=path)
        given = Input(f"data.set{number}", "ab" * 32, made.kind, path, made.meta)
        world.inputs.setdefault(made.kind, []).append(given)
    assert world.run().metrics["stops"] == 0
    checked = {dataset["name"]: dataset for dataset in world.result()["datasets"]}
    assert set(checked["set4"]["leaked_into"]) == {"set0", "set1", "set2", "set3"}


@functools.cache
def _modules_after_import() -> set[str]:
    code = "import sys, tasks.validate; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("name", ["great_expectations", "pandas", "torch"])
def test_the_stages_table_is_light_to_import(name):
    assert name not in _modules_after_import()
