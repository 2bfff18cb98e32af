"""A run taken up again at a step: what comes after it, and what may not have changed before it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.recipe.catalogue import Catalogue
from tasks.recipe.check import check
from tasks.recipe.failures import ConfigInvalid
from tasks.recipe.plan import Pinned, Plan, resolve
from tasks.runner import again
from tasks.runner.again import after, freeze_again
from tasks.runner.planner import Preview, write_plan
from tasks.runner.settings import Settings

ROOT = Path(__file__).resolve().parents[3]
TINY = str(ROOT / "tests" / "recipes" / "tiny.yaml")


def test_after_a_step_comes_all_that_reads_from_it() -> None:
    needs = {"a": [], "b": ["a"], "c": ["b"], "d": ["a"], "e": ["c", "d"]}
    assert after("b", needs) == {"b", "c", "e"}
    assert after("e", needs) == {"e"}


@pytest.fixture
def old(store: Any) -> Plan:
    """The plan of a run of the tiny recipe, in the store."""
    catalogue = Catalogue.load()
    recipe = check(TINY, catalogue, ["steps.merged.options.weight=0.4"]).recipe
    assert recipe is not None
    plan = resolve(
        recipe,
        catalogue,
        data={name: Pinned(digest=name, kind=_kind(name)) for name in recipe.data},
        champion={"champion": None},
        uris={},
        code={name: {"code": "of then"} for name in recipe.steps},
        run="one",
        created="2026-01-01",
        overrides=["steps.merged.options.weight=0.4"],
    )
    write_plan(plan, store)
    return plan


def _kind(name: str) -> str:
    return next((kind for kind in ("chats", "pairs", "exams") if name.startswith(kind)), "documents")


@pytest.fixture
def take_up(old: Plan, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Plan]:
    """Take the run up again; `missing` are steps whose results are gone."""

    def take(step: str, *overrides: str, missing: tuple[str, ...] = (), **more: Any) -> Plan:
        def preview(plan: Plan, store: Any, estimates: bool) -> list[Preview]:
            return [Preview(each, each.name not in missing, ["object missing"], None) for each in plan.steps]

        monkeypatch.setattr(again, "preview", preview)
        named = {"from_run": "one", **more}
        return freeze_again(TINY, settings, run="two", from_step=step, overrides=overrides, **named)

    return take


def test_what_is_before_the_step_keeps_its_code_and_the_rest_has_todays(
    take_up: Callable[..., Plan], old: Plan
) -> None:
    plan = take_up("merged", "steps.merged.options.weight=0.2")
    assert plan.refresh == ["merged"]
    assert plan.overrides == ["steps.merged.options.weight=0.4", "steps.merged.options.weight=0.2"]
    assert plan.code["aligned"] == {"code": "of then"}
    assert plan.code["merged"] != {"code": "of then"}
    assert plan.code["report"] != {"code": "of then"}
    assert plan.data == old.data
    steps = {step.name: step for step in plan.steps}
    assert steps["merged"].options["weight"] == 0.2
    assert steps["aligned"] == next(step for step in old.steps if step.name == "aligned")


def test_without_a_change_the_old_runs_own_changes_stay(take_up: Callable[..., Plan]) -> None:
    plan = take_up("report")
    assert next(step for step in plan.steps if step.name == "merged").options["weight"] == 0.4


@pytest.mark.parametrize(
    ("step", "change", "said"),
    [
        ("merged", "steps.tuned.options.lr=2e-3", r"'tuned' comes before 'merged'.*options\.lr"),
        ("merged", "data.news.split=all", "keeps its data"),
        ("nothing", "seed=3", "no step 'nothing'"),
    ],
)
def test_a_change_that_reaches_what_is_reused_is_refused(
    take_up: Callable[..., Plan], step: str, change: str, said: str
) -> None:
    with pytest.raises(ConfigInvalid, match=said):
        take_up(step, change)


def test_a_result_that_is_gone_names_where_to_start(take_up: Callable[..., Plan]) -> None:
    with pytest.raises(ConfigInvalid, match=r"object missing\. Start from 'tuned' instead"):
        take_up("merged", missing=("tuned",))


def test_a_step_to_run_again_has_to_come_after(take_up: Callable[..., Plan]) -> None:
    assert take_up("merged", refresh=["report"]).refresh == ["merged", "report"]
    with pytest.raises(ConfigInvalid, match="'tuned' does not come after 'merged'"):
        take_up("merged", refresh=["tuned"])


def test_an_unknown_run_is_refused(take_up: Callable[..., Plan]) -> None:
    with pytest.raises(ConfigInvalid, match="no run 'three'"):
        take_up("merged", from_run="three")
