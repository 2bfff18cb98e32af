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
from tasks.recipe.trusted_code import LEFT_OUT, auto_map, code_digest, code_files, leave_out, trusted
from tasks.recipe.uris import check_path, check_place
from tasks.release import signature
from tasks.release.whole import model_digest
from tasks.runner.settings import Settings
from tasks.tracking import registry

# What a model folder may bring: weights as safetensors only, since a pickle runs code when it is read. Python
# files are fetched to be hashed, and kept where their digest is allowed.
WANTED = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.py")


HEADER_BYTES = 100_000_000
"""The largest header that the safetensors format allows."""


def import_model(uri: str, store: Store, settings: Settings) -> Pinned:
    """Bring a model into the store and pin it by digest.

    A version that is an adapter stands for the whole model that its step made with it.

    Raises:
        ConfigInvalid: There is no such model, it is not a safetensors causal LM folder, it may not be read
            from there, it is a version that nobody trusted has signed, or PERENNIAL_TRUSTED_CODE is wrong.
        DataInvalid: A version of the registry, its plan or its signature was altered.
        Infrastructure: The place it lies in cannot be reached.
    """
    check_place(uri)
    allowed = trusted()
    if uri.startswith("models:/"):
        version = registry.resolve(uri, settings.tracking)
        if not version.digest:
            raise ConfigInvalid(
                f"{uri}: version {version.version} was not registered by Perennial, so nothing proves what "
                f"it holds; refer to its weights by file:// or s3:// instead"
            )
        signature.verify(store, version)
        digest = model_digest(version)
        manifest = load_manifest(store, digest)
        return Pinned(digest=digest, kind=manifest.kind, meta=dict(manifest.meta))
    with tempfile.TemporaryDirectory(prefix="perennial-import-") as scratch:
        folder = Path(scratch) / "model"
        folder.mkdir()
        for name in WANTED:
            _copy(uri, name, folder)
        _sift_code(folder, allowed)
        return _commit(uri, folder, store)


def _copy(uri: str, pattern: str, folder: Path) -> None:
    scheme, _, rest = uri.partition("://")
    if scheme == "file":
        source = Path(rest)
        if not source.is_dir():
            raise ConfigInvalid(f"{uri}: there is no such folder; a model is a folder with a config.json")
        for path in sorted(source.glob(pattern)):
            check_path(path)
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


def _sift_code(folder: Path, allowed: frozenset[str]) -> None:
    """Keep a model's own code where config.json uses it and its digest is allowed; else take it out."""
    (folder / LEFT_OUT).unlink(missing_ok=True)  # a source does not tell us what we left out
    files = code_files(folder)
    if auto_map(folder) and files and code_digest(files) not in allowed:
        leave_out(folder, files)
    for path in folder.rglob("*.py"):
        if not auto_map(folder) or path.parent != folder or path.name not in files:
            path.unlink()


def _header(path: Path) -> dict[str, Any]:
    """The header of a safetensors file; a pickle that was renamed has none."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        try:
            found = json.loads(file.read(min(length, HEADER_BYTES)))
        except ValueError as error:
            raise ConfigInvalid(
                f"{path.name} is called safetensors and is something else; convert the weights again"
            ) from error
    if not isinstance(found, dict):
        raise ConfigInvalid(f"{path.name}: its header lists no tensors; convert the weights again")
    return found


def _facts(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The facts that plans need of a model, read from its files without loading it."""
    tokenizer, code = folder / "tokenizer.json", code_files(folder)
    sizes = [path.stat().st_size for path in folder.glob("*.safetensors")]
    parameters = 0
    for path in folder.glob("*.safetensors"):
        for name, tensor in _header(path).items():
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
        **({"code": code_digest(code)} if code else {}),
    }
