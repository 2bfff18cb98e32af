import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.recipe.failures import ConfigInvalid, DataInvalid
from tasks.sources.files import rows

GOOD = b'{"key": "a", "text": "one"}\n{"key": "b", "text": "two"}\n'
DOCUMENTS = [{"key": "a", "text": "one"}, {"key": "b", "text": "two"}]


def parquet_bytes(tmp_path: Path, columns: dict[str, list[Any]]) -> bytes:
    pq.write_table(pa.table(columns), tmp_path / "made")
    data = (tmp_path / "made").read_bytes()
    (tmp_path / "made").unlink()
    return data


def read(path: Path, kind: str = "documents", split: str = "all", **options: Any) -> list[dict[str, Any]]:
    return list(rows(f"file://{path}", kind, split, options))


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("x.jsonl", GOOD),
        ("x.jsonl", b"\xef\xbb\xbf" + GOOD),  # a byte order mark
        ("x.jsonl", GOOD.replace(b"\n", b"\r\n") + b"\n  \n"),
        ("x.jsonl", GOOD.rstrip(b"\n")),
        ("x.jsonl.gz", gzip.compress(GOOD, mtime=0)),
        ("x.json", json.dumps(DOCUMENTS, indent=1).encode()),
    ],
)
def test_good_files(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    assert read(tmp_path / name) == DOCUMENTS


def test_parquet(tmp_path):
    data = parquet_bytes(tmp_path, {"text": ["one", "two"], "key": ["a", "b"], "other": [1, 2]})
    (tmp_path / "x.parquet").write_bytes(data)
    assert read(tmp_path / "x.parquet") == DOCUMENTS


def test_plain_text_is_one_document_a_file_keyed_by_its_path(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.md").write_text("# Ünïcode\n")
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "_SUCCESS").write_text("")
    (tmp_path / ".hidden.txt").write_text("no")
    assert read(tmp_path) == [{"key": "a.txt", "text": "one"}, {"key": "sub/b.md", "text": "# Ünïcode\n"}]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("x.jsonl", GOOD + b'{"key": "c", "te', r"x\.jsonl:3: cut short: .* at line 1, column 14"),
        ("x.jsonl", GOOD + b'{"key": "c", "text": "abc', r"x\.jsonl:3: cut short: Unterminated string"),
        ("x.jsonl", GOOD + b'{"key" "c"}', r"x\.jsonl:3: not JSON: Expecting ':' delimiter"),
        (
            "x.jsonl",
            GOOD + b'{"key": "c", "text": "caf\xe9"}',
            r"x\.jsonl:3: not UTF-8: byte 0xe9 at offset 81",
        ),
        ("x.jsonl", GOOD + b'{"key": "c"}', r"x\.jsonl:3: field 'text' is missing"),
        ("x.jsonl", b'{"text": 3}', r"x\.jsonl:1: field 'text': Input should be a valid string"),
        ("x.jsonl", b'{"key": "", "text": "x"}', r"x\.jsonl:1: field 'key'"),
        ("x.jsonl", b'{"key": true, "text": "x"}', r"x\.jsonl:1: field 'key'"),
        ("x.jsonl", b'["a"]', r"x\.jsonl:1: a row must be an object with fields, not list"),
        ("x.jsonl", b'{"text": "\\ud800"}', r"x\.jsonl:1: half a surrogate pair"),
        ("x.jsonl", b"[" * 100_000, r"x\.jsonl:1: JSON nested too deeply"),
        ("x.jsonl.gz", gzip.compress(GOOD, mtime=0)[:-9], r"x\.jsonl\.gz: not a whole gzip file"),
        ("x.jsonl.gz", GOOD, r"x\.jsonl\.gz: not a whole gzip file"),
        ("x.json", b'[{"text": "a"}, {"te', r"x\.json: cut short: .* at line 1, column 18"),
        ("x.json", b'{"text": "a"}', r"x\.json: holds one object, a list of rows is needed"),
        (
            "x.json",
            b'[\n{"text": "a"},\n{"txt": "b"}]',
            r"x\.json:2: field 'text' is missing \(did you mean 'txt'\?\)",
        ),
        ("x.txt", b"one\ntw\xff", r"x\.txt: not UTF-8: byte 0xff at offset 6 \(line 2\)"),
        ("x.parquet", b"PAR1 but not really PAR1", r"x\.parquet: not a whole Parquet file"),
        ("x.parquet", b"", r"x\.parquet: not a whole Parquet file"),
        ("x.csv", b"key,text\n", r"cannot read 'x\.csv'; formats are \.jsonl"),
    ],
)
def test_bad_files_are_named_with_their_line(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataInvalid, match=message):
        read(tmp_path / name)


