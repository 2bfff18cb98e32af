"""The price table: what an hour of a device of each size costs, and what power it draws."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tasks.recipe.failures import ConfigInvalid
from tasks.recipe.models import Resources
from tasks.recipe.plan import Rate

TABLE = "PERENNIAL_PRICES"
"""Names the file; tasks/release/prices.yaml where it is not set."""

DEFAULT = Path(__file__).with_name("prices.yaml")


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    price: Annotated[float, Field(ge=0)] | None = None
    watts: Annotated[float, Field(ge=0)] | None = None


class PriceTable(BaseModel):
    """The table as it is written.

    Attributes:
        currency: Of every price; any word, "USD".
        rates: Size of machine -> price of an hour of one device, and the watts that it draws at work.
    """

    model_config = ConfigDict(extra="forbid", strict=True)
    currency: str = Field(min_length=1)
    rates: dict[Resources, _Row]


def price_table(prices: Mapping[Resources, float] | None = None) -> tuple[str, dict[str, Rate]]:
    """The currency, and the rate of each size of machine.

    Args:
        prices: A recipe's own (`release.prices`), which take the place of the table's.

    Raises:
        ConfigInvalid: The file that PERENNIAL_PRICES names cannot be read, or is no such table.
    """
    path = Path(os.environ.get(TABLE) or DEFAULT)
    try:
        table = PriceTable.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigInvalid(f"{TABLE}: cannot read {path}: {error.strerror or error}") from error
    except (yaml.YAMLError, ValidationError) as error:
        raise ConfigInvalid(
            f"{path} is no price table: {error}; write currency: and rates:, as {DEFAULT.name} of "
            "tasks/release does"
        ) from error
    rates: dict[str, Rate] = {
        size: Rate(price=row.price, watts=row.watts) for size, row in table.rates.items()
    }
    for size, price in (prices or {}).items():
        known = rates.get(size)
        rates[size] = Rate(price=price, watts=known.watts if known else None)
    return table.currency, rates
