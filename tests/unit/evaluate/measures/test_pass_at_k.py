"""A model that was taught right programs passes, one that was taught wrong ones does not."""

from __future__ import annotations

import itertools
from functools import partial
from pathlib import Path

import pytest
from pydantic import ValidationError

from tasks.evaluate.generation import prompt_tokens
from tasks.evaluate.measure import Columns
from tasks.evaluate.measures import pass_at_k
from tasks.evaluate.measures.pass_at_k import whole_program
from tasks.evaluate.options import SuiteOptions
from tasks.evaluate.rows import Program
from tasks.evaluate.sandbox import Limits, run_program
from tasks.evaluate.scoring import Subject, load_subject
from tasks.recipe.failures import ConfigInvalid
from tasks.stage import Input
from tests.unit.evaluate import taught
from tests.unit.evaluate.taught import teach

PROGRAMS = [
    Program("add", "def add(a, b):\n", "def check(f):\n    assert f(1, 2) == 3\n", "add"),
    Program("neg", "def neg(a):\n", "assert neg(4) == -4\n", ""),
]
OPTIONS = SuiteOptions(
    prompt_style="plain", program_samples=4, pass_k=2, program_tokens=24, program_seconds=1
)


@pytest.fixture(scope="module", autouse=True)
def needs_the_kernel() -> None:
    try:
        run_program("", Limits())
    except ConfigInvalid as error:
        pytest.skip(f"the tests of generated programs are left out: {error}")


@pytest.fixture(scope="module")
def base(tiny_model_dir: Path) -> Subject:
    return load_subject(Input("m", "d", "model", tiny_model_dir), 1024)


def writes(base: Subject, *lines: str, chat: bool = False) -> Subject:
    prompts = [prompt_tokens(base, row.key, row.prompt, chat) for row in PROGRAMS]
    return teach(base, list(zip(prompts, lines, strict=True)))


def scored(subject: Subject, options: SuiteOptions = OPTIONS) -> Columns:
    return pass_at_k.score(subject, PROGRAMS, options, 0, lambda done: None)


figure = partial(taught.figure, pass_at_k.MEASURE)


def test_programs_that_work_pass_and_an_update_that_breaks_one_flips_it(base):
    good = scored(writes(base, "    return a + b\n", "    return -a\n"))
    bad = scored(writes(base, "    return a - b\n", "    return -a\n"))
    assert figure("pass_at_1", good) == figure("pass_at_k", good) == 1.0
    assert figure("pass_at_1", bad) == figure("pass_at_k", bad) == 0.5
    assert figure("negative_flips", bad, good) == figure("positive_flips", good, bad) == 0.5
    assert good["passed"].shape == (2, 4)


def test_a_program_without_end_costs_its_time_and_is_told(base):
    slow = scored(writes(base, "    while a: 0\n", "    return -a\n"))
    assert figure("out_of_time", slow) == 0.5
    assert figure("pass_at_1", slow) == 0.5


def test_a_chat_answer_is_run_from_its_code_block(base):
    told = (
        "Try\n```python\ndef add(a, b):\n    return a + b\n```\nDone",
        "```\ndef neg(a):\n    return -a\n```",
    )
    options = OPTIONS.model_copy(update={"prompt_style": "chat", "program_tokens": 64})
    assert figure("pass_at_1", scored(writes(base, *told, chat=True), options)) == 1.0


def test_programs_are_the_same_for_every_batch_size(base):
    one = {"program_samples": 1, "pass_k": 1, "program_tokens": 8}
    found = [
        scored(base, OPTIONS.model_copy(update={**one, "batch_size": size}))["said"].tolist()
        for size in (1, 7, 64)
    ]
    assert found[0] == found[1] == found[2]
    assert found[0][0] != found[0][1]


def test_the_estimate_is_the_mean_over_all_ways_to_take_k():
    for samples, passed, k in [(5, 2, 3), (10, 1, 5), (4, 4, 2), (4, 0, 2), (6, 5, 1)]:
        worked = [place < passed for place in range(samples)]
        ways = [any(way) for way in itertools.combinations(worked, k)]
        assert pass_at_k.pass_at_k(samples, passed, k) == pytest.approx(sum(ways) / len(ways))


def test_the_whole_program_is_prompt_answer_and_tests():
    code = Program("k", "import math\n", "assert f() == 2", "")
    assert whole_program(code, "def f(): return 2", chat=False).startswith("import math\ndef f(): return 2\n")
    answered = whole_program(code, "Sure:\n```py\nx = 1\n```\nbye", chat=True)
    assert answered == "import math\n\n\nx = 1\n\n\nassert f() == 2\n"
    asked = Program("k", "Write a function f.", "assert f() == 2", "")
    assert whole_program(asked, "def f(): return 2", chat=True).startswith("def f(): return 2")
    with_entry = Program("k", "p = 1\n", "def check(c): pass", "f")
    assert whole_program(with_entry, "", chat=False).endswith("\ncheck(f)\n")


@pytest.mark.parametrize(
    ("options", "trouble"),
    [
        ({"pass_k": 11}, "above program_samples"),
        ({"program_temperature": 0.0}, "set program_samples to 1"),
        ({"program_temperature": 0.0, "program_samples": 1, "pass_k": 1, "program_top_p": 0.5}, "no effect"),
    ],
)
def test_options_that_make_no_sense_together_are_refused(options, trouble):
    with pytest.raises(ValidationError, match=trouble):
        SuiteOptions(**options)
