"""Secrets do not get out of a step: not to its output, its kept log, its failure or its last words."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tasks import cli
from tasks.artefacts import open_store
from tasks.recipe.failures import Failure

TOKEN = "hf_" + "aB3d" * 8
PASSWORD = "correct horse battery"


def test_what_a_step_and_its_children_print_is_masked() -> None:
    code = (
        "import subprocess, sys\n"
        "from tasks.runner.process import _kept_output\n"
        "with _kept_output() as tail:\n"
        f"    print('ours {TOKEN}', flush=True)\n"
        "    subprocess.run(['printenv', 'TEAM_PASSWORD'], check=True)\n"
        "print('kept', list(tail))\n"
    )
    environment = os.environ | {"TEAM_PASSWORD": PASSWORD}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "ours ***\n***\nkept ['ours ***', '***']\n"


FAILING = """
import sys
from pathlib import Path
from types import SimpleNamespace

from tasks.artefacts import open_store
from tasks.recipe.failures import Infrastructure
from tasks.runner import process

home = Path(sys.argv[1])
store = open_store(f"file://{home}/store")


def fail(*_):
    print("trying {password}")
    raise Infrastructure("cannot log in with {password}")


process.read_plan = lambda _: (SimpleNamespace(run="one"), store)
process.run_step = fail
process.find_step = lambda *_: None
process.logbook.log_failure = lambda *given: (home / "told").write_text(str(given))
sys.exit(process.step_process("plan", "base", process.Settings(home, store.uri, ""), fresh=False))
"""


def test_a_failure_is_masked_wherever_it_is_told(tmp_path: Path) -> None:
    environment = os.environ | {
        "TEAM_PASSWORD": PASSWORD,
        "PERENNIAL_TERMINATION_LOG": str(tmp_path / "last-words"),
    }
    done = subprocess.run(
        [sys.executable, "-c", FAILING.replace("{password}", PASSWORD), str(tmp_path)],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == Failure.INFRASTRUCTURE, done.stderr
    store = open_store(f"file://{tmp_path}/store")
    failure = store.read("runs/one/failures/base.json").decode()
    texts = [
        failure,
        store.read("runs/one/logs/base.log").decode(),
        (tmp_path / "last-words").read_text(),
        (tmp_path / "told").read_text(),  # to MLflow
        done.stdout + done.stderr,
    ]
    for text in texts:
        assert "cannot log in with ***" in text
        assert PASSWORD not in text
    assert "trying ***" in json.loads(failure)["tail"]


def test_the_commands_own_words_are_masked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PERENNIAL_HOME", str(tmp_path))
    assert cli.main(["unchanged", "--plan", f"s3://ada:hunter22@bucket/{TOKEN}"]) == 2
    assert "'s3://***@bucket/***' is not the URI of a plan" in capsys.readouterr().err
