"""`hf://datasets/<owner>/<name>`: a dataset of the Hugging Face hub, through the `datasets` library."""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tasks.recipe.failures import ConfigInvalid, Infrastructure
from tasks.sources.fields import fields_from, rows_of
from tasks.sources.splits import belongs

OWN_OPTIONS = {"config": None, "revision": None, "hub_split": "train"}
"""Options of the hub beside `<field>_field`: the dataset's configuration, its commit, and its own split."""

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")

OLDEST = 5
"""Major version of `datasets` that is needed: older ones run a data set's own code, or read its pickles."""


def rows(uri: str, kind: str, split: str, options: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The rows of a dataset on the hub, streamed; keys default to `<name>:<row>`.

    Code of a dataset is never run, and none of its pickles is read: the library has dropped both.

    Raises:
        ConfigInvalid: `datasets` is not installed, or the URI or an option is wrong.
        Infrastructure: The hub cannot be reached.
        DataInvalid: A row does not have the kind's shape.
    """
    name = uri.removeprefix("hf://datasets/")
    if name == uri or not _NAME.fullmatch(name):
        raise ConfigInvalid(f"'{uri}' names no dataset of the hub; write hf://datasets/<owner>/<name>")
    if Path(name).exists():  # the library would read that folder instead
        raise ConfigInvalid(
            f"'{uri}': there is a folder '{name}' here too; plan from another working directory"
        )
    own = {key: options.get(key, default) for key, default in OWN_OPTIONS.items()}
    chosen = fields_from(kind, {key: value for key, value in options.items() if key not in OWN_OPTIONS}, uri)
    if importlib.util.find_spec("datasets") is None:
        raise ConfigInvalid(
            f"{uri}: reading from the hub needs the package 'datasets'; install it where plans are made: "
            "pip install 'datasets>=5'"
        )
    datasets = importlib.import_module("datasets")
    if int(datasets.__version__.split(".")[0]) < OLDEST:
        raise ConfigInvalid(
            f"{uri}: datasets {datasets.__version__} may run code of a data set; install datasets>={OLDEST}"
        )
    try:
        table = datasets.load_dataset(
            name, own["config"], revision=own["revision"], split=own["hub_split"], streaming=True
        )
        values = ((f"{name}:{number}", value) for number, value in enumerate(table, 1))
        for row in rows_of(kind, values, chosen):
            if belongs(row["key"], split):
                yield row
    except (ValueError, FileNotFoundError) as error:  # an unknown dataset, configuration or split
        raise ConfigInvalid(f"{uri}: {error}") from error
    except OSError as error:
        raise Infrastructure(f"{uri}: the hub cannot be read: {error}") from error
