"""`file://` and `s3://`: JSON lines (gzipped too), a JSON list, Parquet, or text files, one document each."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from typing import Any

from tasks.recipe.failures import ConfigInvalid, DataInvalid
from tasks.sources.fields import fields_from, rows_of
from tasks.sources.listing import Listing, list_files
from tasks.sources.reading import PLAIN_TEXT, READERS, ending
from tasks.sources.splits import belongs


def rows(uri: str, kind: str, split: str, options: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The rows of the files that `uri` means, file by file in the order of their names.

    Raises:
        DataInvalid: A file that cannot be read, by name and line.
        ConfigInvalid: Options that do not fit the files.
    """
    chosen = fields_from(kind, options, uri)  # before any address is opened
    yield from rows_in(list_files(uri), uri, kind, split, chosen)


def rows_in(
    files: Listing, uri: str, kind: str, split: str, chosen: Mapping[str, str]
) -> Iterator[dict[str, Any]]:
    """The rows of listed files; `chosen` is what `fields_from` gives. Raises what `rows` does."""
    for name in files.names:
        end = ending(name)
        if end is None:
            raise DataInvalid(
                f"{uri}: cannot read '{name}'; formats are {', '.join(READERS)}. "
                "Give a glob such as *.jsonl to leave other files out"
            )
        if end in PLAIN_TEXT and kind != "documents":
            raise ConfigInvalid(f"{uri}: '{name}' is plain text, which can be documents but not {kind}")
        if end in PLAIN_TEXT and chosen:
            raise ConfigInvalid(
                f"{uri}: '{name}' is plain text and has no fields; "
                f"remove {', '.join(f'{field}_field' for field in chosen)}"
            )
    for name in files.names:
        with files.opened(name) as path:
            try:
                for row in rows_of(kind, READERS[ending(name) or ""](path, name), chosen):
                    if belongs(row["key"], split):
                        yield row
            except OSError as error:
                if error.errno in (
                    errno.ENOSPC,
                    errno.EDQUOT,
                ):  # of a download: the disk's fault, not the data's
                    raise
                raise DataInvalid(f"{uri}: cannot read '{name}': {error.strerror or error}") from error
