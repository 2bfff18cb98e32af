"""Artefacts over both backends: commit, verify, fetch, repair."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.artefacts import (
    ArtefactAltered,
    FileEntry,
    Manifest,
    ObjectMissing,
    Store,
    commit,
    digest_of,
    fetch,
    load_manifest,
    open_store,
    problems,
)
from tasks.artefacts.artefact import describe
from tasks.recipe.failures import ConfigInvalid, DataInvalid

FILES: dict[str, str | bytes] = {"rows.jsonl": "{}\n", "sub/weights.bin": bytes(range(256)) * 40, "empty": ""}

Make = Callable[..., Path]


def commit_plain(store: Store, directory: Path, **more: Any) -> Manifest:
    arguments: dict[str, Any] = {
        "kind": "documents",
        "parents": ["0" * 64],
        "producer": "test",
        "meta": {"rows": 1},
    }
    return commit(store, directory, **(arguments | more))


def key(manifest: Manifest, path: str) -> str:
    return f"artefacts/{manifest.digest}/files/{path}"


def test_commit_then_fetch(store: Store, make_directory: Make, tmp_path: Path) -> None:
    directory = make_directory(FILES)
    manifest = commit_plain(store, directory)
    assert [file.path for file in manifest.files] == ["empty", "rows.jsonl", "sub/weights.bin"]
    assert manifest.parents == ("0" * 64,)
    assert manifest.meta == {"rows": 1}
    assert load_manifest(store, manifest.digest) == manifest
    assert problems(store, manifest.digest) == []
    fetched = fetch(store, manifest.digest, tmp_path / "cache")
    assert describe(fetched) == describe(directory)
    assert all(not path.stat().st_mode & 0o222 for path in fetched.rglob("*") if path.is_file())


def test_a_local_store_hands_out_its_own_directory(make_directory: Make, tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    manifest = commit_plain(store, make_directory(FILES))
    fetched = fetch(store, manifest.digest, tmp_path / "cache")
    assert fetched == tmp_path / "store" / "artefacts" / manifest.digest / "files"
    assert not (tmp_path / "cache").exists()


def test_both_backends_give_one_digest(make_directory: Make, tmp_path: Path, s3_bucket: str) -> None:
    directory = make_directory(FILES)
    local = commit_plain(open_store(str(tmp_path / "store")), directory)
    remote = commit_plain(open_store(f"s3://{s3_bucket}"), directory)
    assert local.digest == remote.digest
    assert local.files == remote.files


def test_digest_is_the_documented_one() -> None:
    import hashlib

    entry = FileEntry(path="a.txt", size=5, sha256=hashlib.sha256(b"hello").hexdigest())
    text = (
        '{"files":[{"path":"a.txt","sha256":"2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824",'
        '"size":5}],"kind":"documents"}'
    )
    assert digest_of("documents", [entry]) == hashlib.sha256(text.encode()).hexdigest()


def test_digest_depends_on_kind_names_and_bytes() -> None:
    one = FileEntry(path="a", size=1, sha256="1" * 64)
    digests = {
        digest_of("documents", [one]),
        digest_of("chats", [one]),
        digest_of("documents", [one.model_copy(update={"path": "b"})]),
        digest_of("documents", [one.model_copy(update={"sha256": "2" * 64})]),
        digest_of("documents", [one, one.model_copy(update={"path": "b"})]),
    }
    assert len(digests) == 5


NAMES = st.lists(st.text("abcdefg.ü日", min_size=1, max_size=6), min_size=1, max_size=6, unique=True)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=NAMES, data=st.data())
def test_digest_does_not_depend_on_the_order_of_creation(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], data: st.DataObject
) -> None:
    names = [name for name in names if name not in (".", "..")] or ["a"]
    digests = set()
    for order in (names, data.draw(st.permutations(names))):
        directory = tmp_path_factory.mktemp("order")
        for name in order:
            (directory / name).write_text(f"content of {name}")
        digests.add(digest_of("documents", describe(directory)))
    assert len(digests) == 1


def test_equal_content_is_one_artefact_and_the_first_manifest_stays(
    store: Store, make_directory: Make
) -> None:
    first = commit_plain(store, make_directory(FILES))
    again = commit_plain(store, make_directory(FILES, "twin"), producer="other", parents=[], meta={})
    assert again == first
    assert len(list(store.list("artefacts/"))) == len(FILES) + 1


def test_committing_again_makes_an_artefact_young(make_directory: Make, tmp_path: Path) -> None:
    import os

    store = open_store(str(tmp_path / "store"))
    manifest = commit_plain(store, make_directory(FILES))
    path = tmp_path / "store" / "artefacts" / manifest.digest / "manifest.json"
    os.utime(path, (0, 0))
    commit_plain(store, make_directory(FILES))
    assert path.stat().st_mtime > 1e9


def test_empty_or_missing_directory_is_refused(store: Store, tmp_path: Path) -> None:
    (tmp_path / "empty" / "sub").mkdir(parents=True)
    with pytest.raises(DataInvalid, match="empty; an artefact of kind 'model'"):
        commit_plain(store, tmp_path / "empty", kind="model")
    with pytest.raises(DataInvalid, match="no such directory"):
        commit_plain(store, tmp_path / "none")
    assert list(store.list("")) == []


@pytest.mark.parametrize("meta", [{"loss": float("nan")}, {"path": Path("x")}])
def test_meta_that_is_not_json_is_refused(store: Store, make_directory: Make, meta: dict[str, Any]) -> None:
    with pytest.raises(ConfigInvalid, match="not plain JSON"):
        commit_plain(store, make_directory(FILES), meta=meta)
    assert list(store.list("")) == []


def test_problems_are_named_and_mended(
    store: Store, make_directory: Make, damage: Callable[..., None], tmp_path: Path
) -> None:
    directory = make_directory(FILES)
    manifest = commit_plain(store, directory)
    store.delete(key(manifest, "rows.jsonl"))
    damage(store, key(manifest, "sub/weights.bin"), b"\1" + bytes(range(256)) * 40)
    store.write(key(manifest, "extra"), b"never there")
    assert [text.split(" (")[0] for text in problems(store, manifest.digest)] == [
        "object unexpected: extra",
        "object missing: rows.jsonl",
        "object altered: sub/weights.bin",
    ]
    assert commit_plain(store, directory, producer="the mender") == manifest
    assert problems(store, manifest.digest) == []
    assert describe(fetch(store, manifest.digest, tmp_path / "cache")) == describe(directory)


def test_same_size_alteration_is_a_problem(
    store: Store, make_directory: Make, damage: Callable[..., None]
) -> None:
    manifest = commit_plain(store, make_directory(FILES))
    damage(store, key(manifest, "rows.jsonl"), b"{]\n")
    assert [text.split(" (")[0] for text in problems(store, manifest.digest)] == [
        "object altered: rows.jsonl"
    ]


def test_missing_artefact(store: Store, tmp_path: Path) -> None:
    digest = "a" * 64
    assert problems(store, digest) == ["object missing: manifest.json"]
    with pytest.raises(ObjectMissing):
        load_manifest(store, digest)
    with pytest.raises(ObjectMissing):
        fetch(store, digest, tmp_path)


def forged(manifest: Manifest, **changes: Any) -> bytes:
    return json.dumps(manifest.model_dump(mode="json") | changes).encode()


@pytest.mark.parametrize("how", ["text", "other digest", "other kind", "climbing path", "unknown key"])
def test_an_altered_manifest_is_refused_and_rewritten(
    store: Store, make_directory: Make, damage: Callable[..., None], tmp_path: Path, how: str
) -> None:
    directory = make_directory({"a.txt": "hello"})
    manifest = commit_plain(store, directory)
    entry = manifest.files[0].model_dump()
    forgery = {
        "text": b"{not json",
        "other digest": forged(manifest, digest="b" * 64),
        "other kind": forged(manifest, kind="model"),
        "climbing path": forged(manifest, files=[entry | {"path": "../../../outside"}]),
        "unknown key": forged(manifest, more=1),
    }[how]
    damage(store, f"artefacts/{manifest.digest}/manifest.json", forgery)
    with pytest.raises(ArtefactAltered, match=manifest.digest):
        load_manifest(store, manifest.digest)
    with pytest.raises(ArtefactAltered):
        fetch(store, manifest.digest, tmp_path / "cache")
    assert problems(store, manifest.digest) == ["object altered: manifest.json"]
    commit_plain(store, directory)
    assert load_manifest(store, manifest.digest).files == manifest.files
    assert problems(store, manifest.digest) == []


def test_concurrent_commits_of_one_artefact(store: Store, make_directory: Make, tmp_path: Path) -> None:
    directories = [make_directory(FILES, f"twin-{number}") for number in range(4)]
    barrier = threading.Barrier(4)
    made: list[Manifest] = []

    def run(directory: Path) -> None:
        barrier.wait()
        made.append(commit_plain(store, directory, producer=directory.name))

    threads = [threading.Thread(target=run, args=(directory,)) for directory in directories]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 4
    assert made == [load_manifest(store, made[0].digest)] * 4
    assert problems(store, made[0].digest) == []
    fetch(store, made[0].digest, tmp_path / "cache")


def test_concurrent_fetches_of_one_artefact(make_directory: Make, s3_bucket: str, tmp_path: Path) -> None:
    store = open_store(f"s3://{s3_bucket}")
    manifest = commit_plain(store, make_directory(FILES))
    barrier = threading.Barrier(4)
    fetched: list[Path] = []

    def run() -> None:
        barrier.wait()
        fetched.append(fetch(store, manifest.digest, tmp_path / "cache"))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert fetched == [tmp_path / "cache" / manifest.digest] * 4
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [manifest.digest]


@pytest.mark.parametrize("how", ["altered", "truncated", "missing", "extra", "link"])
def test_a_damaged_cached_copy_is_replaced(
    make_directory: Make, s3_bucket: str, tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store(f"s3://{s3_bucket}")
    directory = make_directory(FILES)
    manifest = commit_plain(store, directory)
    copy = fetch(store, manifest.digest, tmp_path / "cache") / "rows.jsonl"
    copy.chmod(0o644)
    if how == "altered":
        copy.write_text("{]\n")
    elif how == "truncated":
        copy.write_text("{")
    elif how == "extra":
        (copy.parent / "extra").touch()
    else:
        copy.unlink()
        if how == "link":
            copy.symlink_to(directory / "rows.jsonl")
    again = fetch(store, manifest.digest, tmp_path / "cache")
    assert describe(again) == describe(directory)
    assert "the cached copy is damaged" in caplog.text


def test_a_sound_cached_copy_is_not_fetched_again(
    make_directory: Make, s3_bucket: str, tmp_path: Path
) -> None:
    store = open_store(f"s3://{s3_bucket}")
    manifest = commit_plain(store, make_directory(FILES))
    first = fetch(store, manifest.digest, tmp_path / "cache").stat().st_ino
    store.delete(key(manifest, "rows.jsonl"))
    assert fetch(store, manifest.digest, tmp_path / "cache").stat().st_ino == first
