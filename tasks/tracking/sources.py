"""How a registered version names its weights: by the URI of the artefact in the store.

An S3 store's artefact has an `s3://` source, which MLflow downloads by itself. A directory's cannot be
`file://`: an MLflow server refuses every local source outside the run's own folder, so that nobody reads its
disk through it. Ours is `perennial-file://`, which tasks.tracking.plugin serves, and only for directories
that are whole artefacts. (No `+` in the scheme: the server's check decodes it into a space and refuses it.)
"""

from __future__ import annotations

import re
import urllib.parse
from dataclasses import dataclass
from pathlib import Path

from tasks.artefacts import Store
from tasks.recipe.failures import ConfigInvalid

SCHEME = "perennial-file"
SOURCE = re.compile(r"^(?P<store>.+)/artefacts/(?P<digest>[0-9a-f]{64})/files/?$")


@dataclass(frozen=True)
class Source:
    """Where a version's files are: an artefact of the store at a URI."""

    store: str
    digest: str


def source_of(store: Store, digest: str) -> str:
    """The source URI for an artefact; symbolic links in a local path are resolved, as the server demands."""
    parsed = urllib.parse.urlparse(store.uri)
    if parsed.scheme == "s3":
        return f"{store.uri.rstrip('/')}/artefacts/{digest}/files"
    if parsed.scheme not in ("", "file"):
        raise ConfigInvalid(
            f"the store '{store.uri}' is neither a directory nor S3: MLflow cannot refer to it"
        )
    path = Path(urllib.parse.unquote(parsed.path) if parsed.scheme else store.uri).resolve()
    return f"{SCHEME}://{urllib.parse.quote(path.as_posix())}/artefacts/{digest}/files"


def parse_source(source: str) -> Source:
    """The store and the digest that a source names.

    Raises:
        ConfigInvalid: It does not name an artefact of a store.
    """
    found = SOURCE.match(source)
    parsed = urllib.parse.urlparse(source)
    if found is None or parsed.scheme not in (SCHEME, "s3"):
        raise ConfigInvalid(
            f"the source '{source}' is no artefact of a store ({SCHEME}:///dir/artefacts/<digest>/files or "
            f"s3://bucket/prefix/artefacts/<digest>/files); register the model with `perennial register`"
        )
    store = found["store"]
    if parsed.scheme == SCHEME:
        store = "file://" + store.removeprefix(f"{SCHEME}://")
    return Source(store, found["digest"])
