"""Who may import whom: read from the source of every file, functions included, and proved by importing.

The table is the rule; a new folder of tasks/ needs a line in it.
"""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

CONTRACT = {"recipe", "stage"}
STAGE = CONTRACT | {"artefacts", "training"}
STAGES = {"validate", "prepare", "pretrain", "sft", "align", "distill", "merge", "evaluate"}

ALLOWED: dict[str, set[str]] = {
    "dags": {"recipe"},
    "recipe": set(),
    "stage": {"recipe"},
    "artefacts": {"recipe"},
    "tracking": {"recipe", "artefacts"},
    "sources": CONTRACT | {"artefacts"},
    "training": CONTRACT | {"artefacts"},
    **dict.fromkeys(STAGES, STAGE),
    # The release moves aliases and writes the ledger: it is the one stage that talks to MLflow.
    "release": STAGE | {"tracking"},
    # The runner imports the stage that a step names, by that name; of release it uses the commands too, and
    # of evaluate what compares two versions by the items of their reports.
    "runner": STAGE | {"tracking", "sources", "release", "evaluate"},
    "local": STAGE | {"tracking", "sources", "runner", "release"},
    "cli": STAGE | {"tracking", "sources", "runner", "release", "local"},
}
"""Part -> the other parts of tasks that its files may import. Nothing may import cli."""

LIGHT = {"pydantic", "pydantic_core", "yaml", "jsonschema", "typing_extensions", "tasks"}
"""All that tasks/recipe may import beside the standard library."""

HEAVY = ("torch", "transformers", "deepspeed", "mlflow", "great_expectations", "pandas")
"""What must not be loaded to parse a DAG or check a recipe."""


def sources() -> list[Path]:
    return sorted(path for top in ("tasks", "dags") for path in (ROOT / top).rglob("*.py"))


def part_of(path: Path) -> str:
    """The part of the repository that a file belongs to: "dags", or the word after tasks/."""
    names = path.relative_to(ROOT).parts
    return "dags" if names[0] == "dags" else names[1].removesuffix(".py")


def imports(path: Path, text: str) -> Iterator[tuple[int, str]]:
    """Line and full name of everything imported anywhere in a file, in functions and under conditions too."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*above, *([node.module] if node.module else [])))
            # `from tasks import cli` and `from tasks.recipe import plan` may import modules
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.args[0] if node.args else None, ast.Constant)
            and (name := getattr(node.func, "attr", getattr(node.func, "id", "")))
            and name in ("import_module", "__import__")
        ):
            yield node.lineno, str(node.args[0].value)  # type: ignore[attr-defined]


def violations(path: Path, text: str) -> list[str]:
    """What in a file breaks the rules, with its line."""
    part = part_of(path)
    found = []
    for line, name in imports(path, text):
        where = f"{path.relative_to(ROOT)}:{line}: {name}"
        words = name.split(".")
        if words[0] == "tasks" and len(words) > 1:
            other = words[1]
            if other == "cli" and path != ROOT / "tasks" / "cli.py":
                found.append(f"{where}: nothing imports the command line")
            elif other != part and other not in ALLOWED[part]:
                found.append(f"{where}: {part} may import only {sorted(ALLOWED[part] | {part})}")
        if part == "recipe" and words[0] not in LIGHT and words[0] not in sys.stdlib_module_names:
            found.append(f"{where}: the recipe language is light")
        if part == "dags" and words[0] in HEAVY:
            found.append(f"{where}: Airflow must not load it")
    return found


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_keep_to_the_rules(path: Path) -> None:
    assert part_of(path) in ALLOWED or path == ROOT / "tasks" / "__init__.py", "add the part to ALLOWED"
    if part_of(path) in ALLOWED:
        assert violations(path, path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("dags/train.py", "from tasks.artefacts import open_store"),
        ("dags/train.py", "def f():\n    import torch"),
        ("tasks/recipe/plan.py", "from tasks.stage import KINDS"),
        ("tasks/recipe/plan.py", "import numpy"),
        ("tasks/sft/rows.py", "from tasks.align.pairs import read"),
        ("tasks/sft/rows.py", "from tasks import align"),
        ("tasks/sft/rows.py", "from .. import align"),
        ("tasks/sft/rows.py", "from ..align.pairs import read"),
        ("tasks/sft/rows.py", "def f():\n    from tasks.runner import step"),
        ("tasks/sft/rows.py", "import importlib\nimportlib.import_module('tasks.align')"),
        ("tasks/artefacts/gc.py", "import tasks.tracking.registry"),
        ("tasks/runner/step.py", "if True:\n    import tasks.cli"),
        ("tasks/runner/step.py", "from tasks import cli"),
    ],
)
def test_a_broken_rule_is_seen(path: str, text: str) -> None:
    assert len(violations(ROOT / path, text)) == 1


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("tasks/sft/rows.py", "from tasks.training import models\nfrom .methods import full\nimport torch"),
        (
            "tasks/recipe/plan.py",
            "import json, yaml\nfrom pydantic import BaseModel\nfrom .graph import order",
        ),
        ("dags/train.py", "from tasks.recipe.models import Recipe\nfrom airflow.sdk import DAG"),
    ],
)
def test_what_is_allowed_is_allowed(path: str, text: str) -> None:
    assert violations(ROOT / path, text) == []


REPORT = """
import importlib.util, json, sys
from pathlib import Path

