"""Garbage collection: what nothing refers to, said first and removed second.

Roots are every digest named in a run's folder, in the records that such a folder leads to, in the ledger and
in the slices of a corpus, and those that the caller adds (the registry's versions). Young objects always
stay: a run may have committed an artefact a moment ago and not yet written it down.
"""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Collection, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from tasks.artefacts.artefact import manifest_key
from tasks.artefacts.kept import PREFIX
from tasks.artefacts.store import ObjectMissing, Stat, Store
from tasks.artefacts.stored_delta import PREFIX as DELTAS
from tasks.artefacts.stored_delta import delta_key, find_delta

DIGEST = re.compile(rb"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
YOUNG = timedelta(days=1)
ABANDONED = timedelta(
    days=30
)  # checkpoints of a step that never finished may be days of work: keep them long

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Removal:
    """Something that can go.

    Attributes:
        key_prefix: Every object under it goes; for an unfinished write, its own key.
        bytes: What that frees; 0 where the store does not know (an unfinished upload to S3).
        reason: Why nothing needs it.
        newest: When the youngest of its objects was written; it stays if that has changed since.
        unfinished: A write that was never completed, not readable objects.
    """

    key_prefix: str
    bytes: int
    reason: str
    newest: datetime
    unfinished: bool = False


@dataclass(frozen=True)
class Roots:
    """What must stay.

    Attributes:
        digests: Of artefacts (and every other digest named beside them).
        fingerprints: Named in a run and without a record: steps that are under way or can be resumed.
    """

    digests: frozenset[str]
    fingerprints: frozenset[str]


def find_roots(store: Store, extra: Iterable[str] = (), released: Collection[str] = ()) -> Roots:
    """Every digest that the runs but those released, their records, the ledger, the corpora or `extra` name.

    Whatever looks like a digest counts, wherever it stands in those objects: no format can be misread in a
    way that loses an artefact.
    """
    records = {
        stat.key.removeprefix("records/").removesuffix(".json"): stat.key for stat in store.list("records/")
    }
    named: set[str] = set()
    for stat in itertools.chain(*(store.list(f"{folder}/") for folder in ("runs", "ledger", "corpus"))):
        folder, _, rest = stat.key.partition("/")
        if folder == "runs" and rest.partition("/")[0] in released:
            continue
        if stat.key.endswith(".json"):
            named |= _digests_in(store, stat.key)
    found = set(extra) | named
    waiting = found & records.keys()
    followed: set[str] = set()
    while waiting:
        followed |= waiting
        for fingerprint in waiting:
            found |= _digests_in(store, records[fingerprint])
        waiting = (found & records.keys()) - followed
    for digest, _ in _grouped(store, DELTAS):  # what is kept as a difference needs what it differs from
        if digest in found and (delta := find_delta(store, digest)) is not None:
            found.add(delta.base)
    return Roots(frozenset(found), frozenset(found - records.keys()))


def plan_gc(
    store: Store,
    roots: Set[str],
    keep_fingerprints: Set[str],
    older_than: timedelta = YOUNG,
    released: Set[str] = frozenset(),
) -> list[Removal]:
    """What can go; removes nothing.

    Args:
        store: To look through.
        roots: Digests of artefacts that stay.
        keep_fingerprints: Steps whose checkpoints stay.
        older_than: Whatever has an object younger than this stays.
        released: Digests that only runs name which are too old to keep anything; for the reason that is told.
    """
    now = datetime.now(UTC)
    removals: list[Removal] = []
    for digest, stats in _grouped(store, "artefacts/"):
        newest = max(stat.modified for stat in stats)
        if digest in roots or now - newest < older_than:
            continue
        if all(stat.key != manifest_key(digest) for stat in stats):
            reason = "a commit that was never finished"
        elif digest in released:
            reason = "only old runs name it, and their steps would make it again"
        else:
            reason = "no plan, record, registry version or ledger line names it"
        removals.append(Removal(f"artefacts/{digest}/", _bytes(stats), reason, newest))
    for fingerprint, stats in _grouped(store, "checkpoints/"):
        newest = max(stat.modified for stat in stats)
        if fingerprint in keep_fingerprints or now - newest < older_than:
            continue
        if store.stat(f"records/{fingerprint}.json"):
            reason = "checkpoints of a step that has finished"
        elif now - newest >= max(ABANDONED, older_than):
            reason = f"checkpoints of a step that nothing names, untouched for {(now - newest).days} days"
        else:
            continue
        removals.append(Removal(f"checkpoints/{fingerprint}/", _bytes(stats), reason, newest))
    for model, stats in _grouped(store, PREFIX):
        newest = max(stat.modified for stat in stats)
        if model not in roots and now - newest >= older_than:
            reason = "scores of a model that nothing names"
            removals.append(Removal(f"{PREFIX}{model}/", _bytes(stats), reason, newest))
    for digest, stats in _grouped(store, DELTAS):
        newest = max(stat.modified for stat in stats)
        unfinished = all(stat.key != delta_key(digest) for stat in stats)
        if (digest not in roots or unfinished) and now - newest >= older_than:
            reason = (
                "a difference that was never finished"
                if unfinished
                else "the difference of a model that nothing names"
            )
            removals.append(Removal(f"{DELTAS}{digest}/", _bytes(stats), reason, newest))
    for stat in store.unfinished():
        if now - stat.modified >= older_than:
            reason = "a write that was never finished"
            removals.append(Removal(stat.key, stat.size, reason, stat.modified, unfinished=True))
    return removals


def apply_gc(store: Store, removals: Sequence[Removal]) -> int:
    """Remove what `plan_gc` found, except what was written to since; the bytes that were freed.

    The manifest (of an artefact) and COMPLETE (of a checkpoint) go first, so that nothing half removed can be
    read; interrupted, the rest is found by the next collection.
    """
    freed = 0
    for removal in removals:
        if removal.unfinished:
            store.discard(removal.key_prefix)
            freed += removal.bytes
            continue
        stats = list(store.list(removal.key_prefix))
        if any(stat.modified > removal.newest for stat in stats):
            logger.warning("%s: written to since it was found; it stays", removal.key_prefix)
            continue
        for stat in sorted(stats, key=_markers_first):
            store.delete(stat.key)
            freed += stat.size
    return freed


def _markers_first(stat: Stat) -> tuple[int, str]:
    name = stat.key.rpartition("/")[2]
    digest = stat.key.split("/")[1]
    marker = stat.key in (manifest_key(digest), delta_key(digest)) or name == "COMPLETE"
    return (0 if marker else 1, stat.key)


def _grouped(store: Store, prefix: str) -> Iterator[tuple[str, list[Stat]]]:
    """The objects under `prefix` by the first folder below it."""

    def folder(stat: Stat) -> str:
        return stat.key.removeprefix(prefix).partition("/")[0]

    for name, stats in itertools.groupby(store.list(prefix), key=folder):
        yield name, list(stats)


def _digests_in(store: Store, key: str) -> set[str]:
    try:
        return {match.decode() for match in DIGEST.findall(store.read(key))}
    except ObjectMissing:  # removed since it was listed
        return set()


def _bytes(stats: Sequence[Stat]) -> int:
    return sum(stat.size for stat in stats)
