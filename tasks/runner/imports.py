"""Models named by URI in a recipe: a folder, an S3 prefix, the hub, or a registered version."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from tasks.artefacts import Store, commit, load_manifest, open_store
from tasks.recipe.failures import ConfigInvalid, Infrastructure
from tasks.recipe.plan import Pinned
from tasks.runner.settings import Settings
from tasks.tracking import registry

# What a model folder may bring: weights as safetensors only, since a pickle runs code when it is read.
WANTED = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")


def import_model(uri: str, store: Store, settings: Settings) -> Pinned:
    """Bring a model into the store and pin it by digest.

    Raises:
        ConfigInvalid: There is no such model, or it is not a safetensors causal LM folder.
        Infrastructure: The place it lies in cannot be reached.
    """
    if uri.startswith("models:/"):
        version = registry.resolve(uri, settings.tracking)
        if not version.digest:
            raise ConfigInvalid(
                f"{uri}: version {version.version} was not registered by Perennial, so nothing proves what "
                f"it holds; refer to its weights by file:// or s3:// instead"
            )
        manifest = load_manifest(store, version.digest)
        return Pinned(digest=version.digest, kind=manifest.kind, meta=dict(manifest.meta))
    with tempfile.TemporaryDirectory(prefix="perennial-import-") as scratch:
        folder = Path(scratch) / "model"
        folder.mkdir()
        for name in WANTED:
            _copy(uri, name, folder)
        return _commit(uri, folder, store)


def _copy(uri: str, pattern: str, folder: Path) -> None:
    scheme, _, rest = uri.partition("://")
    if scheme == "file":
        source = Path(rest)
        if not source.is_dir():
            raise ConfigInvalid(f"{uri}: there is no such folder; a model is a folder with a config.json")
        for path in sorted(source.glob(pattern)):
            shutil.copyfile(path, folder / path.name)
    elif scheme == "s3":
        bucket = open_store(uri)
        for found in bucket.list(""):
            if "/" not in found.key and Path(found.key).match(pattern):
                (folder / found.key).write_bytes(bucket.read(found.key))
    elif scheme == "hf":
        _download(rest, pattern, folder)
    else:
        raise ConfigInvalid(f"{uri}: a model comes from file://, s3://, hf:// or models:/")


def _download(name: str, pattern: str, folder: Path) -> None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    repository, _, revision = name.partition("@")
    try:
        snapshot_download(repository, revision=revision or None, allow_patterns=[pattern], local_dir=folder)
    except RepositoryNotFoundError as error:
        raise ConfigInvalid(
            f"hf://{name}: the hub has no such model (or it needs a token): {error}"
        ) from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise Infrastructure(f"hf://{name}: the hub cannot be reached: {error}") from error
    shutil.rmtree(folder / ".cache", ignore_errors=True)


def _commit(uri: str, folder: Path, store: Store) -> Pinned:
    config = folder / "config.json"
    if not config.is_file() or not list(folder.glob("*.safetensors")):
        raise ConfigInvalid(
            f"{uri}: not a model folder: it needs config.json and weights as *.safetensors (no pickles)"
        )
    meta = _facts(json.loads(config.read_text(encoding="utf-8")), folder)
    manifest = commit(store, folder, kind="model", parents=[], producer=uri, meta=meta)
    return Pinned(digest=manifest.digest, kind="model", meta=meta)


def _facts(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The facts that plans need of a model, read from its files without loading it."""
    tokenizer = folder / "tokenizer.json"
    sizes = [path.stat().st_size for path in folder.glob("*.safetensors")]
    parameters = 0
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        for name, tensor in header.items():
            if name != "__metadata__":
                count = 1
                for length in tensor["shape"]:
                    count *= length
                parameters += count
    return {
        "architecture": (config.get("architectures") or ["unknown"])[0],
        "hidden": config.get("hidden_size"),
        "layers": config.get("num_hidden_layers"),
        "vocab_size": config.get("vocab_size"),
        "parameters": parameters,
        "bytes": sum(sizes),
        "tokenizer": hashlib.sha256(tokenizer.read_bytes()).hexdigest() if tokenizer.is_file() else None,
    }