heavy, modules, files = json.loads(sys.argv[1])
if files:
    import airflow.sdk
before = {name for name in heavy if name in sys.modules}
loaded = {}
for module in modules:
    __import__(module)
    loaded[module] = [name for name in heavy if name in sys.modules and name not in before]
for number, file in enumerate(files):
    spec = importlib.util.spec_from_file_location(f"dag_file_{number}", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    loaded[file] = [name for name in heavy if name in sys.modules and name not in before]
print("LOADED" + json.dumps(loaded))
"""


def loaded_by(modules: list[str], files: list[str], path: list[Path], home: Path) -> dict[str, list[str]]:
    """What of HEAVY is loaded after each module and file was imported, in a fresh interpreter."""
    arguments = json.dumps([HEAVY, modules, files])
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, path)),
        "AIRFLOW_HOME": str(home / "airflow"),
        "PERENNIAL_HOME": str(home / "perennial"),
        "PERENNIAL_STORE": f"file://{home}/store",
    }
    done = subprocess.run(
        [sys.executable, "-c", REPORT, arguments],
        env=env,
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, list[str]] = json.loads(done.stdout.rpartition("LOADED")[2])
    return found


@cache
def recipe_modules() -> list[str]:
    files = sorted((ROOT / "tasks" / "recipe").rglob("*.py"))
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files]
    return [name.removesuffix(".__init__") for name in names]


def test_the_recipe_language_loads_nothing_heavy(tmp_path: Path) -> None:
    loaded = loaded_by(recipe_modules(), [], [ROOT], tmp_path)
    assert len(loaded) == len(recipe_modules()) > 3
    assert {module: names for module, names in loaded.items() if names} == {}


@pytest.mark.slow
def test_the_dag_files_load_nothing_heavy(tmp_path: Path) -> None:
    files = [str(path) for path in sorted((ROOT / "dags").glob("*.py"))]
    loaded = loaded_by([], files, [ROOT / "dags", ROOT], tmp_path)
    assert len(loaded) == len(files) > 0
    assert {file: names for file, names in loaded.items() if names} == {}


def test_a_heavy_import_is_seen(tmp_path: Path) -> None:
    (tmp_path / "pandas.py").touch()  # stands in for the real one, which takes seconds
    (tmp_path / "heavy_module.py").write_text("import pandas\n")
    assert loaded_by(["heavy_module"], [], [tmp_path], tmp_path) == {"heavy_module": ["pandas"]}
