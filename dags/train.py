"""One DAG `train__<recipe>` for each recipe: the recipe's own graph, between planning and release.

A recipe with problems becomes no DAG; broken_recipes.py reports it without taking the others down.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow.sdk import DAG, Asset, AssetAny, AssetOrTimeSchedule, CronTriggerTimetable, chain
from runtimes.process import Commands, ProcessOperator, answer, plan_of
from runtimes.steps import StepTask
from runtimes.table import make_step
from shared.approval import SECOND, TASK, promotion, question, report_link, second_body, second_question
from shared.documentation import dag_text, step_text
from shared.form import arguments, form
from shared.notify import Notice, deadline
from shared.recipes import Found, folder, needs, read
from shared.smoke import ELSEWHERE, after_task, check_task, record_task

from tasks.recipe.models import Recipe, Schedule
from tasks.recipe.run_names import run_name


def schedule_of(schedule: Schedule | None) -> Any:
    """Airflow's schedule: at times, on new data of any of the assets, or whichever comes first."""
    cron = CronTriggerTimetable(schedule.cron, timezone="UTC") if schedule and schedule.cron else None
    assets = AssetAny(*(Asset(name=name) for name in schedule.on)) if schedule and schedule.on else None
    if cron and assets:
        return AssetOrTimeSchedule(timetable=cron, assets=assets)
    return cron or assets


def build(found: Found) -> DAG:
    """The DAG of a recipe."""
    recipe = found.recipe
    graph = needs(recipe)
    with DAG(
        dag_id=f"train__{recipe.recipe}",
        dag_display_name=f"train {recipe.recipe}",
        description=recipe.description.strip().split(". ")[0],
        doc_md=dag_text(recipe, found.path, found.gates),
        schedule=schedule_of(recipe.schedule),
        catchup=False,
        max_active_runs=1,
        tags=sorted({"train", recipe.model, *recipe.tags}),
        default_args={"owner": recipe.owner or "perennial", "on_failure_callback": Notice("failure")},
        params=form(found),
        deadline=deadline(),
        user_defined_macros={
            "summary": lambda run_id: summary(recipe, run_id),
            "second": lambda ti: second_body(ti, lambda: summary(recipe, ti.run_id)),
        },
    ) as dag:
        plan = ProcessOperator(
            task_id="plan",
            commands=plan_commands(found),
            stops=True,
            doc_md="Checks the form, pins the data, freezes the plan; the run ends here if nothing changed.",
        )
        steps = {
            name: make_step(
                StepTask(
                    name=name,
                    recipe=recipe.recipe,
                    model=recipe.model,
                    owner=recipe.owner or "perennial",
                    stage=step.stage,
                    resources=step.resources,
                    doc_md=step_text(step),
                )
            )
            for name, step in recipe.steps.items()
        }
        for name, reads in graph.items():
            (  # a step that reads from no other step waits for the plan
                [steps[each] for each in reads] or [plan]
            ) >> steps[name]
        if recipe.release is not None:
            read_by_others = {each for reads in graph.values() for each in reads}
            last = [task for name, task in steps.items() if name not in read_by_others]
            chain(last, *release_tasks(recipe))
    return dag


def release_tasks(recipe: Recipe) -> Sequence[Any]:
    """What follows the steps: register, approve where a person decides, promote.

    Where the recipe has a smoke test, its answer is recorded before anybody is asked, and compared right
    before the promotion and after it.
    """
    release = recipe.release
    smokes = release is not None and release.smoke is not None
    human = release is not None and release.approval == "human"
    twice = release is not None and release.approvals > 1
    asked = (*((TASK,) if human else ()), *((SECOND,) if twice else ()))
    register = ProcessOperator(
        task_id="register",
        commands=plan_command(recipe, "register"),
        stops=True,
        doc_md="Judges the gates and registers the candidate as a version of the model.",
    )
    promote = ProcessOperator(
        task_id="promote",
        commands=promotion(
            asked,
            lambda context: ["--plan", plan_of(recipe.recipe, context["run_id"])],
            [ELSEWHERE] if smokes else [],
        ),
        skipped_after="reject",
        on_success_callback=Notice("promotion"),
        # After a rejection the second question and the smoke test are skipped, and this task records it.
        trigger_rule="none_failed" if twice or smokes else "all_success",
        doc_md="Moves the aliases `champion` and `previous` and writes the ledger, or records the rejection.",
    )
    subject = f"Promote the candidate of {recipe.model} (recipe {recipe.recipe})?"
    questions: list[Any] = [question(subject, "{{ summary(run_id) }}")] if human else []
    if twice:
        questions.append(second_question(f"{subject} (second person)", "{{ second(ti) }}", lambda _: True))
    if not smokes:
        return [register, *questions, promote]
    named = (recipe.recipe, recipe.model, recipe.owner or "perennial")
    record = record_task(*named, lambda context: smoke_command(recipe, context, "--record", "--if-missing"))
    test = check_task(*named, lambda context: smoke_command(recipe, context), asked)
    after = after_task(*named, lambda context: smoke_command(recipe, context, "--after"), recipe.model)
    return [register, record, *questions, test, promote, after]


def smoke_command(recipe: Recipe, context: Any, *more: str) -> list[str]:
    """The smoke test of this run's candidate."""
    return ["smoke", "--plan", plan_of(recipe.recipe, context["run_id"]), *more]


def summary(recipe: Recipe, run_id: str) -> str:
    """What the approval shows: the evidence in short, and where all of it is."""
    link = report_link(f"runs/{run_name(recipe.recipe, run_id)}/report")
    return link + answer("summary", "--plan", plan_of(recipe.recipe, run_id))


def plan_commands(found: Found) -> Commands:
    """Freeze the plan of this run as the form says, then ask whether it has anything to do."""
    recipe = found.recipe

    def commands(context: Any) -> list[list[str]]:
        run_id, conf = context["run_id"], context["dag_run"].conf or {}
        filled = arguments(context["params"], conf, found)
        name = run_name(recipe.recipe, run_id)
        freeze = ["plan", str(found.path), "--freeze", "--run", name, *filled]
        return [freeze, ["unchanged", "--plan", plan_of(recipe.recipe, run_id)]]

    return commands


def plan_command(recipe: Recipe, command: str, *more: str) -> Commands:
    """One command about the plan of this run."""
    return lambda context: [[command, "--plan", plan_of(recipe.recipe, context["run_id"]), *more]]


for each in read(folder()).good:
    globals()[f"train__{each.recipe.recipe}"] = build(each)
