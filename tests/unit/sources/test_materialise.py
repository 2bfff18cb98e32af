import errno
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tasks.recipe.failures import ConfigInvalid, DataInvalid, Infrastructure
from tasks.recipe.references import PYDOCS
from tasks.sources import Materialised, kind_of, materialise, pydocs


def make(
    uri: str, directory: Path, kind: str | None = None, split: str = "all", **options: Any
) -> Materialised:
    return materialise(uri, kind=kind, split=split, options=options, directory=directory)


def test_rows_and_meta(tmp_path):
    source = tmp_path / "x.jsonl"
    source.write_text('{"text": "naïve", "key": "k"}\n{"text": "two\\u2028lines\\u0085", "key": "l"}\n')
    (tmp_path / "out").mkdir()
    made = make(f"file://{source}", tmp_path / "out", "documents")
    assert made.kind == "documents"
    assert made.rows == 2
    assert made.meta == {"rows": 2, "characters": 15, "bytes": 19, "split": "all", "uri": f"file://{source}"}
    written = (tmp_path / "out" / "rows.jsonl").read_text(encoding="utf-8")
    assert written.splitlines() == [
        '{"key":"k","text":"naïve"}',
        '{"key":"l","text":"two\\u2028lines\\u0085"}',
    ]
    assert [json.loads(line)["text"] for line in written.splitlines()] == ["naïve", "two\u2028lines\x85"]
    assert os.listdir(tmp_path / "out") == ["rows.jsonl"]


@pytest.mark.slow
def test_the_same_bytes_whatever_the_hash_seed(tmp_path):
    code = (
        "import sys, pathlib; from tasks.sources import materialise\n"
        "for name in ('language-reference', 'chats', 'pairs', 'exams/library-docstrings'):\n"
        "    out = pathlib.Path(sys.argv[1], name); out.mkdir(parents=True)\n"
        "    materialise('pydocs://' + name, kind=None, split='heldout', options={}, directory=out)\n"
    )
    digests = []
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", code, str(tmp_path / seed)], check=True, env=environment)
        files = sorted((tmp_path / seed).rglob("rows.jsonl"))
        digests.append([hashlib.sha256(file.read_bytes()).hexdigest() for file in files])
    assert len(digests[0]) == 4
    assert digests[0] == digests[1]


@pytest.mark.parametrize(
    ("uri", "kind", "split", "message"),
    [
        ("ftp://x", None, "all", "is no source of data; known are pydocs://"),
        ("pydocs://chat", None, "all", "did you mean 'chats'"),
        ("pydocs://chats", "pairs", "all", "is of kind chats, not pairs"),
        ("file:///x.jsonl", None, "all", "add 'kind'"),
        ("file:///x.jsonl", "document", "all", "did you mean 'documents'"),
        ("file:///x.jsonl", "model", "all", "model is no kind of dataset"),
        ("pydocs://chats", None, "held-out", "did you mean 'heldout'"),
    ],
)
def test_wrong_entries(tmp_path, uri, kind, split, message):
    with pytest.raises(ConfigInvalid, match=message):
        make(uri, tmp_path, kind, split)


def test_no_rows_is_an_error_and_leaves_nothing_behind(tmp_path):
    (tmp_path / "x.jsonl").write_text("\n")
    (tmp_path / "out").mkdir()
    with pytest.raises(DataInvalid, match="no rows in split 'all'"):
        make(f"file://{tmp_path}/x.jsonl", tmp_path / "out", "documents")


def test_a_bad_row_leaves_no_half_file(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"text": "a"}\n{"te')
    (tmp_path / "out").mkdir()
    with pytest.raises(DataInvalid, match=r"x\.jsonl:2"):
        make(f"file://{tmp_path}/x.jsonl", tmp_path / "out", "documents")
    assert os.listdir(tmp_path / "out") == []


def test_a_full_disk_is_infrastructure(tmp_path, monkeypatch):
    def full(_row):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tasks.sources._line", full)
    with pytest.raises(Infrastructure, match="the disk is full"):
        make("pydocs://language-reference", tmp_path)
    assert os.listdir(tmp_path) == []


def test_the_recipe_language_knows_the_same_datasets():
    assert {name: kind for name, (kind, _) in pydocs.DATASETS.items()} == PYDOCS
    assert kind_of("pydocs://pairs") == "pairs"
    assert kind_of("file:///x.jsonl") is None
