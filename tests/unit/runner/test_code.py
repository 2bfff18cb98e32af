"""The code digest follows imports and ignores what cannot change a result."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.runner import code


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small `tasks` with a stage of two methods and a shared module."""
    root = tmp_path / "tasks"
    files = {
        "__init__.py": "",
        "stage.py": "X = 1\n",
        "merge/__init__.py": "from tasks.merge.methods import linear\nMETHODS = {}\n",
        "merge/methods/linear.py": "from tasks.merge import stream\nfrom tasks.stage import X\nY = 1\n",
        "merge/methods/ties.py": "def run():\n    return 2\n",
        "merge/stream.py": "def f():\n    from tasks.training import loop\n    return loop\n",
        "training/__init__.py": '"""Doc."""\n',
        "training/loop.py": "STEP = 1\n",
    }
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(code, "TASKS", root)
    _forget()
    return root


def _forget() -> None:
    code._digest.cache_clear()
    code._imports.cache_clear()
    code._is_table.cache_clear()


def _after(path: Path, text: str) -> dict[str, object]:
    path.write_text(text)
    _forget()
    return code.code_of("merge", "linear")


def test_the_closure_holds_the_method_and_what_it_imports_even_lazily(tree: Path) -> None:
    assert set(code.code_of("merge", "linear")) == {"tasks/merge", "tasks/training", "versions"}


@pytest.mark.parametrize("name", ["merge/methods/linear.py", "merge/stream.py"])
def test_a_change_of_code_in_the_closure_changes_its_folder_only(tree: Path, name: str) -> None:
    before = code.code_of("merge", "linear")
    after = _after(tree / name, (tree / name).read_text() + "Y = 2\n")
    assert after["tasks/merge"] != before["tasks/merge"]
    assert after["tasks/training"] == before["tasks/training"]


@pytest.mark.parametrize("name", ["merge/methods/ties.py", "merge/__init__.py", "stage.py"])
def test_another_method_the_table_and_the_contract_do_not_count(tree: Path, name: str) -> None:
    before = code.code_of("merge", "linear")
    assert _after(tree / name, (tree / name).read_text() + "Y = 2\n") == before


def test_comments_and_formatting_do_not_count(tree: Path) -> None:
    before = code.code_of("merge", "linear")
    assert _after(tree / "training/loop.py", "# a comment\nSTEP   =  1\n") == before


def test_versions_leave_out_the_build_tag(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda name: "2.13.0+cpu")
    assert code.code_of("merge", "linear")["versions"] == {"torch": "2.13.0", "safetensors": "2.13.0"}


def test_a_library_that_is_not_installed_has_the_version_of_the_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where plans are made there is no torch; another version in the images must not be a cache hit."""
    pins = tmp_path / "constraints.txt"
    pins.write_text("# pins\nnosuchlib==1.2 ; python_version < '3'\nnosuchlib==3.4 ; python_version >= '3'\n")
    assert code._version("nosuchlib") == "not installed"
    monkeypatch.setenv("PERENNIAL_CONSTRAINTS", str(pins))
    assert code._version("nosuchlib") == "3.4"
    assert code._version("othersuchlib") == "not installed"
    assert code._version("pytest") != "not installed"


def test_the_measures_are_part_of_what_the_suites_reports_depend_on() -> None:
    found = {
        path.relative_to(code.TASKS).as_posix() for path in code._closure(code._file_of("evaluate", "suite"))
    }
    measures = {
        path.relative_to(code.TASKS).as_posix() for path in (code.TASKS / "evaluate/measures").glob("*.py")
    }
    assert measures <= found
    assert len(measures) > 4
