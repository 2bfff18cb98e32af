"""The append-only history of a model: who released or took back what, when, on which evidence, and why.

One object per line in the store, `ledger/<model>/000001.json`, created only if it is absent, so that two
writers never take the same number. Each line holds the digest of the one before it and its own. MLflow keeps
no history of its aliases, so the ledger is the truth and the aliases follow it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from hashlib import sha256
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from tasks.artefacts import Store
from tasks.recipe.failures import ConfigInvalid, DataInvalid, Infrastructure

Action = Literal["register", "approve", "promote", "reject", "rollback", "delete"]
"""What can be recorded: `approve` is one of several approvals that a promotion needs, `delete` removes a
version that nothing needs from MLflow."""

MOVES = ("promote", "rollback")
"""The actions that make another version the champion."""

FIRST = "0" * 64
"""`previous_hash` of a ledger's first line."""

CONFLICTS = 200
"""Lost races for a number after which something is wrong with the store rather than busy."""


class Draft(BaseModel):
    """What a writer wants to record.

    Attributes:
        actor: Who decided.
        from_version: The champion before, by MLflow's number; None if there was none.
        to_version: The version it is about; after a promotion or a rollback, the champion.
        evidence: Digest of the report that the decision rests on.
        run: The Perennial run, or "" for a decision by hand.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    action: Action
    actor: str
    from_version: str | None = None
    to_version: str
    from_digest: str | None = None
    to_digest: str
    evidence: str = ""
    reason: str = ""
    run: str = ""


class Line(Draft):
    """A recorded line: the draft with its place, time (ISO 8601, UTC) and chain."""

    seq: int
    time: str
    model: str
    previous_hash: str
    hash: str


@dataclass(frozen=True)
class Standing:
    """Which versions a ledger says are in production."""

    champion: str | None = None
    previous: str | None = None


Make = Callable[[Sequence[Line]], Draft | None]
"""Draws up the line that follows a history; None to append nothing; raises to refuse."""


def append(store: Store, model: str, make: Make) -> Line | None:
    """Append a line that `make` draws up from the history so far.

    Where another writer was faster, `make` is asked again with the longer history, so its checks always hold
    for the history that its line follows.

    Args:
        store: The store.
        model: The registered model.
        make: Draws up the line.

    Returns:
        The line as recorded, or None.

    Raises:
        DataInvalid: The ledger on record has been tampered with.
        Infrastructure: The store failed, or takes no new line.
    """
    for _ in range(CONFLICTS):
        lines = history(store, model)
        draft = make(lines)
        if draft is None:
            return None
        now = datetime.now(UTC).isoformat(timespec="microseconds")
        fields: dict[str, Any] = {
            **draft.model_dump(),
            "seq": len(lines) + 1,
            # A clock set back must not put a line before the one it follows.
            "time": max(now, lines[-1].time) if lines else now,
            "model": model,
            "previous_hash": lines[-1].hash if lines else FIRST,
        }
        line = Line(**fields, hash=_hash(fields))
        if store.write(_key(model, line.seq), _canonical(line.model_dump()), if_absent=True):
            return line
    raise Infrastructure(
        f"{store.locate(f'ledger/{model}')}: {CONFLICTS} attempts to append were overtaken; retry"
    )


def history(store: Store, model: str, at: datetime | date | str | None = None) -> list[Line]:
    """The verified lines of a model's ledger, oldest first, up to a moment.

    Args:
        store: The store.
        model: The registered model.
        at: A moment (UTC where it names no zone) or a day, which means its end; None for all.

    Raises:
        DataInvalid: A line is missing, altered or unreadable.
        ConfigInvalid: `at` is no date.
    """
    lines = []
    for stat in sorted(store.list(f"ledger/{model}/"), key=lambda each: each.key):
        try:
            lines.append(Line.model_validate_json(store.read(stat.key)))
        except ValidationError as error:
            raise DataInvalid(
                f"{store.locate(stat.key)}: not a ledger line ({error.error_count()} errors); restore "
                f"the file from a backup"
            ) from error
    if problems := chain_problems(model, lines):
        raise DataInvalid(
            f"{store.locate(f'ledger/{model}')}: the ledger was tampered with: {'; '.join(problems)}. "
            f"Restore it from a backup; nothing is promoted or rolled back until then"
        )
    until = moment(at) if at is not None else None
    return [line for line in lines if until is None or datetime.fromisoformat(line.time) <= until]


def chain_problems(model: str, lines: Sequence[Line]) -> list[str]:
    """What is wrong with a chain of lines; [] if every line is the one that was written."""
    found = []
    previous = FIRST
    for place, line in enumerate(lines, start=1):
        if line.seq != place:
            found.append(f"line {place} is missing (found {line.seq})")
            break
        if line.model != model:
            found.append(f"line {place} is about model '{line.model}'")
        if line.hash != _hash(line.model_dump(exclude={"hash"})):
            found.append(f"line {place} was altered")
        if line.previous_hash != previous:
            found.append(f"line {place} does not follow line {place - 1}")
        previous = line.hash
    return found


def verify_chain(store: Store, model: str, head: str = "") -> list[str]:
    """What is wrong with a model's ledger, in words.

    Args:
        store: The store.
        model: The registered model.
        head: The hash of a line known from elsewhere (the tag `perennial.ledger` of a promoted version): a
            ledger rewritten as a whole, or cut off before it, no longer holds that line.
    """
    try:
        lines = history(store, model)
    except DataInvalid as error:
        return [str(error)]
    if head and head not in {line.hash for line in lines}:
        return [f"the line {head} on record in MLflow is not in the ledger: it was cut off or rewritten"]
    return []


def standing(lines: Sequence[Line]) -> Standing:
    """Champion and previous after these lines."""
    now = Standing()
    for line in lines:
        if line.action in MOVES:
            now = Standing(champion=line.to_version, previous=line.from_version)
    return now


def champion_at(store: Store, model: str, when: datetime | date | str) -> str | None:
    """The version that was champion at a moment, or at the end of a day; None if there was none yet."""
    return standing(history(store, model, when)).champion


def moment(at: datetime | date | str) -> datetime:
    """A moment in UTC from a datetime, a day (its end), or ISO 8601 text of either."""
    if isinstance(at, str):
        try:
            at = date.fromisoformat(at) if len(at) == 10 else datetime.fromisoformat(at)
        except ValueError as error:
            raise ConfigInvalid(
                f"'{at}' is no date; write 2026-03-01 (its end, UTC) or 2026-03-01T12:00:00+00:00"
            ) from error
    if not isinstance(at, datetime):
        return datetime.combine(at, time.max, UTC)
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)


def _key(model: str, seq: int) -> str:
    return f"ledger/{model}/{seq:06d}.json"


def _canonical(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, sort_keys=True, indent=1, ensure_ascii=False).encode()


def _hash(fields: dict[str, Any]) -> str:
    return sha256(_canonical(fields)).hexdigest()
