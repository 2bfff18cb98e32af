"""Garbage collection over both backends: what stays, what goes, in which order."""

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tasks.artefacts import (
    ObjectMissing,
    Removal,
    Store,
    apply_gc,
    commit,
    find_roots,
    load_manifest,
    open_store,
    plan_gc,
    problems,
)
from tasks.artefacts.s3 import S3Store

NOW = timedelta(0)
FINGERPRINT = "f" * 64

Make = Callable[..., Path]


@pytest.fixture
def make_artefact(store: Store, make_directory: Make) -> Callable[[str], str]:
    def make(text: str) -> str:
        directory = make_directory({"rows.jsonl": text, "more.txt": "12345"}, text)
        return commit(store, directory, kind="documents", parents=[], producer="test", meta={}).digest

    return make


def test_only_what_nothing_names_goes(store: Store, make_artefact: Callable[[str], str]) -> None:
    kept, doomed = make_artefact("kept"), make_artefact("doomed")
    removals = plan_gc(store, {kept}, set(), older_than=NOW)
    assert [removal.key_prefix for removal in removals] == [f"artefacts/{doomed}/"]
    assert "no plan" in removals[0].reason
    before = sum(stat.size for stat in store.list(f"artefacts/{doomed}/"))
    assert removals[0].bytes == before
    assert problems(store, doomed) == []  # said first
    assert apply_gc(store, removals) == before
    assert list(store.list(f"artefacts/{doomed}/")) == []
    assert problems(store, kept) == []
    assert plan_gc(store, {kept}, set(), older_than=NOW) == []


def test_the_young_stay(store: Store, make_artefact: Callable[[str], str]) -> None:
    make_artefact("young")
    store.write(f"checkpoints/{FINGERPRINT}/5/COMPLETE", b"x")
    store.write(f"records/{FINGERPRINT}.json", b"{}")
    store.write(f"artefacts/{'a' * 64}/files/half", b"x")
    assert plan_gc(store, set(), set()) == []


def test_half_artefacts_go(store: Store) -> None:
    store.write(f"artefacts/{'a' * 64}/files/half", b"xyz")
    (removal,) = plan_gc(store, set(), set(), older_than=NOW)
    assert removal.bytes == 3
    assert "never finished" in removal.reason
    apply_gc(store, [removal])
    assert list(store.list("")) == []


def test_checkpoints_of_finished_steps_go(store: Store) -> None:
    other = "e" * 64
    for fingerprint in (FINGERPRINT, other, "d" * 64):
        store.write(f"checkpoints/{fingerprint}/5/COMPLETE", b"x")
    store.write(f"records/{FINGERPRINT}.json", b"{}")
    store.write(f"records/{other}.json", b"{}")
    removals = plan_gc(store, set(), {other}, older_than=NOW)
    assert [removal.key_prefix for removal in removals] == [f"checkpoints/{FINGERPRINT}/"]
    apply_gc(store, removals)
    assert len(list(store.list("checkpoints/"))) == 2


def test_checkpoints_of_an_abandoned_step_go_after_a_month(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    for fingerprint, days in (("a" * 64, 29), ("b" * 64, 31)):
        key = f"checkpoints/{fingerprint}/5/COMPLETE"
        store.write(key, b"x")
        when = (datetime.now(UTC) - timedelta(days=days)).timestamp()
        os.utime(tmp_path / "store" / key, (when, when))
    (removal,) = plan_gc(store, set(), set())
    assert removal.key_prefix == f"checkpoints/{'b' * 64}/"
    assert "31 days" in removal.reason


def test_what_a_killed_writer_left_goes(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    store.write("a", b"1")
    left = tmp_path / "store" / ".tmp" / "left"
    left.write_bytes(b"1234")
    assert [stat.key for stat in store.list("")] == ["a"]
    assert plan_gc(store, set(), set()) == []
    os.utime(left, (0, 0))
    (removal,) = plan_gc(store, set(), set())
    assert removal.unfinished
    assert apply_gc(store, [removal]) == 4
    assert not left.exists()


def test_an_unfinished_multipart_upload_goes(s3_bucket: str) -> None:
    store = S3Store(s3_bucket, "prefix")
    for key in ("prefix/artefacts/x", "elsewhere/y"):
        store.client.create_multipart_upload(Bucket=s3_bucket, Key=key)
    (removal,) = plan_gc(store, set(), set(), older_than=NOW)
    assert removal.key_prefix.startswith("artefacts/x#")
    apply_gc(store, [removal, removal])  # gone already: no error
    assert list(store.unfinished()) == []
    left = store.client.list_multipart_uploads(Bucket=s3_bucket)["Uploads"]
    assert [upload["Key"] for upload in left] == ["elsewhere/y"]


def test_roots_follow_runs_records_and_the_ledger(store: Store) -> None:
    digests = {name: format(number, "064x") for number, name in enumerate("abcdefgh")}
    store.write("runs/r1/plan.json", f'{{"inputs": {{"x": "{digests["a"]}"}}}}'.encode())
    store.write("runs/r1/steps/s.json", f'{{"fingerprint": "{digests["b"]}"}}'.encode())
    store.write(
        f"records/{digests['b']}.json", f'{{"made": "s3://b/artefacts/{digests["c"]}/files"}}'.encode()
    )
    store.write(f"records/{digests['d']}.json", f'{{"made": "{digests["e"]}"}}'.encode())
    store.write("ledger/m/000001.json", f'{{"to": "{digests["f"]}"}}'.encode())
    roots = find_roots(store, extra=[digests["g"]])
    assert roots.digests == {digests[name] for name in "abcfg"}
    assert roots.fingerprints == {digests[name] for name in "acfg"}  # named, and not finished
    assert digests["d"] in find_roots(store, extra=[digests["d"]]).digests
    assert digests["e"] in find_roots(store, extra=[digests["d"]]).digests


def test_longer_hexadecimal_text_is_no_digest(store: Store) -> None:
    store.write("runs/r1/plan.json", b'{"sha512": "' + b"a" * 128 + b'"}')
    assert find_roots(store).digests == frozenset()


def test_what_was_written_to_since_stays(
    make_directory: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store(str(tmp_path / "store"))
    directory = make_directory({"rows.jsonl": "x"})
    manifest = commit(store, directory, kind="documents", parents=[], producer="test", meta={})
    for path in (tmp_path / "store" / "artefacts" / manifest.digest).rglob("*"):
        os.utime(path, (0, 0))
    removals = plan_gc(store, set(), set())
    commit(store, directory, kind="documents", parents=[], producer="test", meta={})
    assert apply_gc(store, removals) == 0
    assert problems(store, manifest.digest) == []
    assert "it stays" in caplog.text


def test_the_manifest_goes_first(store: Store, make_artefact: Callable[[str], str]) -> None:
    digest = make_artefact("doomed")
    removals: list[Removal] = plan_gc(store, set(), set(), older_than=NOW)
    kept = store.delete
    calls: list[str] = []

    def interrupted(key: str) -> None:
        calls.append(key)
        if len(calls) == 2:
            raise KeyboardInterrupt
        kept(key)

    store.delete = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        apply_gc(store, removals)
    with pytest.raises(ObjectMissing):
        load_manifest(store, digest)
    store.delete = kept  # type: ignore[method-assign]
    (rest,) = plan_gc(store, set(), set(), older_than=NOW)
    assert "never finished" in rest.reason
    apply_gc(store, [rest])
    assert list(store.list("artefacts/")) == []
