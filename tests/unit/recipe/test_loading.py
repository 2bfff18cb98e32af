import math
from pathlib import Path

import pytest

from tasks.recipe.loading import list_recipes, load, load_text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2e-4", 2e-4),
        ("1E5", 1e5),
        (".5", 0.5),
        ("10", 10),
        ("010", 10),
        ("0x1f", 31),
        ("0o17", 15),
        ("-3", -3),
        ("1.", 1.0),
        ("true", True),
        ("no", "no"),
        ("on", "on"),
        ("3:30", "3:30"),
        ("2026-01-01", "2026-01-01"),
        ("~", None),
        ("'5'", "5"),
        ("!!str 5", "5"),
        ("1_000", "1_000"),
        ("e5", "e5"),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text, value):
    loaded = load_text(f"key: {text}\n")
    assert loaded.problems == []
    assert loaded.value == {"key": value}
    assert type(loaded.value["key"]) is type(value)


def test_on_is_a_key():
    assert load_text("schedule: {on: [a]}\n").value == {"schedule": {"on": ["a"]}}


def test_every_key_and_item_has_its_place():
    places = load_text("a:\n  b: [x, {c: 1}]\n").places
    assert places[("a", "b")] == (2, 3)
    assert places[("a", "b", 0)] == (2, 7)
    assert places[("a", "b", 1, "c")] == (2, 11)


def test_a_key_twice_is_a_problem_and_the_first_counts():
    loaded = load_text("a: 1\nb: 2\na: 3\n")
    assert loaded.value == {"a": 1, "b": 2}
    assert [(each.line, each.key) for each in loaded.problems] == [(3, "a")]
    assert "line 1" in loaded.problems[0].message


def test_merge_keys_and_aliases():
    loaded = load_text("base: &base {x: 1, y: 2}\nother: {y: 3, <<: *base}\n")
    assert loaded.problems == []
    assert loaded.value["other"] == {"x": 1, "y": 3}
    assert loaded.places[("other", "y")][0] == 2


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: 1\nb: [\n", 3, "not YAML"),
        ("a: 1\n\tb: 2\n", 2, "not YAML"),
        ("a: .inf\n", 1, "not finite"),
        ("a: .nan\n", 1, "not finite"),
        ("a: 1e999\n", 1, "not finite"),
        ("a: " + "9" * 5000 + "\n", 1, "5000 digits"),
        ("a: !!python/object:os.system x\n", 1, "tag"),
        ("a: !!set {x}\n", 1, "tag"),
        ("a: 1\n? [x]\n: 2\n", 2, "a key must be a word"),
        ("a: &a [*a]\n", 1, "refers to what contains it"),
        ("a: " + "[" * 60 + "]" * 60 + "\n", 1, "too deeply"),
        ("[" * 5000 + "\n", 1, "too deeply"),
        ('a: "\\ud800"\n', 1, "surrogate"),
        ('a: "\\UFFFFFFFF"\n', 1, "not YAML"),
        ("a: \x01\n", 1, "not allowed"),
        ("a: 1\n---\nb: 2\n", 2, "not YAML"),
        ("\n\n", 1, "empty"),
        ("a: 1\nb: {<<: 5}\n", 2, "takes a mapping"),
    ],
)
def test_what_is_no_recipe_is_a_problem_with_its_line(text, line, words):
    loaded = load_text(text)
    assert len(loaded.problems) == 1
    assert loaded.problems[0].line == line
    assert words in loaded.problems[0].message
    assert loaded.problems[0].remedy


def test_aliases_that_multiply_are_refused():
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    (problem,) = load_text("\n".join(rows)).problems
    assert "more than" in problem.message


def test_not_utf8_names_line_and_byte(tmp_path: Path):
    path = tmp_path / "r.yaml"
    path.write_bytes(b"recipe: x\nmodel: caf" + b"\xe9\n")
    (problem,) = load(path).problems
    assert (problem.file, problem.line, problem.column) == (str(path), 2, 11)
    assert "0xe9" in problem.message


def test_a_byte_order_mark_is_not_part_of_the_first_key(tmp_path: Path):
    path = tmp_path / "r.yaml"
    path.write_bytes(b"\xef\xbb\xbfrecipe: x\n")
    assert load(path).value == {"recipe": "x"}


def test_a_missing_file_and_a_folder_are_problems(tmp_path: Path):
    for path in (tmp_path / "none.yaml", tmp_path):
        (problem,) = load(path).problems
        assert "cannot be read" in problem.message


def test_text_of_one_line_is_a_path(tmp_path: Path):
    path = tmp_path / "r.yaml"
    path.write_text("recipe: x\n")
    assert load(str(path)).value == load("recipe: x\n").value == {"recipe": "x"}


def test_numbers_survive():
    value = load_text("a: [1e-3, 0.1, 123456789012345678901234567890]\n").value["a"]
    assert value == [0.001, 0.1, 123456789012345678901234567890]
    assert all(math.isfinite(each) for each in value)


def test_recipes_of_a_folder_by_name(tmp_path: Path):
    for name in ("b.yaml", "a.yml", "c.txt"):
        (tmp_path / name).write_text("")
    assert [path.name for path in list_recipes(tmp_path)] == ["a.yml", "b.yaml"]
