"""Signed releases: what a version was when this installation registered it, and proof that it still is.

`signatures/<model>/<version>.json` in the store holds the statement, the key's id and the signature (Ed25519,
RFC 8032, over the statement's canonical JSON); the version's tags in MLflow repeat the last two. It is
checked before a promotion or a rollback and before a run trusts a champion, so that neither who can write to
MLflow nor who can write to the store can put another model, report or lineage in a version's place.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Literal

from cryptography.exceptions import InvalidSignature
from pydantic import BaseModel, ConfigDict, ValidationError

from tasks.artefacts import ObjectMissing, Store
from tasks.recipe.failures import ConfigInvalid, DataInvalid
from tasks.recipe.fingerprints import canonical
from tasks.release.keys import key_id, signing_key, trusted_keys
from tasks.tracking import registry
from tasks.tracking.registry import VersionInfo

DOMAIN = b"perennial release statement 1\n"
"""Put before what is signed: a signature made for anything else does not count here."""

LATER = frozenset({"perennial.decision", "perennial.ledger", "perennial.signature", "perennial.signed_by"})
"""Tags of ours that change after a version was registered; every other is signed."""

DERIVED = frozenset(
    f"perennial.{name}"
    for name in ("semantic_version", "version_reason", "card", "device_hours", "cost", "energy_kwh")
)
"""Tags that another attempt at the same registration may give another value."""


class Statement(BaseModel):
    """What is signed.

    Attributes:
        model: The registered model.
        version: MLflow's number.
        source: URI of the weights.
        candidate: Digest of the model's artefact.
        report: Digest of the evidence.
        plan: sha256 of the frozen plan; "" where the run was no longer in the store (`perennial sign`).
        tags: Every tag of ours that the version was registered with: lineage, data, steps, intent.
        by: Who signed.
        time: When; ISO 8601, UTC.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    model: str
    version: str
    source: str
    candidate: str
    report: str
    plan: str
    tags: dict[str, str]
    by: str
    time: str

    def to_bytes(self) -> bytes:
        """What the signature covers."""
        return DOMAIN + canonical(self.model_dump())


