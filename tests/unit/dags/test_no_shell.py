"""What a person types into Airflow's form reaches the command as one argument, and no shell ever sees it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import ParamValidationError
from hypothesis import given
from hypothesis import strategies as st
from runtimes.process import ProcessOperator
from runtimes.steps import StepTask
from shared.approval import promotion
from shared.form import arguments, form
from shared.recipes import Found

from tasks.cli import _parser
from tasks.recipe.models import Recipe

NASTY = [
    "$(touch {mark})",
    "`touch {mark}`",
    "; touch {mark} #",
    "&& touch {mark}",
    "| touch {mark}",
    "\ntouch {mark}\n",
    "' ; touch {mark} ; '",
    '" ; touch {mark} ; "',
    "> {mark}",
    "{{{{ ''.__class__ }}}}",
    "--help",
    "-x",
    "$IFS$9",
    "*",
]

RECORD = "import json, sys\nopen({out!r}, 'a').write(json.dumps(sys.argv[1:]) + chr(10))\n"


@pytest.fixture
def found() -> Found:
    recipe = Recipe.model_validate(
        {"recipe": "small", "model": "small", "steps": {"base": {"stage": "pretrain"}}}
    )
    field: dict[str, Any] = {
        "key": "base__note",
        "name": "base.note",
        "path": "steps.base.options.note",
        "default": "",
        "schema": {"type": "string", "title": "base: note", "description": "Text."},
    }
    return Found(Path("recipes/small.yaml"), recipe, [field])


@pytest.fixture
def called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[list[str]]]:
    """What the command was called with, argument by argument; runs really go through the guard's process."""
    script, out = tmp_path / "command.py", tmp_path / "argv.jsonl"
    script.write_text(RECORD.format(out=str(out)))
    monkeypatch.setenv("PERENNIAL_COMMAND", f"{sys.executable} {script}")
    monkeypatch.setenv("PERENNIAL_HOME", str(tmp_path / "home"))
    return lambda: [json.loads(line) for line in out.read_text().splitlines()]


def run(commands: list[list[str]]) -> None:
    with DAG(dag_id="d", schedule=None):
        task = ProcessOperator(task_id="t", commands=lambda _: commands)
    ProcessOperator.execute.__wrapped__(task, {"run_id": "manual__1"})  # type: ignore[attr-defined]


def test_form_values_with_metacharacters_arrive_whole_and_do_nothing(
    found: Found, called: Callable[[], list[list[str]]], tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    commands = []
    values = [text.format(mark=mark) for text in NASTY]
    for value in values:
        conf = {"base__note": value}
        defaults = {name: param.value for name, param in form(found).items()}
        commands.append(["plan", "recipes/small.yaml", *arguments(defaults | conf, conf, found)])
    run(commands)
    for value, seen in zip(values, called(), strict=True):
        assert len(seen) == 3
        assert json.loads(seen[2].removeprefix("--set=steps.base.options.note=")) == value
    assert not mark.exists()


@pytest.mark.parametrize("text", NASTY)
def test_reasons_and_names_are_values_whatever_they_begin_with(text: str) -> None:
    answer = {
        "chosen_options": ["Approve"],
        "params_input": {"reason": text},
        "responded_by_user": {"id": "7", "name": text},
    }
    context = {"ti": SimpleNamespace(xcom_pull=lambda task_ids: answer), "params": {}}
    (command,) = promotion(["approve"], lambda _: [f"--model={text}", f"--version={text}"])(context)
    read = _parser().parse_args(command)
    assert (read.by, read.reason, read.model, read.version) == ([text], text, text, text)


@pytest.mark.parametrize("model", ["--help", "-x", "a b", "a/b", ""])
def test_a_rollback_takes_no_option_for_a_model(model: str) -> None:
    import rollback

    with pytest.raises(ParamValidationError):
        rollback.dag.params.get_param("model").resolve(model)
    assert rollback.dag.params.get_param("model").resolve("team.pydocs") == "team.pydocs"


def test_a_rollback_says_what_was_seen_where_the_form_says_it() -> None:
    import rollback

    run = SimpleNamespace(triggering_user_name="ada")
    params = {"model": "pydocs", "reason": "worse", "champion": None, "previous": None}
    ((*command,),) = rollback.commands({"params": params, "dag_run": run, "run_id": "manual__1"})
    assert command == ["rollback", "pydocs", "--by=ada", "--reason=worse", "--run=rollback-manual__1"]
    seen = params | {"champion": "3", "previous": "2"}
    ((*command,),) = rollback.commands({"params": seen, "dag_run": run, "run_id": "manual__1"})
    assert command[5:] == ["--from=3", "--to=2"]
    for name in ("champion", "previous"):
        with pytest.raises(ParamValidationError):
            rollback.dag.params.get_param(name).resolve("--over")


@given(st.text(max_size=60))
def test_no_run_id_puts_more_than_plain_letters_into_an_argument(run_id: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PERENNIAL_STORE", "s3://bucket/store")
        task = StepTask("base", "small", "small", "ada", "pretrain", "cpu", "")
        given_to = task.arguments(run_id)
    assert [given_to[0], given_to[1], given_to[3], given_to[4]] == ["step", "--plan", "--step", "base"]
    allowed = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-:/")
    assert set(given_to[2]) <= allowed


@pytest.mark.parametrize("name", ["base; rm", "../base", "$(x)", "--plan", "Base", "a b", ""])
def test_a_steps_name_is_a_plain_word(name: str) -> None:
    with pytest.raises(ValueError, match="steps"):
        Recipe.model_validate({"recipe": "r", "model": "m", "steps": {name: {"stage": "pretrain"}}})
