from __future__ import annotations

from pathlib import Path

import pytest

from tasks.artefacts import open_store
from tasks.recipe.failures import ConfigInvalid
from tasks.tracking.sources import parse_source, source_of

DIGEST = "a" * 64


def test_directory_store_round_trip(tmp_path: Path) -> None:
    store = open_store(f"file://{tmp_path}/my%20store+1")
    source = source_of(store, DIGEST)
    assert source.startswith("perennial-file:///")
    assert source.endswith(f"/artefacts/{DIGEST}/files")
    found = parse_source(source)
    assert found.digest == DIGEST
    assert open_store(found.store).local_path("x") == store.local_path("x")


def test_links_in_the_path_are_resolved(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert "/real/artefacts/" in source_of(open_store(str(tmp_path / "link")), DIGEST)


def test_s3_store_round_trip() -> None:
    store = open_store("s3://bucket/some/prefix")
    source = source_of(store, DIGEST)
    assert source == f"s3://bucket/some/prefix/artefacts/{DIGEST}/files"
    assert parse_source(source).store == "s3://bucket/some/prefix"


@pytest.mark.parametrize(
    "source",
    [
        "perennial-file:///etc",
        f"perennial-file:///store/artefacts/{DIGEST}",
        f"file:///store/artefacts/{DIGEST}/files",
        "s3://bucket/model",
        "",
    ],
)
def test_other_sources_are_refused(source: str) -> None:
    with pytest.raises(ConfigInvalid, match="no artefact of a store"):
        parse_source(source)
