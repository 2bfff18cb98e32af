"""The names in the shipped gate sets (tasks/recipe/gate_sets) are those of figures of the suite."""

from __future__ import annotations

import re

from tasks.evaluate.measures import PORTS
from tasks.evaluate.methods.suite import METHOD
from tasks.evaluate.options import SHOTS, SuiteOptions
from tasks.recipe.gate_sets.expand import (
    ANSWER_FLIPS,
    FEW_SHOT,
    FLIPS,
    INCONSISTENCY,
    RELATIVE,
    UNSAFE_FLIPS,
)
from tasks.recipe.release_rules import ONLY_WITH, PROBES

MEASURES = [measure for measures in PORTS.values() for measure in measures]
FIGURES = {each.name: each for measure in MEASURES for each in measure.figures}
COMPARISONS = {each.name: each for measure in MEASURES for each in measure.comparisons}


def test_every_name_is_there() -> None:
    compared = (*FLIPS, *INCONSISTENCY, *UNSAFE_FLIPS, *ANSWER_FLIPS)
    assert set(compared) <= set(COMPARISONS)
    for each in COMPARISONS.values():
        gains = ("positive_flips", "gained", "kept", "less_alike")
        assert each.name in (*compared, *gains), "a comparison that no shipped set knows"
    assert set(FEW_SHOT) | set(RELATIVE) <= set(FIGURES)
    assert PROBES in METHOD.inputs


def test_flips_are_shares_of_which_fewer_are_better() -> None:
    for name in (*FLIPS, *INCONSISTENCY, *UNSAFE_FLIPS, *ANSWER_FLIPS):
        assert (COMPARISONS[name].better, COMPARISONS[name].unit) == ("lower", "")


def test_the_main_figure_of_a_set_is_relative_or_a_share() -> None:
    for port, measures in PORTS.items():
        main = measures[0].figures[0]
        assert (main.name in RELATIVE) == (main.unit != ""), port
        assert METHOD.figures[port][0] == main.name


def test_figures_that_take_an_option_are_known_to_the_recipes_check() -> None:
    """A gate on one that the options do not ask for would find nothing when the release is judged."""
    plain = SuiteOptions()
    for measure in MEASURES:
        for figure in measure.figures:
            asked = measure.applies(plain) and figure.applies(plain)
            starts = [start for start, _ in ONLY_WITH if figure.name.startswith(start)]
            shots = re.fullmatch(r"accuracy_(\d+)", figure.name)
            assert asked == (not starts and not shots), figure.name
            assert shots is None or int(shots[1]) in SHOTS
    for _, option in ONLY_WITH:
        assert option in SuiteOptions.model_fields
