import enum
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field

from tasks.recipe.catalogue import Catalogue
from tasks.recipe.failures import ConfigInvalid, PerennialError
from tasks.recipe.options import describe
from tasks.runner.catalogue import describe_stage
from tasks.stage import Method, Options, Port, Result
from tests.unit.recipe.conftest import RAW, ROOT


class Rounding(enum.Enum):
    up = "up"
    down = "down"


class Few(Options):
    lr: float = Field(0.1, gt=0, description="Rate.", json_schema_extra={"unit": "1", "source": "a paper"})
    steps: int = Field(description="How many.")
    rounding: Rounding | None = Field(None, description="Which way.")


class Undescribed(Options):
    lr: float = 0.1


def table(**change: Any) -> dict[str, Method]:
    fields: dict[str, Any] = {
        "summary": "one line",
        "options": Few,
        "inputs": {"models": Port(("model",), "to merge", many=True)},
        "outputs": {"model": "model", "log": "training_log"},
        "run": lambda context, options: Result(figure=""),
        "paper": "arXiv:1",
    }
    return {"second": Method(**(fields | change)), "another": Method(**(fields | {"hands_on": True}))}


def test_a_table_of_methods_becomes_an_entry():
    raw = {"format": 1, "stages": {"merge": describe_stage("merge", table())}}
    catalogue = Catalogue.model_validate(json.loads(json.dumps(raw, sort_keys=True)))
    assert catalogue.default_method("merge") == "second"
    method = catalogue.method("merge", None)
    assert [output.name for output in method.outputs] == ["model", "log"]
    assert method.inputs["models"].many
    assert (method.paper, method.hands_on) == ("arXiv:1", False)
    assert catalogue.method("merge", "another").hands_on
    assert method.option_schema("lr")["source"] == "a paper"
    assert describe(method.option_schema("rounding")) == "one of 'up', 'down' or null"
    assert method.options["required"] == ["steps"]


def test_tables_that_would_mislead_are_refused():
    with pytest.raises(PerennialError, match="no kind 'modell'"):
        describe_stage("merge", table(outputs={"model": "modell"}))
    with pytest.raises(PerennialError, match="'lr' has no description"):
        describe_stage("merge", table(options=Undescribed))
    with pytest.raises(PerennialError, match="empty"):
        describe_stage("merge", {})


def test_reading(tmp_path: Path):
    path = tmp_path / "catalogue.json"
    with pytest.raises(ConfigInvalid, match="perennial catalogue"):
        Catalogue.load(path)
    for text in ("{", "[]", '{"format": 0}'):
        path.write_text(text)
        with pytest.raises(ConfigInvalid, match="perennial catalogue"):
            Catalogue.load(path)
    path.write_text(json.dumps(RAW))
    assert Catalogue.load(path).default_method("pretrain") == "continue"


def test_no_module_of_the_recipe_language_imports_anything_heavy():
    names = sorted(
        f"tasks.recipe.{path.stem}"
        for path in (ROOT / "tasks" / "recipe").glob("*.py")
        if path.stem != "__init__"
    )
    heavy = ["torch", "transformers", "deepspeed", "mlflow", "great_expectations", "pandas", "numpy", "boto3"]
    heavy += ["jsonschema"]
    program = f"import sys, {', '.join(names)}\nprint([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
