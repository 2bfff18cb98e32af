"""Names and walks of files."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.artefacts.files import in_parallel, name_problem, readable_bytes, regular_files
from tasks.recipe.failures import DataInvalid


@given(st.text())
def test_a_name_without_problem_stays_in_its_folder(name: str) -> None:
    if name_problem(name) is None:
        inside = os.path.normpath(f"/root/{name}")
        assert inside == f"/root/{name}"


def test_files_are_found_in_order_by_name(tmp_path: Path) -> None:
    for name in ("b", "a/z", "a.txt", "a/y/x"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    assert list(regular_files(tmp_path)) == ["a.txt", "a/y/x", "a/z", "b"]


def test_links_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/passwd")
    with pytest.raises(DataInvalid, match="'link' is a symbolic link to '/etc/passwd'"):
        regular_files(tmp_path)


def test_linked_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc")
    with pytest.raises(DataInvalid, match="symbolic link"):
        regular_files(tmp_path)


def test_pipes_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataInvalid, match="'pipe' is neither"):
        regular_files(tmp_path)


@pytest.mark.parametrize(
    ("name", "words"),
    [(b"caf\xe9", "is not UTF-8"), (b"a\\b", "backslash"), (b"a\nb", "control character")],
)
def test_odd_names_are_refused_with_their_bytes(tmp_path: Path, name: bytes, words: str) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).touch()
    with pytest.raises(DataInvalid, match=words) as caught:
        regular_files(tmp_path)
    assert repr(name) in str(caught.value)


def test_the_first_failure_is_raised() -> None:
    def halve(number: int) -> int:
        if number % 2:
            raise ValueError(number)
        return number // 2

    assert in_parallel(halve, range(0, 100, 2)) == list(range(50))
    with pytest.raises(ValueError, match=r"^7$"):
        in_parallel(halve, [2, 4, 7, 9])


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 30, "5.0 GiB"), (3 << 40, "3.0 TiB")],
)
def test_sizes_for_a_person(count: int, text: str) -> None:
    assert readable_bytes(count) == text
