"""Keep a model's weights as an exact difference from another model's, and take that back."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime
from pathlib import Path

from tasks.artefacts import stored_delta
from tasks.artefacts.artefact import fetch, key_of, load_manifest, problems
from tasks.artefacts.files import disk_failure, sha256_of
from tasks.artefacts.store import Store
from tasks.artefacts.stored_delta import Delta, KeptFile, find_delta
from tasks.recipe.failures import ConfigInvalid, Infrastructure


def pack(store: Store, digest: str, base: str, *, cache: Path) -> Delta:
    """Keep the weights of an artefact as their difference from a base's; its digest stays its digest.

    The difference is made, read back and compared with every byte before anything is removed. Killed at any
    moment, the artefact stays readable, and the next call goes on.

    Args:
        store: Holds both.
        digest: The model.
        base: A model of the same tensors, kept whole; it must stay, and garbage collection sees to that.
        cache: For artefacts fetched from a remote store; the work is done beside them.

    Raises:
        ConfigInvalid: One is no model, the base is itself kept as a difference, another artefact's difference
            is from this one, or the two have too little in common to save anything.
        Infrastructure: Something is missing or altered, or the disk is full.
    """
    known = find_delta(store, digest)
    if known is not None and known.base == base:
        _drop_files(store, known)  # what a killed call left to do
        return known
    manifest = load_manifest(store, digest)
    _check_pair(store, digest, base)
    cache.mkdir(parents=True, exist_ok=True)
    own, beside = fetch(store, digest, cache), fetch(store, base, cache)
    with tempfile.TemporaryDirectory(prefix=".delta-", dir=cache) as name:
        scratch = Path(name)
        try:
            files = _encode(own, beside, scratch)
        except OSError as error:
            raise disk_failure(error, f"the difference of {digest}", cache, manifest.size) from error
        whole = sum(file.size for file in manifest.files if file.path in {kept.path for kept in files})
        delta = Delta(
            digest=digest,
            base=base,
            files=files,
            whole_bytes=whole,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        if delta.bytes >= whole:
            raise ConfigInvalid(
                f"the difference of {digest} from {base} takes {delta.bytes:,} bytes and the weights "
                f"{whole:,}: the two have nothing in common; name another base, or leave it whole"
            )
        if known is not None:  # a difference from another base: the files come back first
            unpack(store, digest, cache=cache)
        for kept in files:
            store.upload(stored_delta.part_key(digest, kept.path), scratch / kept.path, kept.sha256)
        _check_back(store, delta, own, beside, scratch)
    store.write(stored_delta.delta_key(digest), delta.model_dump_json().encode())
    _drop_files(store, delta)
    return delta


def unpack(store: Store, digest: str, *, cache: Path) -> bool:
    """Put the weights of an artefact back whole; False if they are.

    Raises:
        Infrastructure: The difference or its base is missing or altered, or the disk is full.
    """
    delta = find_delta(store, digest)
    if delta is None:
        return False
    cache.mkdir(parents=True, exist_ok=True)
    manifest = load_manifest(store, digest)
    directory = fetch(store, digest, cache)
    for file in manifest.files:
        if file.path in delta.paths:
            store.upload(key_of(digest, file), directory / file.path, file.sha256)
    for file in manifest.files:
        stat = store.stat(key_of(digest, file))
        if stat is None or stat.size != file.size:
            raise Infrastructure(
                f"{store.locate(key_of(digest, file))}: not there after it was written; try again"
            )
    store.delete(stored_delta.delta_key(digest))
    for kept in delta.files:
        store.delete(stored_delta.part_key(digest, kept.path))
    return True


def _check_pair(store: Store, digest: str, base: str) -> None:
    if digest == base:
        raise ConfigInvalid("a model is no difference from itself; name another base")
    for each in (digest, base):
        kind = load_manifest(store, each).kind
        if kind != "model":
            raise ConfigInvalid(
                f"the artefact {each} is of kind '{kind}'; only models are kept as differences"
            )
    if find_delta(store, base) is not None:
        raise ConfigInvalid(f"the base {base} is itself kept as a difference; name one that is kept whole")
    for stat in store.list(stored_delta.PREFIX):
        other = stat.key.split("/")[1]
        if stat.key == stored_delta.delta_key(other):
            found = find_delta(store, other)
            if found is not None and found.base == digest:
                raise ConfigInvalid(
                    f"{other} is kept as its difference from {digest}, which therefore stays whole; keep "
                    f"{other} as a difference from {base} first"
                )


def _encode(own: Path, beside: Path, scratch: Path) -> list[KeptFile]:
    """The difference of every weights file, written to `scratch` under the file's name."""
    import pyarrow

    from tasks.artefacts.difference import LEVEL, all_tensors, encode, tensors_of
    from tasks.artefacts.factors import FILE, read_factors

    base, factors = all_tensors(beside), read_factors(own / FILE)
    codec = pyarrow.Codec("zstd", compression_level=LEVEL)
    files = []
    for file in sorted(own.glob("*.safetensors")):
        head, _ = tensors_of(file)
        packed = codec.compress(head, asbytes=True)
        with (scratch / file.name).open("wb") as out:
            out.write(packed)
            _, parts = encode(file, base, factors, out)
        files.append(
            KeptFile(
                path=file.name,
                size=(scratch / file.name).stat().st_size,
                sha256=sha256_of(scratch / file.name),
                head=(len(head), len(packed)),
                parts=[part.model_dump() for part in parts],
            )
        )
    if not files:
        raise ConfigInvalid(f"{own} has no *.safetensors file, so nothing to keep as a difference")
    return files


def _check_back(store: Store, delta: Delta, own: Path, beside: Path, scratch: Path) -> None:
    """Make every file again from what is in the store now, and compare it with the one that it stands for."""
    for path in delta.paths:
        target = scratch / f"{path}.again"
        stored_delta.rebuild(store, delta, path, beside, own, target)
        if sha256_of(target) != sha256_of(own / path):
            raise Infrastructure(
                f"{path} does not come back from its difference; nothing was changed. This is a defect: keep "
                "the two artefacts and report it"
            )
        target.unlink()


def _drop_files(store: Store, delta: Delta) -> None:
    """Remove the files that the difference stands for, once it is whole and its base is."""
    damage = stored_delta.damage(store, delta) or problems(store, delta.base)
    if damage:
        raise Infrastructure(
            f"the difference of {delta.digest} or its base is damaged, so its files stay: {damage}"
        )
    for file in load_manifest(store, delta.digest).files:
        if file.path in delta.paths:
            store.delete(key_of(delta.digest, file))
