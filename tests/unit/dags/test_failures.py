"""Exit code -> class -> retry or not."""

from __future__ import annotations

import pytest
from airflow.sdk import RetryAction
from runtimes.failures import RULES, CommandFailed, RetryByClass, failure_of

from tasks.recipe.failures import RETRIED, Failure


@pytest.mark.parametrize("failure", list(Failure))
def test_only_the_classes_a_retry_can_mend_are_tried_again(failure: Failure) -> None:
    decision = RetryByClass().evaluate(CommandFailed("perennial step", int(failure)), 1, 4)
    wanted = RetryAction.RETRY if failure in RETRIED else RetryAction.FAIL
    assert decision.action is wanted


@pytest.mark.parametrize("code", [-9, -15, 137, 143])
def test_a_killed_process_counts_as_preempted(code: int) -> None:
    assert failure_of(code) is Failure.PREEMPTED


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
