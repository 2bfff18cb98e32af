"""The names of runs are legal everywhere, readable, and never the same for two runs."""

from __future__ import annotations

import re

import pytest

from tasks.recipe.run_names import LONGEST, plan_uri, run_name


def test_airflows_own_ids_stay_readable() -> None:
    assert (
        run_name("pydocs", "manual__2026-11-21T12:29:26.123456+00:00")
        == "pydocs-manual__2026-11-21T122926.123456Z"
    )
    assert run_name("pydocs", "scheduled__2026-11-23T03:00:00+00:00") == (
        "pydocs-scheduled__2026-11-23T030000Z"
    )


@pytest.mark.parametrize("run_id", ["a:b", "a~b", "x" * 300, "manual__2026", "a+b:c"])
def test_names_are_legal_and_short(run_id: str) -> None:
    name = run_name("pydocs", run_id)
    assert re.fullmatch(r"[A-Za-z0-9._-]+", name)
    assert len(name) <= LONGEST


@pytest.mark.parametrize(
    ("one", "other"),
    [("a:b", "a-b"), ("a:b", "a+b"), ("x" * 300, "x" * 301), ("a:b", "ab")],
)
def test_different_runs_have_different_names(one: str, other: str) -> None:
    assert run_name("pydocs", one) != run_name("pydocs", other)


def test_one_moment_of_two_recipes_is_two_runs() -> None:
    moment = "scheduled__2026-11-23T03:00:00+00:00"
    assert run_name("one", moment) != run_name("two", moment)


def test_the_plan_lies_in_the_runs_folder() -> None:
    assert plan_uri("s3://bucket/store/", "r1") == "s3://bucket/store/runs/r1/plan.json"
