from collections.abc import Mapping
from typing import Any

import pytest
from pydantic import ValidationError

from tasks.validate.facts import COLUMNS, OWN_COLUMNS
from tasks.validate.methods.expectations import PORTS as KINDS
from tasks.validate.methods.expectations import ExpectationsOptions, estimate
from tasks.validate.rules import NAMES, rules_for


@pytest.mark.parametrize("kind", KINDS)
def test_every_rule_looks_at_a_fact_that_exists_and_gives_a_reason(kind):
    rules = rules_for(kind, ExpectationsOptions(), warn=[], stop=[], skip=[])
    assert len({rule.name for rule in rules}) == len(rules)
    for rule in rules:
        assert rule.column in {"", "key", "leaked", *COLUMNS, *OWN_COLUMNS[kind]}
        assert rule.reason.endswith(".")


def test_every_fact_has_a_rule_and_every_name_is_used():
    used = set()
    for kind in KINDS:
        rules = rules_for(kind, ExpectationsOptions(), warn=[], stop=[], skip=[])
        assert {*COLUMNS, *OWN_COLUMNS[kind]} <= {rule.column for rule in rules}
        used |= {rule.name for rule in rules}
    assert used == set(NAMES)


def test_severities_and_limits_can_be_chosen():
    options = ExpectationsOptions(min_characters=7, length_share=0.25, max_characters=99)
    rules = rules_for("documents", options, warn=["empty"], stop=["duplicates"], skip=["mojibake"])
    by_name = {rule.name: rule for rule in rules}
    assert by_name["empty"].severity == "warn"
    assert by_name["duplicates"].severity == "stop"
    assert "mojibake" not in by_name
    length = by_name["length"]
    assert (length.low, length.high, length.tolerated) == (7, 99, 0.25)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"skip": ["duplicate"]}, "no rule 'duplicate': did you mean 'duplicates'"),
        ({"warn": ["lenght"]}, "did you mean 'length'"),
        ({"stop": ["x"]}, "no rule 'x': choose one of: has_rows"),
        ({"stop": ["empty"], "skip": ["empty"]}, "empty: name a rule once"),
        ({"min_characters": 5, "max_characters": 4}, "min_characters 5 is above max_characters 4"),
        ({"leakage_words": 1}, "greater than or equal to 5"),
        ({"surprise": 1}, "Extra inputs"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        ExpectationsOptions.model_validate(options)


def test_the_estimate_grows_with_rows_and_exam_text():
    def memory(rows: int, exam_bytes: int) -> int:
        metas: dict[str, list[Mapping[str, Any]]] = {
            "documents": [{"rows": rows, "bytes": 10**9}],
            "exams": [{"rows": 10, "bytes": exam_bytes}],
        }
        found = estimate(ExpectationsOptions(), metas).memory_bytes
        assert found is not None
        return found

    assert memory(2_000_000, 1000) > memory(1_000_000, 1000) > 10**9
    assert memory(1000, 10**8) > memory(1000, 10**7)
