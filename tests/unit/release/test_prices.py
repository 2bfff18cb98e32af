from __future__ import annotations

from pathlib import Path

import pytest

from tasks.recipe.failures import ConfigInvalid
from tasks.recipe.plan import Rate
from tasks.release.prices import price_table


def test_the_shipped_table_has_every_size_of_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PERENNIAL_PRICES", raising=False)
    currency, rates = price_table()
    assert (currency, set(rates)) == ("USD", {"cpu", "gpu", "large"})
    assert all(rate.price and rate.watts for rate in rates.values())


def test_an_own_table_and_a_recipes_own_prices_win(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "prices.yaml"
    table.write_text("currency: EUR\nrates:\n  cpu: {price: 1.5}\n  gpu: {watts: 700}\n")
    monkeypatch.setenv("PERENNIAL_PRICES", str(table))
    assert price_table() == ("EUR", {"cpu": Rate(price=1.5), "gpu": Rate(watts=700.0)})
    assert price_table({"gpu": 4.0})[1]["gpu"] == Rate(price=4.0, watts=700.0)


@pytest.mark.parametrize(
    "text",
    [
        "rates: {}",
        "currency: EUR\nrates: {tpu: {price: 1}}",
        "currency: EUR\nrates: {cpu: {price: -1}}",
        "- 1",
    ],
)
def test_what_is_no_table_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    table = tmp_path / "prices.yaml"
    table.write_text(text)
    monkeypatch.setenv("PERENNIAL_PRICES", str(table))
    with pytest.raises(ConfigInvalid, match=r"prices\.yaml is no price table"):
        price_table()
    monkeypatch.setenv("PERENNIAL_PRICES", str(tmp_path / "absent.yaml"))
    with pytest.raises(ConfigInvalid, match="cannot read"):
        price_table()
