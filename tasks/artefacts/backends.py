"""Opening a store by its URI."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tasks.artefacts.local import LocalStore
from tasks.artefacts.store import Store
from tasks.recipe.failures import ConfigInvalid


def open_store(uri: str) -> Store:
    """Open `file:///absolute/dir`, a plain path, or `s3://bucket/prefix`.

    Opening neither creates nor contacts anything. An S3 endpoint, region and credentials are found as boto3
    finds them (AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, AWS_REGION, profiles, instance roles).

    Raises:
        ConfigInvalid: Another scheme, a relative file URI, or no bucket.
    """
    if not re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", uri):
        if not uri.strip():
            raise ConfigInvalid("the store's URI is empty; set PERENNIAL_STORE to file:///dir or s3://bucket")
        return LocalStore(Path(uri).expanduser().absolute())
    parts = urlsplit(uri)
    if parts.scheme == "file":
        if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
            raise ConfigInvalid(f"store '{uri}': a file URI needs an absolute path, as in file:///data/store")
        return LocalStore(Path(unquote(parts.path)))
    if parts.scheme == "s3":
        if not parts.netloc or parts.query or parts.fragment:
            raise ConfigInvalid(f"store '{uri}': expected s3://bucket or s3://bucket/prefix")
        from tasks.artefacts.s3 import S3Store  # a local store must not need boto3

        return S3Store(parts.netloc, parts.path.strip("/"))
    raise ConfigInvalid(
        f"store '{uri}': unknown scheme '{parts.scheme}'; use file:///dir or s3://bucket/prefix"
    )
