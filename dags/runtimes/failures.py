"""Retries by class of failure: a step's exit code says who must act, and whether trying again can help."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from airflow.sdk import RetryDecision, RetryPolicy
from airflow.sdk.exceptions import AirflowException

from tasks.recipe.failures import RETRIED, Failure, failure_of
from tasks.recipe.secrets import mask

NOTHING_TO_DO = 10
"""Exit code of a command that found nothing to do; what comes after it is skipped."""

APPROVED = 11
"""Exit code of a promotion that another person has to approve before anything goes to production."""

RETRIES = 4
"""Airflow's own limit for a command of the worker, where a worker that is lost counts too; the table below
can only stay under it."""

LONGEST_DELAY = timedelta(minutes=5)

COUNTS = "failures"
"""Key of a task's state: how often it failed with each class so far."""


@dataclass(frozen=True)
class Rule:
    """How often a class of failure is tried again, and after how long (doubling from try to try)."""

    retries: int
    delay: timedelta
    reason: str


RULES: Mapping[Failure, Rule] = {
    Failure.PREEMPTED: Rule(100, timedelta(seconds=1), "preempted: resumes from its last checkpoint"),
    Failure.INFRASTRUCTURE: Rule(3, timedelta(seconds=10), "infrastructure: the same command again"),
    Failure.OUT_OF_MEMORY: Rule(1, timedelta(seconds=30), "out of memory: once more, sparing memory"),
}
assert frozenset(RULES) == RETRIED

RETRIES_OF_PODS = RETRIES + sum(rule.retries for rule in RULES.values())
"""Airflow's own limit where steps run elsewhere: so high that the classes' own counts always come first."""


class CommandFailed(AirflowException):
    """A command ended with a failure; `failure` is its class."""

    def __init__(self, what: str, code: int) -> None:
        self.failure = failure_of(code)
        self.code = code
        words = self.failure.name.lower().replace("_", " ")
        super().__init__(f"{what} failed: {words} (exit code {code}); its own words are in the log above")


class StepFailed(AirflowException):
    """A step's container failed; `failure` is its class. A secret in the message is masked."""

    def __init__(self, step: str, failure: Failure, message: str) -> None:
        self.failure = failure
        super().__init__(f"step '{step}': {failure.name.lower().replace('_', ' ')}: {mask(message)}")


class RetryByClass(RetryPolicy):
    """Airflow's question "again?", answered from the class of the failure.

    Each class has its own count, kept in the task's state: a step that was preempted ten times still has its
    retries for a store that was away. Where there is no task state, every try counts.
    """

    def evaluate(
        self,
        exception: BaseException,
        try_number: int,
        max_tries: int,
        context: Any = None,
    ) -> RetryDecision:
        """Retry while the rule of the failure's class allows it; fail at once where no retry can mend it."""
        if not isinstance(exception, (CommandFailed, StepFailed)):
            if count(context, "OTHER", try_number) > RETRIES:
                return RetryDecision.fail(f"given up after {RETRIES} retries")
            return RetryDecision.default()
        rule = RULES.get(exception.failure)
        if rule is None:
            return RetryDecision.fail(f"{exception.failure.name.lower()}: a retry cannot mend this")
        times = count(context, exception.failure.name, try_number)
        if times > rule.retries:
            return RetryDecision.fail(f"{rule.reason}; given up after {times} tries")
        delay = min(rule.delay * 2 ** min(times - 1, 10), LONGEST_DELAY)
        return RetryDecision.retry(delay, rule.reason)


def count(context: Any, name: str, try_number: int) -> int:
    """Count a failure of a class; how many there were of it, this one included."""
    state = context.get("task_state_store") if context else None
    if state is None:
        return try_number
    counts = dict(state.get(COUNTS) or {})
    counts[name] = counts.get(name, 0) + 1
    state.set(COUNTS, counts)
    return int(counts[name])