class Signed(BaseModel):
    """A statement with its signature (base64) and the id of the key."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    statement: Statement
    key: str
    signature: str


def sign(store: Store, version: VersionInfo, by: str, *, plan: str | None = None) -> Signed:
    """Sign a version as it stands in MLflow, in place of any signature that it has.

    Args:
        store: Where the signature is kept.
        version: As read from MLflow just now.
        by: Who says that this is right.
        plan: sha256 of the run's frozen plan; None for that of the plan in the store, if it is there.

    Raises:
        ConfigInvalid: There is no key to sign with, or the version was not registered by Perennial.
        Infrastructure: The store or MLflow is unreachable.
    """
    _check_ours(version)
    key = signing_key(store.uri)
    statement = Statement(
        model=version.name,
        version=version.version,
        source=version.source,
        candidate=version.digest,
        report=version.tags.get("perennial.report", ""),
        plan=_plan_digest(store, version) if plan is None else plan,
        tags=_signed_tags(version.tags),
        by=by,
        time=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    signed = Signed(
        statement=statement,
        key=key_id(key.public_key()),
        signature=base64.b64encode(key.sign(statement.to_bytes())).decode(),
    )
    store.write(_key(version), signed.model_dump_json(indent=1).encode() + b"\n")
    registry.tag_version(
        version.name,
        version.version,
        {"perennial.signature": signed.signature, "perennial.signed_by": signed.key},
    )
    return signed


def sign_registered(
    store: Store, made: VersionInfo, registered: Mapping[str, str], *, plan: str, by: str
) -> None:
    """Sign the version that a registration gave, unless it has a good signature already.

    A version that was there before under other tags (another run made the same model and report) is left as
    it is: what its tags say is not this run's to vouch for.

    Args:
        store: Where the signature is kept.
        made: The version.
        registered: The tags that this registration asked for.
        plan: sha256 of the run's frozen plan.
        by: Who registered it.

    Raises:
        ConfigInvalid: There is no key to sign with.
        Infrastructure: The store or MLflow is unreachable.
    """
    try:
        verify(store, made)
        return
    except (ConfigInvalid, DataInvalid):
        signing_key(store.uri)  # where there is none, that is what has to be said
    held, wanted = _signed_tags(made.tags), _signed_tags(registered)
    if {name: held[name] for name in held.keys() - DERIVED} == {
        name: wanted[name] for name in wanted.keys() - DERIVED
    }:
        sign(store, made, by, plan=plan)


def verify(store: Store, version: VersionInfo) -> Signed:
    """Check that a version is what a trusted key signed; whether its files are is `tasks.artefacts.problems`.

    Raises:
        ConfigInvalid: It is not signed, or by a key that is not trusted.
        DataInvalid: The signature, the version in MLflow, or its plan was altered.
        Infrastructure: The store is unreachable.
    """
    _check_ours(version)
    called = f"version {version.version} of '{version.name}'"
    remedy = f"if you know that it is right, `perennial sign {version.name} {version.version}`"
    trusted = trusted_keys(store.uri)
    signed = _read(store, version)
    if signed is None:
        raise ConfigInvalid(
            f"{called} is not signed: it was registered by another installation, or before Perennial signed "
            f"what it registers; {remedy}"
        )
    if signed.key not in trusted:
        raise ConfigInvalid(
            f"{called} is signed by the key {signed.key}, which is not trusted here (trusted: "
            f"{', '.join(trusted) or 'none'}); add that key to PERENNIAL_TRUSTED_KEYS, or, {remedy}"
        )
    try:
        signature = base64.b64decode(signed.signature, validate=True)
        trusted[signed.key].verify(signature, signed.statement.to_bytes())
    except (InvalidSignature, ValueError) as error:
        raise DataInvalid(
            f"{called}: its signature in {store.locate(_key(version))} is forged or was altered; find out by "
            f"whom before anything else"
        ) from error
    differs = _differences(store, version, signed)
    if differs:
        raise DataInvalid(
            f"{called} is not what was signed on {signed.statement.time} by {signed.statement.by}: "
            f"{'; '.join(differs[:5])}. Somebody changed it since: compare {store.locate(_key(version))}"
        )
    return signed


def _differences(store: Store, version: VersionInfo, signed: Signed) -> list[str]:
    said = signed.statement
    pairs = {
        "model": (said.model, version.name),
        "version": (said.version, version.version),
        "source": (said.source, version.source),
        "candidate": (said.candidate, version.digest),
        "report": (said.report, version.tags.get("perennial.report", "")),
        "tag perennial.signature": (signed.signature, version.tags.get("perennial.signature", "")),
        "tag perennial.signed_by": (signed.key, version.tags.get("perennial.signed_by", "")),
    }
    held = _signed_tags(version.tags)
    for name in sorted(said.tags.keys() | held.keys()):
        pairs[f"tag {name}"] = (said.tags.get(name, "none"), held.get(name, "none"))
    if said.plan:
        pairs["plan"] = (said.plan, _plan_digest(store, version) or said.plan)
    return [f"{name} was {was} and is {now}" for name, (was, now) in pairs.items() if was != now]


def _check_ours(version: VersionInfo) -> None:
    if not version.digest:
        raise ConfigInvalid(
            f"version {version.version} of '{version.name}' has no tag perennial.candidate: it was not "
            f"registered by Perennial, so nothing proves what it holds; register it with `perennial register`"
        )


def _signed_tags(tags: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value for name, value in tags.items() if name.startswith("perennial.") and name not in LATER
    }


def _plan_digest(store: Store, version: VersionInfo) -> str:
    """sha256 of the run's plan, "" where the run's folder is gone: nothing reads it then either."""
    _, _, key = version.tags.get("perennial.plan", "").rpartition("/runs/")
    if not key or store.stat(f"runs/{key}") is None:
        return ""
    return hashlib.sha256(store.read(f"runs/{key}")).hexdigest()


def _key(version: VersionInfo) -> str:
    return f"signatures/{version.name}/{version.version}.json"


def _read(store: Store, version: VersionInfo) -> Signed | None:
    try:
        data = store.read(_key(version))
    except ObjectMissing:
        return None
    try:
        return Signed.model_validate_json(data)
    except ValidationError as error:
        raise DataInvalid(f"{store.locate(_key(version))}: altered: no signed statement: {error}") from error
