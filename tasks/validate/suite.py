"""Runs the rules over the facts with Great Expectations, and turns its answer into our own.

Great Expectations sees the facts only, so no text of a row can reach its results. Its context lives in
memory and ends with the process. It is imported when a suite is built: that takes several seconds.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks.recipe.failures import PerennialError
from tasks.validate.rules import Rule

if TYPE_CHECKING:
    import pandas as pd

FIRST_KEYS = 5
"""How many keys of failing rows a result names."""
LONGEST_KEY = 120
"""Longer keys are cut: a key is a name, not a text."""

_SEVERITIES = {"stop": "critical", "warn": "warning"}


@dataclass(frozen=True)
class Outcome:
    """What one rule found in one dataset.

    Attributes:
        rule: The rule.
        passed: Whether no more than the tolerated share of the rows broke it.
        checked: Rows that it looked at.
        failed: Rows that broke it.
        first_keys: The first few of their keys.
    """

    rule: Rule
    passed: bool
    checked: int
    failed: int
    first_keys: tuple[str, ...]


class Suites:
    """One ephemeral context for all the datasets of a step."""

    def __init__(self) -> None:
        """Import Great Expectations with its analytics off and make the context."""
        os.environ["GX_ANALYTICS_ENABLED"] = "false"
        import great_expectations as gx

        self._gx = gx
        self._context = gx.get_context(mode="ephemeral")
        self._context.variables.progress_bars = {"globally": False}
        self._source = self._context.data_sources.add_pandas("facts")

    def check(self, name: str, facts: pd.DataFrame, rules: Sequence[Rule]) -> list[Outcome]:
        """Run `rules` over the facts of the dataset `name`, in their order.

        Raises:
            PerennialError: An expectation could not be computed, which is a bug, not bad data.
        """
        gx = self._gx
        batch = self._source.add_dataframe_asset(name).add_batch_definition_whole_dataframe("all")
        suite = self._context.suites.add(gx.ExpectationSuite(name=name))
        for rule in rules:
            suite.add_expectation(self._expectation(rule))
        definition = self._context.validation_definitions.add(
            gx.ValidationDefinition(name=name, data=batch, suite=suite)
        )
        answer = definition.run(
            batch_parameters={"dataframe": facts},
            result_format={
                "result_format": "SUMMARY",
                "unexpected_index_column_names": ["row"],
                "partial_unexpected_count": FIRST_KEYS,
            },
        )
        results = {result.expectation_config.meta["rule"]: result for result in answer.results}
        return [_outcome(name, rule, results[rule.name], facts) for rule in rules]

    def _expectation(self, rule: Rule) -> Any:
        gxe = self._gx.expectations
        common: dict[str, Any] = {"severity": _SEVERITIES[rule.severity], "meta": {"rule": rule.name}}
        if not rule.column:
            return gxe.ExpectTableRowCountToBeBetween(min_value=rule.low, max_value=rule.high, **common)
        common |= {"column": rule.column, "mostly": 1 - rule.tolerated}
        if rule.column == "key":
            return gxe.ExpectColumnValuesToBeUnique(**common)
        return gxe.ExpectColumnValuesToBeBetween(min_value=rule.low, max_value=rule.high, **common)


def _outcome(name: str, rule: Rule, result: Any, facts: pd.DataFrame) -> Outcome:
    trouble = _exception_in(result.exception_info)
    if trouble:
        raise PerennialError(f"dataset '{name}': rule '{rule.name}' could not be computed: {trouble}")
    if not rule.column:
        return Outcome(rule, bool(result.success), len(facts), int(not result.success), ())
    found = result.result
    rows = [entry["row"] for entry in found.get("partial_unexpected_index_list") or []]
    keys = [_key_of(facts, row) for row in sorted(rows)]
    checked = found["element_count"] - found["missing_count"]
    return Outcome(rule, bool(result.success), int(checked), int(found["unexpected_count"]), tuple(keys))


def _exception_in(info: Any) -> str:
    """The message of an expectation that raised; Great Expectations nests it by metric or does not."""
    entries = [info] if "raised_exception" in info else list(info.values())
    return next((str(entry["exception_message"]) for entry in entries if entry["raised_exception"]), "")


def _key_of(facts: pd.DataFrame, row: int) -> str:
    key = facts["key"].iloc[row - 1]
    if not isinstance(key, str):
        return f"(row {row})"
    return key if len(key) <= LONGEST_KEY else key[:LONGEST_KEY] + "..."
