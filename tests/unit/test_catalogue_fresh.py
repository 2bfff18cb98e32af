"""The generated catalogue and the index of methods say what the stages' tables hold."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tasks.recipe.catalogue import CATALOGUE

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_catalogue_is_what_the_tables_say() -> None:
    from tasks.runner.catalogue import build

    assert json.loads(CATALOGUE.read_text()) == build(), "run `make catalogue` and commit the file"


def test_the_index_lists_every_method_and_files_that_exist() -> None:
    index = (ROOT / "docs" / "methods.md").read_text()
    stages = json.loads(CATALOGUE.read_text())["stages"]
    for stage, entry in stages.items():
        for method in entry["methods"]:
            assert f"| {stage}/{method} |" in index
    for path in re.findall(r"`((?:tasks|tests)/[^`]+)`", index):
        assert (ROOT / path).exists(), path
