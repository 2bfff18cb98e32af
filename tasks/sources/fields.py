"""Turns the values of a file or a table into rows of a kind: which fields they come from, and their shape."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tasks.recipe.failures import ConfigInvalid, DataInvalid
from tasks.recipe.problems import did_you_mean
from tasks.sources.reading import Placed
from tasks.sources.rows import fields_of, may_lack, texts_of, trouble_with


def fields_from(kind: str, options: Mapping[str, Any], uri: str) -> dict[str, str]:
    """Row field -> the field it is read from: options such as `text_field: body` say so, else its own name.

    Raises:
        ConfigInvalid: An unknown option, or one that is no field name.
    """
    known = {f"{field}_field": field for field in fields_of(kind)}
    chosen: dict[str, str] = {}
    for option, value in options.items():
        if option not in known:
            raise ConfigInvalid(
                f"{uri}: unknown option '{option}' for kind {kind}; {did_you_mean(option, known)}"
            )
        if not isinstance(value, str) or not value:
            raise ConfigInvalid(f"{uri}: option {option} needs the name of a field, not {value!r}")
        chosen[known[option]] = value
    return chosen


def rows_of(kind: str, values: Placed, chosen: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """Rows of `kind` from the values of a file; other fields are left out.

    A row without a field `key` gets its place as its key (`notes/a.jsonl:12`). A number as a key becomes its
    decimal digits. What a row may lack may also be null, as it is in a table.

    Args:
        kind: The kind of the rows.
        values: Place and value of each.
        chosen: Row field -> the field it is read from, where that is not its own name.

    Raises:
        DataInvalid: A value is no object, lacks a field, or has one of another type; names the place.
    """
    for place, value in values:
        if not isinstance(value, dict):
            raise DataInvalid(f"{place}: a row must be an object with fields, not {type(value).__name__}")
        row: dict[str, Any] = {}
        for field in fields_of(kind):
            source = chosen.get(field, field)
            if value.get(source) is not None or (source in value and not may_lack(kind, field)):
                row[field] = value[source]
            elif field == "key" and "key" not in chosen:
                row["key"] = place
            elif field not in chosen and may_lack(kind, field):
                continue
            else:
                remedy = f"name the field with the option {field}_field, or add it"
                raise DataInvalid(
                    f"{place}: field '{source}' is missing ({did_you_mean(source, value, remedy)})"
                )
        if isinstance(row["key"], int) and not isinstance(row["key"], bool):
            row["key"] = str(row["key"])
        trouble = trouble_with(kind, row)
        if trouble:
            raise DataInvalid(f"{place}: {trouble}")
        try:
            "".join([row["key"], *texts_of(kind, row)]).encode()
        except UnicodeEncodeError as error:
            raise DataInvalid(f"{place}: half a surrogate pair, which is no character ({error})") from error
        yield row
