"""Exit code -> class -> retry or not."""

from __future__ import annotations

import pytest
from airflow.sdk import RetryAction
from runtimes.failures import RULES, CommandFailed, RetryByClass

from tasks.recipe.failures import RETRIED, Failure, failure_of
from tasks.runner.run import StepFailed


@pytest.mark.parametrize("failure", list(Failure))
def test_only_the_classes_a_retry_can_mend_are_tried_again(failure: Failure) -> None:
    decision = RetryByClass().evaluate(CommandFailed("perennial step", int(failure)), 1, 4)
    wanted = RetryAction.RETRY if failure in RETRIED else RetryAction.FAIL
    assert decision.action is wanted


@pytest.mark.parametrize("code", [-1, -2, -9, -15, 129, 130, 137, 143])
def test_a_process_that_somebody_ended_counts_as_preempted(code: int) -> None:
    assert failure_of(code) is Failure.PREEMPTED
    assert StepFailed("adapted", code).failure is Failure.PREEMPTED


@pytest.mark.parametrize("code", [-6, -7, -11, 132, 134, 135, 136, 139, 255])
def test_a_crash_is_no_preemption_and_is_tried_a_few_times_only(code: int) -> None:
    """SIGILL, SIGABRT, SIGBUS, SIGFPE, SIGSEGV: a fault of the machine or a library, not a taken machine."""
    assert failure_of(code) is Failure.INFRASTRUCTURE
    assert StepFailed("adapted", code).failure is Failure.INFRASTRUCTURE
    assert RetryByClass().evaluate(CommandFailed("perennial step", code), 4, 4).action is RetryAction.FAIL


def test_an_unknown_code_is_a_bug() -> None:
    assert failure_of(99) is Failure.BUG


@pytest.mark.parametrize("failure", sorted(RETRIED))
def test_tries_end_and_wait_longer_each_time(failure: Failure) -> None:
    error = CommandFailed("perennial step", int(failure))
    rule = RULES[failure]
    decisions = [RetryByClass().evaluate(error, number, 4) for number in range(1, rule.retries + 2)]
    assert [each.action for each in decisions] == [RetryAction.RETRY] * rule.retries + [RetryAction.FAIL]
    delays = [each.retry_delay for each in decisions[:-1] if each.retry_delay]
    assert delays == sorted(delays)
    assert delays[0] == rule.delay


def test_the_reason_is_for_a_person() -> None:
    decision = RetryByClass().evaluate(CommandFailed("perennial step", 3), 1, 4)
    assert decision.reason == "data_invalid: a retry cannot mend this"


def test_other_exceptions_follow_airflows_own_rules() -> None:
    assert RetryByClass().evaluate(ValueError("x"), 1, 4).action is RetryAction.DEFAULT
