"""The classes of failure, their exit codes and which of them a retry can mend.

Every process of Perennial ends with one of these codes, on every runtime; Airflow decides about retries
from the code alone. Raise the exception whose class says who must act: the author of the recipe, the owner
of the data, the operator of the platform, or us.
"""

from __future__ import annotations

import enum
import signal
from typing import ClassVar


class Failure(enum.IntEnum):
    """Exit codes by class of failure."""

    BUG = 1
    CONFIG_INVALID = 2
    DATA_INVALID = 3
    OUT_OF_MEMORY = 4
    PREEMPTED = 5
    INFRASTRUCTURE = 6
    DIVERGED = 7
    GATES_FAILED = 8
    OVER_BUDGET = 9


RETRIED: frozenset[Failure] = frozenset({Failure.PREEMPTED, Failure.INFRASTRUCTURE, Failure.OUT_OF_MEMORY})
"""The classes that a retry can mend."""

STOPS = frozenset({signal.SIGHUP, signal.SIGINT, signal.SIGKILL, signal.SIGTERM})
"""Signals by which somebody else ends a process; after any other (SIGSEGV, SIGABRT, SIGBUS) it crashed."""


def failure_of(code: int) -> Failure:
    """The class of a process' exit code.

    Args:
        code: Not 0. A signal that ended the process is 128 + n, as shells and containers tell it, or -n.
            One of STOPS is a preemption; after any other the process crashed, which a few tries may mend
            (memory of the machine, a library's race) and a hundred do not.
    """
    if code < 0 or code > 128:
        return Failure.PREEMPTED if (-code if code < 0 else code - 128) in STOPS else Failure.INFRASTRUCTURE
    return Failure(code) if code in set(Failure) else Failure.BUG


class PerennialError(Exception):
    """A failure with a message for the person who reads it: what, where, and what to do."""

    failure: ClassVar[Failure] = Failure.BUG


class ConfigInvalid(PerennialError):
    """The recipe, an option or a reference is wrong; its author must act."""

    failure = Failure.CONFIG_INVALID


class DataInvalid(PerennialError):
    """The data broke a rule or cannot be read; its owner must act."""

    failure = Failure.DATA_INVALID


class OutOfMemory(PerennialError):
    """The step needs more memory than it was given."""

    failure = Failure.OUT_OF_MEMORY


class Preempted(PerennialError):
    """The step was asked to stop (SIGTERM); a retry resumes from its last checkpoint."""

    failure = Failure.PREEMPTED


class Infrastructure(PerennialError):
    """The store, MLflow, the disk or the network failed; a retry may succeed."""

    failure = Failure.INFRASTRUCTURE


class Diverged(PerennialError):
    """Training produced NaN, infinity or a loss of exactly zero."""

    failure = Failure.DIVERGED


class GatesFailed(PerennialError):
    """The evidence does not allow a release."""

    failure = Failure.GATES_FAILED


class OverBudget(PerennialError):
    """The run would take more than its budget; all is kept, and it goes on once the budget is raised."""

    failure = Failure.OVER_BUDGET
