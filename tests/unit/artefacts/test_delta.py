"""Models kept as exact differences: the same bytes and digest back, a fraction of the size, nothing lost."""

from __future__ import annotations

import datetime
import io
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.artefacts import (
    ArtefactAltered,
    Store,
    commit,
    fetch,
    find_roots,
    open_store,
    plan_gc,
    problems,
    stored_delta,
)
from tasks.artefacts.delta import pack, unpack
from tasks.artefacts.difference import FLOATS, SIZES, all_tensors, decode, encode, tensors_of
from tasks.artefacts.gc import apply_gc
from tasks.artefacts.stored_delta import delta_key, find_delta
from tasks.recipe.failures import ConfigInvalid, DataInvalid, Infrastructure

NOW = datetime.timedelta(0)
TYPES = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16, "I64": np.int64, "U8": np.uint8}


def write_tensors(path: Path, tensors: Mapping[str, tuple[str, Any]]) -> None:
    """A safetensors file of (type, array) by name; BF16 as words."""
    entries, data = {}, b""
    for name, (dtype, array) in tensors.items():
        raw = np.ascontiguousarray(array).tobytes()
        entries[name] = {
            "dtype": dtype,
            "shape": list(array.shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    head = json.dumps(entries).encode()
    head += b" " * (-len(head) % 8)
    path.write_bytes(struct.pack("<Q", len(head)) + head + data)


def bf16(values: Any) -> Any:
    return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


def weights(seed: int, step: float = 0.0) -> dict[str, tuple[str, Any]]:
    """A model of 40,000 numbers; with `step`, each moved by about that share of itself."""
    base, move = np.random.default_rng(0), np.random.default_rng(seed)
    found: dict[str, tuple[str, Any]] = {}
    for name, shape in (("a", (100, 200)), ("b", (100, 199)), ("norm", (100,))):
        values = base.normal(0, 0.02, shape)
        moved = values * (1 + step * move.normal(0, 1, shape)) if name != "norm" else values
        found[name] = ("BF16", bf16(moved)) if name == "b" else ("F32", moved.astype(np.float32))
    return found


def model(store: Store, folder: Path, tensors: Mapping[str, tuple[str, Any]], note: str = "") -> str:
    folder.mkdir(parents=True)
    write_tensors(folder / "model.safetensors", tensors)
    (folder / "config.json").write_text(json.dumps({"note": note}))
    return commit(store, folder, kind="model", parents=[], producer="test", meta={}).digest


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(f"file://{tmp_path}/store")


@pytest.fixture
def pair(store: Store, tmp_path: Path) -> tuple[str, str]:
    """A base and a model tuned from it."""
    base = model(store, tmp_path / "base", weights(0))
    return base, model(store, tmp_path / "tuned", weights(1, 1e-4))


def stored_bytes(store: Store, digest: str) -> int:
    return sum(stat.size for prefix in ("artefacts", "deltas") for stat in store.list(f"{prefix}/{digest}/"))


@pytest.mark.parametrize("dtype", sorted(SIZES))
def test_any_bits_come_back(dtype: str, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    words = draw.integers(0, 256, (2, 999 * SIZES[dtype]), dtype=np.uint8)  # NaN, infinities, -0 among them
    for name, row in zip(("base", "own"), words, strict=True):
        array = row.view(f"<u{SIZES[dtype]}")
        write_tensors(
            tmp_path / f"{name}.safetensors", {"x": (dtype, array), "gone": ("U8", array.view("u1"))}
        )
    base = {"x": all_tensors(tmp_path)["x"]}
    base["x"] = next(each for each in tensors_of(tmp_path / "base.safetensors")[1] if each.name == "x")
    packed, again = io.BytesIO(), io.BytesIO()
    head, parts = encode(tmp_path / "own.safetensors", base, {}, packed)
    assert [part.how for part in parts] == ["difference", "plain"]
    packed.seek(0)
    decode(head, parts, base, {}, packed, again)
    assert again.getvalue() == (tmp_path / "own.safetensors").read_bytes()


@pytest.mark.parametrize("dtype", sorted(FLOATS))
def test_neighbours_have_neighbouring_places(dtype: str) -> None:
    from tasks.artefacts.difference import _place, _subtract, _word

    top = 1 << (8 * SIZES[dtype] - 1)
    words = np.array([top | 2, top | 1, top, 0, 1, 2], dtype=f"u{SIZES[dtype]}")  # -2, -1, -0, 0, 1, 2 steps
    assert list(np.diff(_place(words))) == [1] * 5
    assert list(_word(_place(words))) == list(words)
    assert list(_subtract(words[1:], words[:-1], dtype)) == [2] * 5  # one step up, zigzag


def test_the_digest_stays_and_the_bytes_come_back(
    store: Store, pair: tuple[str, str], tmp_path: Path
) -> None:
    base, tuned = pair
    original = (tmp_path / "tuned" / "model.safetensors").read_bytes()
    before = stored_bytes(store, tuned)
    made = pack(store, tuned, base, cache=tmp_path / "cache")
    assert [part["how"] for part in made.files[0].parts] == ["difference", "difference", "same"]
    assert stored_bytes(store, tuned) < 0.6 * before
    assert problems(store, tuned) == []
    path = fetch(store, tuned, tmp_path / "elsewhere")
    assert (path / "model.safetensors").read_bytes() == original
    assert (path / "config.json").is_file()
    assert unpack(store, tuned, cache=tmp_path / "cache")
    assert not unpack(store, tuned, cache=tmp_path / "cache")
    assert (fetch(store, tuned, tmp_path / "third") / "model.safetensors").read_bytes() == original
    assert list(store.list("deltas/")) == []


def test_a_family_costs_a_fraction(store: Store, tmp_path: Path) -> None:
    """In bf16, as models are kept: small steps leave most numbers as they were or a place away."""
    whole, kept = 0, 0
    base = model(
        store, tmp_path / "base", {"w": ("BF16", bf16(np.random.default_rng(0).normal(0, 0.02, (300, 300))))}
    )
    start = np.random.default_rng(0).normal(0, 0.02, (300, 300))
    for number in range(1, 5):
        moved = start * (1 + 1e-3 * np.random.default_rng(number).normal(0, 1, start.shape))
        digest = model(store, tmp_path / f"v{number}", {"w": ("BF16", bf16(moved))})
        whole += stored_bytes(store, digest)
        pack(store, digest, base, cache=tmp_path / "cache")
        kept += stored_bytes(store, digest)
    assert kept < 0.25 * whole


def test_committing_the_same_again_leaves_the_difference(
    store: Store, pair: tuple[str, str], tmp_path: Path
) -> None:
    base, tuned = pair
    pack(store, tuned, base, cache=tmp_path / "cache")
    commit(store, tmp_path / "tuned", kind="model", parents=[], producer="again", meta={})
    assert find_delta(store, tuned) is not None
    assert store.stat(f"artefacts/{tuned}/files/model.safetensors") is None


@pytest.mark.parametrize("what", ["base", "difference"])
def test_damage_is_seen_and_a_commit_repairs_it(
    what: str, store: Store, pair: tuple[str, str], tmp_path: Path
) -> None:
    base, tuned = pair
    pack(store, tuned, base, cache=tmp_path / "cache")
    key = {
        "base": f"artefacts/{base}/files/model.safetensors",
        "difference": f"deltas/{tuned}/files/model.safetensors",
    }[what]
    path = store.local_path(key)
    assert path is not None
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    assert any("object" in problem for problem in problems(store, tuned))
    with pytest.raises(ArtefactAltered):
        fetch(store, tuned, tmp_path / "elsewhere")
    commit(store, tmp_path / "tuned", kind="model", parents=[], producer="again", meta={})
    assert problems(store, tuned) == []
    assert find_delta(store, tuned) is None


def test_what_cannot_be_kept_so_is_refused(store: Store, pair: tuple[str, str], tmp_path: Path) -> None:
    base, tuned = pair
    other = model(
        store,
        tmp_path / "other",
        {"z": ("BF16", np.random.default_rng(5).integers(0, 65536, 999, dtype=np.uint16))},
    )
    with pytest.raises(ConfigInvalid, match="nothing in common"):
        pack(store, other, base, cache=tmp_path / "cache")
    with pytest.raises(ConfigInvalid, match="no difference from itself"):
        pack(store, base, base, cache=tmp_path / "cache")
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "rows.jsonl").write_text("{}")
    rows = commit(store, tmp_path / "rows", kind="documents", parents=[], producer="t", meta={}).digest
    with pytest.raises(ConfigInvalid, match="of kind 'documents'"):
        pack(store, rows, base, cache=tmp_path / "cache")
    pack(store, tuned, base, cache=tmp_path / "cache")
    with pytest.raises(ConfigInvalid, match="itself kept as a difference"):
        pack(store, other, tuned, cache=tmp_path / "cache")
    with pytest.raises(ConfigInvalid, match="therefore stays whole"):
        pack(store, base, other, cache=tmp_path / "cache")
    (tmp_path / "broken.safetensors").write_bytes(b"not one")
    with pytest.raises(DataInvalid, match="no safetensors file"):
        tensors_of(tmp_path / "broken.safetensors")


def test_another_base_replaces_the_first(store: Store, pair: tuple[str, str], tmp_path: Path) -> None:
    base, tuned = pair
    third = model(store, tmp_path / "third", weights(2, 1e-4))
    pack(store, tuned, base, cache=tmp_path / "cache")
    assert pack(store, tuned, third, cache=tmp_path / "cache").base == third
    original = (tmp_path / "tuned" / "model.safetensors").read_bytes()
    assert (fetch(store, tuned, tmp_path / "x") / "model.safetensors").read_bytes() == original


@pytest.mark.parametrize("writes", range(4))
def test_killed_between_any_two_writes_it_stays_readable(
    writes: int, store: Store, pair: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, tuned = pair
    original = (tmp_path / "tuned" / "model.safetensors").read_bytes()
    left = [writes]

    class Killed(BaseException):
        pass

    def counted(act: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            return act(*arguments, **named)

        return call

    with monkeypatch.context() as patch:
        for name in ("upload", "write", "delete"):
            patch.setattr(store, name, counted(getattr(store, name)))
        try:
            pack(store, tuned, base, cache=tmp_path / "cache")
        except Killed:
            pass
        else:
            assert writes == 3
    assert problems(store, tuned) == []
    assert (fetch(store, tuned, tmp_path / "x") / "model.safetensors").read_bytes() == original
    pack(store, tuned, base, cache=tmp_path / "cache")
    assert store.stat(f"artefacts/{tuned}/files/model.safetensors") is None
    assert (fetch(store, tuned, tmp_path / "y") / "model.safetensors").read_bytes() == original


def test_nothing_is_removed_where_it_does_not_come_back(
    store: Store, pair: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, tuned = pair
    monkeypatch.setattr(stored_delta, "rebuild", lambda *a: a[-1].write_bytes(b"other"))
    with pytest.raises(Infrastructure, match="does not come back"):
        pack(store, tuned, base, cache=tmp_path / "cache")
    assert store.stat(delta_key(tuned)) is None
    assert store.stat(f"artefacts/{tuned}/files/model.safetensors") is not None


def test_garbage_collection_keeps_the_base(store: Store, pair: tuple[str, str], tmp_path: Path) -> None:
    base, tuned = pair
    pack(store, tuned, base, cache=tmp_path / "cache")
    roots = find_roots(store, [tuned])
    assert base in roots.digests
    apply_gc(store, plan_gc(store, set(roots.digests), set(), NOW))
    assert problems(store, tuned) == []
    apply_gc(store, plan_gc(store, set(), set(), NOW))
    assert list(store.list("")) == []
