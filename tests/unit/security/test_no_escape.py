"""Names from outside (manifests, keys, run ids, prefixes) never lead out of their folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tasks.artefacts import ArtefactAltered, FileEntry, commit, digest_of, fetch, open_store
from tasks.artefacts.artefact import check_copy
from tasks.artefacts.files import name_problem
from tasks.recipe.failures import ConfigInvalid, DataInvalid
from tasks.recipe.run_names import run_name

ROOT = Path("/store")

names = st.one_of(
    st.text(max_size=40),
    st.lists(
        st.sampled_from(["..", ".", "", "a", "..a", "etc", "%2e%2e", "\\", "C:", "~", "\x00", "..;", "．．"]),
        max_size=6,
    ).map("/".join),
)
"""Any text, and what path traversals are made of."""


@given(names)
def test_a_name_that_is_accepted_stays_inside(name: str) -> None:
    if name_problem(name) is None:
        assert (ROOT / name).resolve().is_relative_to(ROOT)
        assert (ROOT / name).resolve() != ROOT


@given(names)
def test_a_manifest_takes_no_other_name(name: str) -> None:
    try:
        entry = FileEntry(path=name, size=0, sha256="0" * 64)
    except ValidationError:
        return
    assert (ROOT / entry.path).resolve().is_relative_to(ROOT)


@given(names)
def test_a_key_of_the_store_stays_in_its_folder(key: str) -> None:
    store = open_store("file:///store")
    try:
        path = store.local_path(key)
    except ConfigInvalid:
        return
    assert path is not None
    assert path.resolve().is_relative_to(ROOT)


@given(names)
def test_listing_a_prefix_stays_in_the_folder(tmp_prefix: str) -> None:
    store = open_store("file:///proc/self/nothing")
    try:
        found = list(store.list(tmp_prefix))
    except (ConfigInvalid, ValueError):  # ValueError: no file system has a name with a null byte
        return
    assert found == []


@given(names, names)
def test_a_runs_name_is_one_plain_segment(recipe: str, run_id: str) -> None:
    name = run_name("pydocs", run_id)
    assert name_problem(name) is None
    assert "/" not in name


def test_a_forged_manifest_with_a_path_outside_fetches_nothing(tmp_path: Path) -> None:
    """The digest fits the forged content: it is the path alone that is refused."""
    store = open_store(f"file://{tmp_path}/store")
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "a.txt").write_text("a")
    found = commit(store, tmp_path / "made", kind="model", parents=[], producer="x", meta={})
    entry = FileEntry.model_construct(path="../../../victim.txt", size=1, sha256=found.files[0].sha256)
    digest = digest_of("model", [entry])
    manifest = json.loads(found.model_dump_json()) | {
        "digest": digest,
        "files": [{"path": entry.path, "size": entry.size, "sha256": entry.sha256}],
    }
    store.write(f"artefacts/{digest}/manifest.json", json.dumps(manifest).encode())
    with pytest.raises(ArtefactAltered, match="not a manifest"):
        fetch(store, digest, tmp_path / "cache")
    assert not list(tmp_path.rglob("victim.txt"))


def test_a_link_in_a_copy_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("a")
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "a.txt").symlink_to(tmp_path / "secret")
    sha = "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"
    with pytest.raises(ArtefactAltered, match="symbolic link"):
        check_copy(tmp_path / "copy", [FileEntry(path="a.txt", size=1, sha256=sha)])


def test_a_link_is_never_committed(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "passwd").symlink_to("/etc/passwd")
    with pytest.raises(DataInvalid, match="symbolic link"):
        commit(
            open_store(f"file://{tmp_path}/store"), tmp_path / "made",
            kind="model", parents=[], producer="x", meta={},
        )  # fmt: skip


@pytest.mark.parametrize("run", ["../../etc", "a/../../b", "/etc"])
def test_a_plan_outside_of_the_runs_is_not_read(tmp_path: Path, run: str) -> None:
    from tasks.runner.process import read_plan

    with pytest.raises(ConfigInvalid, match=r"plain relative name"):
        read_plan(f"file://{tmp_path}/store/runs/{run}/plan.json")


def test_a_plan_is_read_from_the_store_or_an_allowed_place_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks.artefacts import ObjectMissing
    from tasks.runner.process import read_plan

    monkeypatch.setenv("PERENNIAL_STORE", f"file://{tmp_path}/store")
    monkeypatch.setenv("PERENNIAL_ALLOWED_URIS", f"file://{tmp_path}/data")
    for allowed in ("store", "data"):
        with pytest.raises(ObjectMissing):  # it was looked for
            read_plan(f"file://{tmp_path}/{allowed}/runs/x/plan.json")
    for other in (f"file://{tmp_path}/other", "s3://other/store"):
        with pytest.raises(ConfigInvalid, match="not among the places this installation reads"):
            read_plan(f"{other}/runs/x/plan.json")
