from __future__ import annotations

from statistics import NormalDist

import pytest

from tasks.recipe.failures import ConfigInvalid
from tasks.release.intervals import POWER, Ends, detectable, ends, needed, quantile

KEPT = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5)
NORMAL = NormalDist(0.3, 0.2)
QUANTILES = {f"{p:g}": NORMAL.inv_cdf(p) for p in (*KEPT, *(1 - p for p in KEPT[:-1]))}


@pytest.mark.parametrize("probability", [0.0005, 0.0083, 0.05 / 7, 0.05, 0.3, 0.5, 0.77, 0.9875, 0.9995])
def test_between_kept_probabilities_a_normal_distribution_is_read_exactly(probability: float) -> None:
    assert quantile(QUANTILES, probability) == pytest.approx(NORMAL.inv_cdf(probability), abs=1e-9)


def test_a_lopsided_distribution_stays_between_its_neighbours() -> None:
    lopsided = {"0.01": -5.0, "0.05": -1.0, "0.5": 0.0, "0.95": 0.1, "0.99": 0.2}
    assert -5.0 < quantile(lopsided, 0.02) < -1.0
    assert 0.1 < quantile(lopsided, 0.98) < 0.2


@pytest.mark.parametrize("quantiles", [QUANTILES, {}])
def test_beyond_what_is_kept_nothing_is_made_up(quantiles: dict[str, float]) -> None:
    with pytest.raises(ConfigInvalid, match="fewer gates"):
        quantile(quantiles, 0.0001)


def test_ends_and_what_they_could_show() -> None:
    found = ends(QUANTILES, 0.05)
    assert (found.low, found.high) == pytest.approx((NORMAL.inv_cdf(0.05), NORMAL.inv_cdf(0.95)))
    assert found.error == pytest.approx(0.2)
    # At the detectable distance from the limit the end is beyond the limit in four of five samples.
    distance = detectable(found, 0.05)
    end = NormalDist(-distance, 0.2).cdf(-0.2 * NormalDist().inv_cdf(0.95))
    assert end == pytest.approx(POWER)


def test_needed_items_bring_the_detectable_distance_down_to_the_seen_one() -> None:
    found = Ends(-0.1, 0.3, 0.1)
    items = needed(found, 0.05, 50, 0.1)
    assert items is not None
    smaller = Ends(-0.1, 0.3, 0.1 * (50 / items) ** 0.5)
    assert detectable(smaller, 0.05) == pytest.approx(0.1, rel=0.01)
    assert needed(found, 0.05, 50, 0.0) is None
    assert needed(found, 0.05, 50, -0.1) == items
    assert needed(found, 0.05, 50, 99.0) == 50
