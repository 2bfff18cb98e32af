"""The digest of the code that a step's result depends on: exactly the modules its method imports."""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import keyword
import os
from functools import cache
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

TASKS = Path(__file__).resolve().parents[1]

# Contracts and error classes: they name things and compute nothing, so a change there changes no result.
CONTRACTS = ("tasks/stage.py", "tasks/recipe/", "tasks/artefacts/")

LIBRARIES: dict[str, tuple[str, ...]] = {
    "validate": ("great-expectations", "pandas"),
    "prepare": ("numpy", "tokenizers", "transformers"),
    "pretrain": ("torch", "transformers", "tokenizers", "deepspeed"),
    "sft": ("torch", "transformers", "tokenizers", "deepspeed", "peft"),
    "align": ("torch", "transformers", "tokenizers", "deepspeed"),
    "distill": ("torch", "transformers", "tokenizers", "deepspeed", "peft"),
    "merge": ("torch", "safetensors"),
    "evaluate": ("torch", "transformers", "tokenizers"),
}
"""The libraries whose version decides a stage's result."""


def code_of(stage: str, method: str) -> dict[str, Any]:
    """Digests of the code behind a method, by folder, and the versions of the libraries it computes with.

    Comments and formatting do not count: what is hashed is the syntax tree. A module that the method does
    not import, such as another method of the stage, does not count either.

    Returns:
        `{"tasks/merge": digest, ..., "versions": {"torch": "2.13.0", ...}}`.
    """
    folders: dict[str, list[str]] = {}
    for path in sorted(_closure(_file_of(stage, method))):
        name = path.relative_to(TASKS.parent).as_posix()
        folders.setdefault("/".join(name.split("/")[:2]), []).append(f"{name} {_digest(path)}")
    digests: dict[str, Any] = {
        folder: hashlib.sha256("\n".join(lines).encode()).hexdigest() for folder, lines in folders.items()
    }
    digests["versions"] = {name: _version(name) for name in LIBRARIES[stage]}
    return digests


def _file_of(stage: str, method: str) -> Path:
    """The file of a method; one that is called like a keyword of Python has an underscore behind its name."""
    name = f"{method}_" if keyword.iskeyword(method) else method
    return TASKS / stage / "methods" / f"{name}.py"


@cache
def _digest(path: Path) -> str:
    tree = ast.parse(path.read_bytes(), filename=str(path))
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


def _version(name: str) -> str:
    """The installed version without its build tag ("2.13.0", not "2.13.0+cpu").

    Where plans are made there may be no such library; the steps then run in images built from the constraints
    that PERENNIAL_CONSTRAINTS names, and have the version that is pinned there.
    """
    try:
        return importlib.metadata.version(name).split("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return _pinned(os.environ.get("PERENNIAL_CONSTRAINTS", "")).get(name, "not installed")


@cache
def _pinned(path: str) -> dict[str, str]:
    """The versions that a file of constraints gives to this Python, "" for no file."""
    found: dict[str, str] = {}
    for line in Path(path).read_text(encoding="utf-8").splitlines() if path else []:
        if line and not line.startswith("#"):
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate():
                found[requirement.name] = next(iter(requirement.specifier)).version
    return found


def _closure(start: Path) -> set[Path]:
    """Every module of tasks that `start` imports, directly or not, itself included."""
    found: set[Path] = set()
    pending = [start]
    while pending:
        path = pending.pop()
        if path in found:
            continue
        found.add(path)
        for imported in _imports(path):
            name = imported.relative_to(TASKS.parent).as_posix()
            if not name.startswith(CONTRACTS):
                pending.append(imported)
    return found


@cache
def _imports(path: Path) -> frozenset[Path]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_bytes(), filename=str(path))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    files: set[Path] = set()
    for name in names:
        if name.split(".")[0] != TASKS.name:
            continue
        file = TASKS.joinpath(*name.split(".")[1:])
        for candidate in (file.with_suffix(".py"), file / "__init__.py"):
            # A package's own __init__ counts only where it holds code that is imported from it.
            if candidate.is_file() and not (candidate.name == "__init__.py" and _is_table(candidate)):
                files.add(candidate)
    return frozenset(files)


@cache
def _is_table(path: Path) -> bool:
    """An `__init__.py` that only lists methods or holds a docstring."""
    tree = ast.parse(path.read_bytes(), filename=str(path))
    return not any(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in tree.body)
