"""Which places a recipe may read from: a table of schemes, and prefixes where the installation sets them.

PERENNIAL_ALLOWED_URIS holds prefixes with commas between, such as `s3://corpora/public,hf://datasets/acme`.
Where it is set nothing else is read. Where it is not, every scheme of the table is; but `file://` only in the
local mode (a store in a folder): elsewhere the files of the machine that plans are not the recipe author's.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote

from tasks.recipe.failures import ConfigInvalid

ALLOWED = "PERENNIAL_ALLOWED_URIS"

SCHEMES: Mapping[str, bool] = {
    "s3://": True,
    "file://": True,
    "hf://": True,
    "pydocs://": False,
    "corpus://": False,
    "models:/": False,
}
"""Beginning of a URI that can be read -> whether it is limited by prefixes.

`pydocs://` is the documentation of the Python that runs, a version of the registry is signed, and what a
corpus reads is limited where it is looked at.
"""


def local_mode(store: str | None = None) -> bool:
    """Whether this is one person's installation: its store is a folder, not a bucket.

    Args:
        store: The store's URI; by default PERENNIAL_STORE.
    """
    uri = os.environ.get("PERENNIAL_STORE", "") if store is None else store
    return not uri.startswith("s3://")


def refusal(uri: str) -> str:
    """Why a URI must not be read, as "what; what to do", or "".

    Raises:
        ConfigInvalid: PERENNIAL_ALLOWED_URIS itself is wrong.
    """
    scheme = next((known for known in SCHEMES if uri.startswith(known)), None)
    if scheme is None:
        return f"'{uri}' is no URI that can be read; they begin with {', '.join(SCHEMES)}"
    if any(ord(character) < 32 or ord(character) == 127 or character == "\\" for character in uri):
        return f"{uri!r} holds a control character or a backslash; remove it"
    for text in (uri, unquote(uri)):
        if {".", ".."} & set(re.split(r"[/\\]", text)):
            return f"'{uri}' has a '.' or '..' segment; write the place itself"
    if scheme == "file://" and not uri.startswith("file:///"):
        return f"'{uri}' is no absolute path; write file:///folder/name"
    if not SCHEMES[scheme]:
        return ""
    prefixes = allowed_prefixes()
    if prefixes and not any(_under(uri, prefix) for prefix in prefixes):
        return (
            f"'{uri}' is not among the places this installation reads ({', '.join(prefixes)}); move it "
            f"there, or have its prefix added to {ALLOWED}"
        )
    if scheme == "file://" and not prefixes and not local_mode():
        return (
            f"'{uri}' is a file of the machine that plans, which a shared installation reads only where "
            f"{ALLOWED} names its folder; use s3://"
        )
    return ""


def check_place(uri: str) -> None:
    """Raises ConfigInvalid with the words of `refusal`, where there are any."""
    if words := refusal(uri):
        raise ConfigInvalid(words)


def check_path(path: Path) -> None:
    """Refuse a file that a link leads to, outside of the folders that may be read.

    Raises:
        ConfigInvalid: PERENNIAL_ALLOWED_URIS is set and does not allow where the path really is.
    """
    prefixes = allowed_prefixes()
    if not prefixes:
        return
    real = path.resolve()
    folders = [
        Path(each.removeprefix("file://")).resolve() for each in prefixes if each.startswith("file://")
    ]
    if not any(real.is_relative_to(folder) for folder in folders):
        raise ConfigInvalid(
            f"'{path}' leads to {real}, which {ALLOWED} does not allow; put a copy in its place"
        )


def allowed_prefixes() -> list[str]:
    """The prefixes of PERENNIAL_ALLOWED_URIS; none where it is not set."""
    prefixes = [each.strip() for each in os.environ.get(ALLOWED, "").split(",") if each.strip()]
    for prefix in prefixes:
        if not any(prefix.startswith(scheme) and limited for scheme, limited in SCHEMES.items()):
            known = ", ".join(scheme for scheme, limited in SCHEMES.items() if limited)
            raise ConfigInvalid(f"{ALLOWED}: '{prefix}' limits nothing; its prefixes begin with {known}")
        if ".." in unquote(prefix).split("/"):
            raise ConfigInvalid(f"{ALLOWED}: '{prefix}' has a '..' segment; write the place itself")
    return prefixes


def _under(uri: str, prefix: str) -> bool:
    """Whether a URI is the prefix or lies below it: `s3://data` does not allow `s3://data-of-others`."""
    return uri == prefix or uri.startswith(prefix.rstrip("/") + "/")
