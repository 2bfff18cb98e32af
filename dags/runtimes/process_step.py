"""Steps as processes of the machine that Airflow's worker runs on."""

from __future__ import annotations

from runtimes.process import ProcessOperator
from runtimes.steps import StepTask


def make(task: StepTask) -> ProcessOperator:
    """The Airflow task of a step."""
    return ProcessOperator(
        commands=lambda context: [task.filled_in(context).arguments(context["run_id"])], **task.common
    )
