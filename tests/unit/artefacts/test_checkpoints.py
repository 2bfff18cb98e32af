"""Checkpoints in the store: publication, verification, pruning."""

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.artefacts import ArtefactAltered, Store, StoreCheckpoints
from tasks.recipe.failures import DataInvalid

FINGERPRINT = "f" * 64
PREFIX = f"checkpoints/{FINGERPRINT}"

Make = Callable[..., Path]
Damage = Callable[[Store, str, bytes], None]


@pytest.fixture
def checkpoints(store: Store, tmp_path: Path) -> StoreCheckpoints:
    return StoreCheckpoints(store, FINGERPRINT, tmp_path / "work")


@pytest.fixture
def save(checkpoints: StoreCheckpoints, make_directory: Make) -> Callable[[int], None]:
    def save(position: int) -> None:
        files = {"latest": f"step{position}", "step/model.bin": f"weights at {position:06d}"}
        checkpoints.save(make_directory(files, f"saved-{position}"), position)

    return save


def content(found: tuple[Path, int] | None) -> tuple[int, str, str]:
    assert found is not None
    path, position = found
    return position, (path / "latest").read_text(), (path / "step/model.bin").read_text()


def positions(store: Store) -> set[str]:
    return {stat.key.split("/")[2] for stat in store.list(f"{PREFIX}/")}


def test_nothing_saved(checkpoints: StoreCheckpoints) -> None:
    assert checkpoints.newest() is None
    assert checkpoints.recorded() == 0
    checkpoints.clear()


def test_newest_is_by_number_not_by_text(checkpoints: StoreCheckpoints, save: Callable[[int], None]) -> None:
    for position in (2, 9, 10, 100):
        save(position)
    assert content(checkpoints.newest()) == (100, "step100", "weights at 000100")
    assert checkpoints.recorded() == 100


def test_only_the_newest_two_stay(store: Store, save: Callable[[int], None]) -> None:
    for position in (2, 9, 10):
        save(position)
    assert positions(store) == {"9", "10", "progress.json"}


def test_saving_a_position_again_replaces_it(
    checkpoints: StoreCheckpoints, make_directory: Make, store: Store
) -> None:
    checkpoints.save(make_directory({"latest": "old", "step/model.bin": "old", "only/old": "old"}, "old"), 5)
    checkpoints.save(make_directory({"latest": "a", "step/model.bin": "b"}, "again"), 5)
    assert content(checkpoints.newest()) == (5, "a", "b")
    assert f"{PREFIX}/5/files/only/old" not in {stat.key for stat in store.list("")}


def test_an_empty_checkpoint_is_refused(checkpoints: StoreCheckpoints, tmp_path: Path) -> None:
    with pytest.raises(DataInvalid, match="a checkpoint needs"):
        checkpoints.save(tmp_path, 1)


@pytest.mark.parametrize("what", ["altered", "missing", "manifest", "no manifest", "extra on disk"])
def test_a_damaged_newest_is_named_and_the_one_before_used(
    checkpoints: StoreCheckpoints,
    save: Callable[[int], None],
    store: Store,
    damage: Damage,
    what: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    save(5)
    save(10)
    if what == "altered":
        damage(store, f"{PREFIX}/10/files/step/model.bin", b"weights at 00001O")
    elif what == "missing":
        store.delete(f"{PREFIX}/10/files/step/model.bin")
    elif what == "manifest":
        damage(store, f"{PREFIX}/10/manifest.json", b"[]")
    elif what == "no manifest":
        store.delete(f"{PREFIX}/10/manifest.json")
    else:  # a local store hands out its own directory, so a foreign file in it counts; S3 fetches by name
        store.write(f"{PREFIX}/10/files/zero_99.pt", b"x")
        if store.local_path("x") is None:
            assert content(checkpoints.newest())[0] == 10
            return
    with caplog.at_level(logging.WARNING):
        assert content(checkpoints.newest()) == (5, "step5", "weights at 000005")
    assert f"{PREFIX}/10: damaged, passed over" in caplog.text
    assert checkpoints.recorded() == 10


def test_an_incomplete_one_is_named_and_passed_over(
    checkpoints: StoreCheckpoints,
    save: Callable[[int], None],
    store: Store,
    caplog: pytest.LogCaptureFixture,
) -> None:
    save(5)
    store.write(f"{PREFIX}/10/files/latest", b"step10")
    store.write(f"{PREFIX}/10/manifest.json", b"[]")
    assert content(checkpoints.newest())[0] == 5
    assert f"{PREFIX}/10: incomplete" in caplog.text
    assert checkpoints.recorded() == 5
    save(15)
    assert positions(store) == {"5", "10", "15", "progress.json"}
    save(20)
    assert positions(store) == {"15", "20", "progress.json"}


def test_progress_survives_the_loss_of_every_checkpoint(
    checkpoints: StoreCheckpoints, save: Callable[[int], None], store: Store
) -> None:
    save(5)
    for stat in list(store.list(f"{PREFIX}/5/")):
        store.delete(stat.key)
    assert checkpoints.newest() is None
    assert checkpoints.recorded() == 5


def test_a_kill_before_progress_was_written_loses_nothing(
    checkpoints: StoreCheckpoints, save: Callable[[int], None], store: Store
) -> None:
    save(5)
    store.delete(f"{PREFIX}/progress.json")
    assert checkpoints.recorded() == 5


def test_progress_never_goes_back(checkpoints: StoreCheckpoints, save: Callable[[int], None]) -> None:
    save(10)
    save(4)
    assert checkpoints.recorded() == 10


@pytest.mark.parametrize("data", [b"{", b"[]", b'{"position": null}', b'{"position": -1}'])
def test_unreadable_progress_is_not_taken_for_none(
    checkpoints: StoreCheckpoints, save: Callable[[int], None], store: Store, damage: Damage, data: bytes
) -> None:
    save(5)
    damage(store, f"{PREFIX}/progress.json", data)
    with pytest.raises(ArtefactAltered, match=r"progress\.json"):
        checkpoints.recorded()


def test_clear(checkpoints: StoreCheckpoints, save: Callable[[int], None], store: Store) -> None:
    save(5)
    save(10)
    store.write("checkpoints/other/5/COMPLETE", b"x")
    checkpoints.clear()
    assert [stat.key for stat in store.list("")] == ["checkpoints/other/5/COMPLETE"]
    assert checkpoints.recorded() == 0
    assert checkpoints.newest() is None


def test_the_copy_of_a_remote_checkpoint_is_verified_again(
    s3_bucket: str, make_directory: Make, tmp_path: Path
) -> None:
    from tasks.artefacts import open_store

    store = open_store(f"s3://{s3_bucket}")
    checkpoints = StoreCheckpoints(store, FINGERPRINT, tmp_path / "work")
    checkpoints.save(make_directory({"latest": "step7", "step/model.bin": "w"}), 7)
    found = checkpoints.newest()
    assert found == (tmp_path / "work" / "checkpoints" / "7", 7)
    os.chmod(found[0] / "latest", 0o644)
    (found[0] / "latest").write_text("step8")
    assert content(checkpoints.newest()) == (7, "step7", "w")
    assert json.loads(store.read(f"{PREFIX}/progress.json")) == {"position": 7}
