"""Kept results over both backends: verified when read, not used when altered, collected with their model."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from tasks.artefacts import Store, apply_gc, plan_gc
from tasks.artefacts.kept import recall, remember

KEY = f"{'a' * 64}/{'b' * 64}"


@pytest.fixture
def result(tmp_path: Path) -> Path:
    path = tmp_path / "columns.parquet"
    path.write_bytes(b"numbers")
    return path


def test_what_was_kept_comes_back(store: Store, result: Path, tmp_path: Path):
    assert recall(store, KEY, tmp_path / "cache") is None
    remember(store, KEY, result)
    remember(store, KEY, result)
    for _ in range(2):
        found = recall(store, KEY, tmp_path / "cache")
        assert found is not None
        assert found.read_bytes() == b"numbers"
    assert recall(store, f"{'a' * 64}/{'c' * 64}", tmp_path / "cache") is None


def test_altered_bytes_are_told_and_not_used(store: Store, result: Path, tmp_path: Path):
    remember(store, KEY, result)
    (stat,) = store.list("evaluations/")
    store.write(stat.key, b"forged!")
    said: list[str] = []
    assert recall(store, KEY, tmp_path / "cache", said.append) is None
    assert "cannot be used and is computed again" in said[0]
    remember(store, KEY, result)
    assert recall(store, KEY, tmp_path / "cache") is not None


def test_a_damaged_copy_is_fetched_again(store: Store, result: Path, tmp_path: Path):
    remember(store, KEY, result)
    found = recall(store, KEY, tmp_path / "cache")
    if found is None or not found.is_relative_to(tmp_path / "cache"):
        return  # a local store hands out its own file
    found.write_bytes(b"broken")
    again = recall(store, KEY, tmp_path / "cache")
    assert again is not None
    assert again.read_bytes() == b"numbers"


def test_a_key_must_name_a_model(store: Store, result: Path):
    with pytest.raises(ValueError, match="digest of a model"):
        remember(store, "scores", result)


def test_scores_stay_as_long_as_their_model(store: Store, result: Path):
    remember(store, KEY, result)
    now = timedelta(0)
    assert plan_gc(store, {"a" * 64}, set(), older_than=now) == []
    assert plan_gc(store, set(), set()) == []  # young
    (removal,) = plan_gc(store, set(), set(), older_than=now)
    assert removal.key_prefix == f"evaluations/{'a' * 64}/"
    assert removal.bytes == len(b"numbers")
    apply_gc(store, [removal])
    assert list(store.list("evaluations/")) == []