def test_a_truncated_parquet_file_is_named(tmp_path):
    data = parquet_bytes(tmp_path, {"text": [f"text number {i}" for i in range(1000)]})
    (tmp_path / "x.parquet").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataInvalid, match=r"x\.parquet: not a whole Parquet file"):
        read(tmp_path / "x.parquet")


def test_a_parquet_file_with_other_bytes_in_its_middle_is_named(tmp_path):
    data = bytearray(parquet_bytes(tmp_path, {"text": [f"text number {i * 7919}" for i in range(5000)]}))
    data[100:2000] = b"\x00" * 1900
    (tmp_path / "x.parquet").write_bytes(bytes(data))
    with pytest.raises(DataInvalid, match=r"x\.parquet"):
        read(tmp_path / "x.parquet")


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("chats", '{"messages": [{"role": "wizard", "content": "x"}]}'),
        ("chats", '{"messages": []}'),
        ("pairs", '{"prompt": [], "chosen": [], "rejected": []}'),
        ("exams", '{"question": "?", "options": ["a", "b"], "answer": 2}'),
        ("exams", '{"question": "?", "options": ["a"], "answer": 0}'),
        ("facts", '{"prompt": "The capital is"}'),
        ("questions", '{"question": "?", "answers": []}'),
        ("programs", '{"prompt": "x = 1", "tests": 3}'),
        ("requests", '{"prompt": "?", "refuse": "yes"}'),
        ("prompts", '{"prompt": "?", "group": 3}'),
    ],
)
def test_rows_of_the_other_kinds_are_checked_too(tmp_path, kind, text):
    (tmp_path / "x.jsonl").write_text(text)
    with pytest.raises(DataInvalid, match=r"x\.jsonl:1: "):
        read(tmp_path / "x.jsonl", kind)


def test_what_a_row_may_lack_may_be_missing_or_null_but_not_where_it_is_named(tmp_path):
    fact = '{"prompt": "It is", "answer": "so", "aliases": ["thus"], "relation": null, "group": "north"}'
    (tmp_path / "x.jsonl").write_text(f'{fact}\n{{"prompt": "It is", "answer": "so"}}')
    assert list(read(tmp_path, "facts")) == [
        {"key": "x.jsonl:1", "prompt": "It is", "answer": "so", "aliases": ["thus"], "group": "north"},
        {"key": "x.jsonl:2", "prompt": "It is", "answer": "so"},
    ]
    with pytest.raises(DataInvalid, match="field 'dialect' is missing"):
        list(read(tmp_path, "facts", group_field="dialect"))


def test_keys_default_to_path_and_line_and_may_be_numbers(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"text": "one"}\n\n{"text": "two", "id": 7}\n')
    assert [row["key"] for row in read(tmp_path)] == ["x.jsonl:1", "x.jsonl:3"]
    (tmp_path / "x.jsonl").write_text('{"body": "one", "id": 7}')
    assert read(tmp_path, key_field="id", text_field="body") == [{"key": "7", "text": "one"}]


def test_a_named_key_field_must_be_there(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"text": "one"}')
    with pytest.raises(DataInvalid, match=r"x\.jsonl:1: field 'id' is missing"):
        read(tmp_path, key_field="id")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text_feild": "x"}, "unknown option 'text_feild' for kind documents; did you mean 'text_field'"),
        ({"text_field": 3}, "text_field needs the name of a field"),
    ],
)
def test_wrong_options(tmp_path, options, message):
    (tmp_path / "x.jsonl").write_bytes(GOOD)
    with pytest.raises(ConfigInvalid, match=message):
        read(tmp_path / "x.jsonl", **options)


def test_plain_text_has_no_fields_and_no_other_kind(tmp_path):
    (tmp_path / "x.txt").write_text("one")
    with pytest.raises(ConfigInvalid, match="has no fields; remove text_field"):
        read(tmp_path, text_field="body")
    with pytest.raises(ConfigInvalid, match="can be documents but not chats"):
        read(tmp_path, "chats")


def test_a_file_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    (tmp_path / "x.jsonl").write_bytes(GOOD)

    def refuse(*_args, **_kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", refuse)  # root may read anything, so chmod would show nothing
    with pytest.raises(DataInvalid, match=r"cannot read 'x\.jsonl': Permission denied"):
        read(tmp_path / "x.jsonl")


def test_splits_divide_the_rows(tmp_path):
    (tmp_path / "x.jsonl").write_text("".join(f'{{"text": "number {i}"}}\n' for i in range(100)))
    train, heldout = read(tmp_path, split="train"), read(tmp_path, split="heldout")
    assert train
    assert heldout
    assert sorted([*train, *heldout], key=str) == sorted(read(tmp_path), key=str)
