"""The store: immutable artefacts under their digest, records and checkpoints, in a directory or in S3."""

from tasks.artefacts.artefact import (
    FileEntry,
    Manifest,
    commit,
    digest_of,
    fetch,
    load_manifest,
    problems,
)
from tasks.artefacts.backends import open_store
from tasks.artefacts.checkpoints import StoreCheckpoints
from tasks.artefacts.gc import Removal, Roots, apply_gc, find_roots, plan_gc
from tasks.artefacts.store import ArtefactAltered, ObjectMissing, Stat, Store

__all__ = [
    "ArtefactAltered",
    "FileEntry",
    "Manifest",
    "ObjectMissing",
    "Removal",
    "Roots",
    "Stat",
    "Store",
    "StoreCheckpoints",
    "apply_gc",
    "commit",
    "digest_of",
    "fetch",
    "find_roots",
    "load_manifest",
    "open_store",
    "plan_gc",
    "problems",
]
