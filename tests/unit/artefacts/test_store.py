"""The contract of a store, the same for both backends."""

import hashlib
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tasks.artefacts import ArtefactAltered, ObjectMissing, Store
from tasks.recipe.failures import ConfigInvalid, Infrastructure


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_write_then_read(store: Store) -> None:
    assert store.write("runs/a/plan.json", b"{}")
    assert store.read("runs/a/plan.json") == b"{}"
    assert store.write("runs/a/plan.json", b"{1}")
    assert store.read("runs/a/plan.json") == b"{1}"


def test_write_if_absent_never_overwrites(store: Store) -> None:
    assert store.write("ledger/m/000001.json", b"first", if_absent=True) is True
    assert store.write("ledger/m/000001.json", b"second", if_absent=True) is False
    assert store.write("ledger/m/000001.json", b"first", if_absent=True) is False
    assert store.read("ledger/m/000001.json") == b"first"


def test_of_many_writers_if_absent_one_wins(store: Store) -> None:
    barrier = threading.Barrier(6)
    won: list[int] = []

    def write(number: int) -> None:
        barrier.wait()
        if store.write("ledger/m/000002.json", str(number).encode(), if_absent=True):
            won.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert store.read("ledger/m/000002.json") == str(won[0]).encode()


def test_absent_object(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ObjectMissing, match=r"runs/none\.json"):
        store.read("runs/none.json")
    with pytest.raises(ObjectMissing, match=r"runs/none\.json"):
        store.download("runs/none.json", tmp_path / "copy", sha(b""))
    assert store.stat("runs/none.json") is None
    store.delete("runs/none.json")
    assert list(tmp_path.glob("*copy*")) == []


@pytest.mark.parametrize("content", [b"", b"hello", bytes(range(256)) * 9000])
def test_upload_then_download(store: Store, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    store.upload("a/b/c.bin", tmp_path / "file", sha(content))
    store.download("a/b/c.bin", tmp_path / "copy", sha(content))
    assert (tmp_path / "copy").read_bytes() == content
    found = store.stat("a/b/c.bin")
    assert found is not None
    assert found.size == len(content)
    assert found.sha256 in (None, sha(content))
    assert abs(datetime.now(UTC) - found.modified) < timedelta(hours=1)


def test_download_of_other_bytes_is_refused(store: Store, tmp_path: Path) -> None:
    store.write("a/b", b"these")
    with pytest.raises(ArtefactAltered, match=f"expected sha256 {sha(b'those')}, found {sha(b'these')}"):
        store.download("a/b", tmp_path / "copy", sha(b"those"))
    assert not (tmp_path / "copy").exists()
    assert list(tmp_path.glob("*.part")) == []


def test_upload_of_a_file_that_changed_is_refused(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"new")
    with pytest.raises(Infrastructure, match="changed while it was being stored"):
        store.upload("a/file", tmp_path / "file", sha(b"old"))
    assert store.stat("a/file") is None


def test_list_is_by_text_and_ordered(store: Store) -> None:
    for key in ("b/2", "a/x/1", "a/x.json", "a/xy/2", "a/B", "c"):
        store.write(key, key.encode())
    assert [stat.key for stat in store.list("a/x")] == ["a/x.json", "a/x/1", "a/xy/2"]
    assert [stat.key for stat in store.list("")] == ["a/B", "a/x.json", "a/x/1", "a/xy/2", "b/2", "c"]
    assert [stat.size for stat in store.list("b/")] == [3]
    assert list(store.list("none/")) == []


def test_delete(store: Store) -> None:
    store.write("a/b/c", b"1")
    store.write("a/d", b"2")
    store.delete("a/b/c")
    assert [stat.key for stat in store.list("")] == ["a/d"]


def test_odd_but_legal_names(store: Store, tmp_path: Path) -> None:
    key = "a b/ü/日本 %41#?&+=.txt"
    store.write(key, b"x")
    assert store.read(key) == b"x"
    assert [stat.key for stat in store.list("a b/")] == [key]


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/etc/passwd",
        "a/../../b",
        "..",
        "a//b",
        "a/",
        "./a",
        "a\\b",
        "a\nb",
        "a\0b",
        "a\udcff",
        "x" * 2000,
    ],
)
def test_unfit_keys_are_refused(store: Store, tmp_path: Path, key: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    for operation in (store.read, store.stat, store.delete, store.locate, store.local_path):
        with pytest.raises(ConfigInvalid, match="the key"):
            operation(key)
    with pytest.raises(ConfigInvalid, match="the key"):
        store.write(key, b"")
    with pytest.raises(ConfigInvalid, match="the key"):
        store.upload(key, tmp_path / "file", sha(b""))


def test_locate_is_under_the_uri(store: Store) -> None:
    assert store.locate("a/b.json") == f"{store.uri}/a/b.json"


def test_stores_of_different_roots_do_not_meet(store: Store) -> None:
    from tasks.artefacts import open_store

    store.write("a", b"1")
    other = open_store(f"{store.uri}-other")
    assert list(other.list("")) == []
    other.write("b", b"2")
    assert [stat.key for stat in store.list("")] == ["a"]
