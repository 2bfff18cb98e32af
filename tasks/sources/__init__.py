"""Turns a data entry of a recipe into dataset rows: one `rows.jsonl`, the same bytes for the same data."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.recipe.failures import ConfigInvalid, DataInvalid, Infrastructure
from tasks.recipe.problems import did_you_mean
from tasks.recipe.uris import check_place
from tasks.sources import files, hub, pydocs
from tasks.sources.rows import ROWS, texts_of
from tasks.sources.splits import SPLITS

FILE_NAME = "rows.jsonl"


@dataclass(frozen=True)
class Materialised:
    """A dataset that was written.

    Attributes:
        kind: One of `tasks.sources.rows.ROWS`.
        rows: How many.
        meta: rows, characters and bytes (UTF-8) of their texts, split, uri.
    """

    kind: str
    rows: int
    meta: Mapping[str, Any]


def _pydocs(uri: str, kind: str, split: str, options: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    return pydocs.rows(uri.removeprefix("pydocs://"), split, options)


SCHEMES: dict[str, Callable[[str, str, str, Mapping[str, Any]], Iterable[dict[str, Any]]]] = {
    "pydocs": _pydocs,
    "file": files.rows,
    "s3": files.rows,
    "hf": hub.rows,
}
"""Scheme of a URI -> function of (uri, kind, split, options) that yields its rows."""


def kind_of(uri: str) -> str | None:
    """The kind that a URI implies by itself; None where the recipe has to say it.

    Raises:
        ConfigInvalid: `pydocs://` has no dataset of that name.
    """
    if not uri.startswith("pydocs://"):
        return None
    name = uri.removeprefix("pydocs://")
    if name not in pydocs.DATASETS:
        raise ConfigInvalid(f"there is no dataset '{uri}'; {did_you_mean(name, pydocs.DATASETS)}")
    return pydocs.DATASETS[name][0]


def materialise(
    uri: str, *, kind: str | None, split: str, options: Mapping[str, Any], directory: Path
) -> Materialised:
    """Write the rows of a data entry to `directory`/rows.jsonl.

    UTF-8, one JSON object a line, keys sorted, in a fixed order; the file appears when it is whole.

    Args:
        uri: Where the data is: `pydocs://`, `file://`, `s3://` or `hf://`.
        kind: One of `tasks.sources.rows.ROWS`; None where the URI implies it.
        split: all, train or heldout, by a hash of each row's key (tasks/sources/splits.py).
        options: How to read it: `<field>_field: <name in the file>`; the hub has config, revision, hub_split.
        directory: An existing directory.

    Raises:
        ConfigInvalid: The URI, the kind, the split or an option is wrong.
        DataInvalid: The data cannot be read or holds no row; names the file and the line.
        Infrastructure: S3 or the hub cannot be reached, or the disk is full.
    """
    scheme = uri.partition(":")[0]
    if scheme not in SCHEMES:
        raise ConfigInvalid(
            f"'{uri}' is no source of data; known are {', '.join(f'{s}://' for s in SCHEMES)}"
        )
    check_place(uri)
    implied = kind_of(uri)
    if kind and implied and kind != implied:
        raise ConfigInvalid(f"'{uri}' is of kind {implied}, not {kind}; remove 'kind'")
    found = kind or implied
    if found is None:
        raise ConfigInvalid(f"'{uri}' does not say what it holds; add 'kind': one of {', '.join(ROWS)}")
    if found not in ROWS:
        raise ConfigInvalid(f"'{uri}': {found} is no kind of dataset; {did_you_mean(found, ROWS)}")
    if split not in SPLITS:
        raise ConfigInvalid(f"'{uri}': there is no split '{split}'; {did_you_mean(split, SPLITS)}")
    counts = write_rows(SCHEMES[scheme](uri, found, split, options), found, directory / FILE_NAME)
    if not counts["rows"]:
        raise DataInvalid(f"{uri}: no rows in split '{split}'; check the files, or use another split")
    return Materialised(found, counts["rows"], {**counts, "split": split, "uri": uri})


def write_rows(rows: Iterable[dict[str, Any]], kind: str, path: Path) -> dict[str, int]:
    """Write rows to `path` and count rows, and characters and bytes of their texts."""
    counts = {"rows": 0, "characters": 0, "bytes": 0}
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as stream:
            for row in rows:
                stream.write(_line(row).encode())
                counts["rows"] += 1
                for text in texts_of(kind, row):
                    counts["characters"] += len(text)
                    counts["bytes"] += len(text.encode())
        part.replace(path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Infrastructure(
                f"{path.parent}: the disk is full after {counts['rows']} rows; free some"
            ) from error
        raise
    finally:
        part.unlink(missing_ok=True)
    return counts


def _line(row: dict[str, Any]) -> str:
    """One row as a line. Characters that some readers take for the end of a line are escaped."""
    line = json.dumps(row, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    for character in "\x85\u2028\u2029":
        line = line.replace(character, f"\\u{ord(character):04x}")
    return line + "\n"
