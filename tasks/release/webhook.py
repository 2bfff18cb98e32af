"""Tell another system of every promotion and rollback: a signed POST, at least once, never in the way.

- PERENNIAL_WEBHOOK_URL: where to, https:// (or http:// inside a cluster); unset: nobody is told.
- PERENNIAL_WEBHOOK_SECRET: key of the signature, or PERENNIAL_WEBHOOK_SECRET_FILE: the file that holds it;
  nothing is sent unsigned.

The ledger is the outbox: a promotion or rollback on it is told as long as `webhook/<model>/<line>.json` does
not say that it was delivered. So a process that dies after the ledger's line loses nothing, and what could
not be delivered now is delivered by the next call about any model, or by `perennial deliver`. Lines from
before the webhook was set up are not told (`webhook/<model>/start.json`).

The request (docs/handover.md has an example): the body is JSON (`Body`), and the headers are

    X-Perennial-Event      promotion or rollback
    X-Perennial-Delivery   the hash of the ledger's line: the same for every repetition
    X-Perennial-Timestamp  seconds since 1970, of this attempt
    X-Perennial-Signature  sha256=<hex of HMAC-SHA256(secret, timestamp + "." + body)>

Any 2xx answer is a delivery. Redirects are not followed.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import Message
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any, Literal

from pydantic import BaseModel, ConfigDict

from tasks.artefacts import Store
from tasks.recipe.fingerprints import canonical
from tasks.release import smoke
from tasks.tracking import ledger, registry

URL = "PERENNIAL_WEBHOOK_URL"
SECRET = "PERENNIAL_WEBHOOK_SECRET"
SECRET_FILE = "PERENNIAL_WEBHOOK_SECRET_FILE"
ATTEMPTS = 3
TIMEOUT_S = 5.0
PAUSE_S = 1.0
"""Wait after the first failed attempt; twice as long after the second."""

MOST = 20
"""Deliveries of one call, so that a long absence of the receiver does not hold up a promotion for minutes."""

EVENTS: Mapping[str, Literal["promotion", "rollback"]] = {"promote": "promotion", "rollback": "rollback"}
"""What is told, by the ledger's action."""


class Body(BaseModel):
    """What the receiver gets; fields are only ever added.

    Attributes:
        id: Hash of the ledger's line; equal ids are the same event.
        model: The registered model.
        version: MLflow's number of what is in production now; `previous` of what was before, or None.
        semantic_version: Of the version; "" if unknown.
        digest: Of its artefact; `source` says where its files are.
        by: Who decided, and why: `reason`.
        evidence: Digest of the report.
        time: Of the decision; ISO 8601, UTC.
        smoke: How its last smoke test ended; None if it has none.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    event: Literal["promotion", "rollback"]
    id: str
    model: str
    version: str
    semantic_version: str
    previous: str | None
    digest: str
    source: str
    by: str
    reason: str
    evidence: str
    run: str
    line: int
    time: str
    smoke: dict[str, Any] | None


@dataclass(frozen=True)
class Receiver:
    """Where to send and what to sign with."""

    url: str
    secret: str

    @property
    def name(self) -> str:
        """The receiver for messages: a path or query may hold a token."""
        parts = urllib.parse.urlsplit(self.url)
        return f"{parts.scheme}://{parts.hostname or '?'}"


Send = Callable[[Receiver, Mapping[str, str], bytes], int]
"""Sends one request and gives the status; raises OSError where there was no answer."""


def receiver() -> tuple[Receiver | None, str]:
    """Who is to be told, and what is wrong with the settings, in words; (None, "") where nobody is."""
    url, secret, path = (os.environ.get(name, "") for name in (URL, SECRET, SECRET_FILE))
    if not url:
        return None, ""
    if path and not secret:
        try:
            secret = Path(path).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            return None, f"{SECRET_FILE} ({path}) cannot be read: {error}; nobody is told"
    if not url.startswith(("https://", "http://")) or not urllib.parse.urlsplit(url).hostname:
        return None, f"{URL} is no https:// or http:// address: nobody is told; correct it"
    if not secret:
        return None, f"{URL} is set and {SECRET} is not: nothing is sent unsigned; set it, or {SECRET_FILE}"
    return Receiver(url, secret), ""


def begin(store: Store, model: str) -> None:
    """Remember where the telling starts, before the first line that is told is written; safe to repeat."""
    if receiver()[0] is not None:
        seen = len(ledger.history(store, model))
        store.write(f"webhook/{model}/start.json", json.dumps({"after": seen}).encode(), if_absent=True)


def deliver(
    store: Store, models: list[str], *, send: Send | None = None, wait: Callable[[float], None] = time.sleep
) -> list[str]:
    """Deliver what of these models' ledgers was not told yet, oldest first; what happened, in words.

    It raises nothing that comes of the receiver: a receiver that is away costs at most the attempts of one
    delivery, and is tried again by the next call.

    Args:
        store: Holds the ledger and the record of deliveries.
        models: Registered models.
        send: Sends one request.
        wait: Pauses between attempts.
    """
    to, wrong = receiver()
    if to is None:
        return [f"WARNING: webhook: {wrong}"] if wrong else []
    said: list[str] = []
    for model in models:
        for line in pending(store, model)[:MOST]:
            problem, tries = _attempts(to, body(store, line), send or post, wait)
            told = {
                "delivered": not problem,
                "id": line.hash,
                "attempts": tries,
                "problem": problem,
                "time": datetime.now(UTC).isoformat(timespec="seconds"),
            }
            store.write(_key(model, line.seq), json.dumps(told, sort_keys=True).encode())
            what = f"webhook: {EVENTS[line.action]} of version {line.to_version} of '{model}'"
            if problem:
                said.append(
                    f"WARNING: {what} was not delivered to {to.name} in {tries} attempts ({problem}); the "
                    "next call tries again, or `perennial deliver`"
                )
                return said  # who does not answer now is not asked for the rest either
            said.append(f"{what} delivered to {to.name}")
    return said


def pending(store: Store, model: str) -> list[ledger.Line]:
    """The promotions and rollbacks that were not told yet, oldest first."""
    start = f"webhook/{model}/start.json"
    if store.stat(start) is None:
        return []
    after = int(json.loads(store.read(start))["after"])
    told = {
        stat.key
        for stat in store.list(f"webhook/{model}/")
        if stat.key != start and json.loads(store.read(stat.key))["delivered"]
    }
    return [
        line
        for line in ledger.history(store, model)
        if line.action in EVENTS and line.seq > after and _key(model, line.seq) not in told
    ]


def body(store: Store, line: ledger.Line) -> bytes:
    """The JSON that tells of a line."""
    version = registry.find_version(line.model, line.to_version)  # None: deleted from MLflow since
    tested = smoke.last(store, version) if version else None
    return canonical(
        Body(
            event=EVENTS[line.action],
            id=line.hash,
            model=line.model,
            version=line.to_version,
            semantic_version=version.semantic if version else "",
            previous=line.from_version,
            digest=line.to_digest,
            source=version.source if version else "",
            by=line.actor,
            reason=line.reason,
            evidence=line.evidence,
            run=line.run,
            line=line.seq,
            time=line.time,
            smoke=tested.model_dump() if tested else None,
        ).model_dump()
    )


def signature(secret: str, timestamp: str, data: bytes) -> str:
    """The value of X-Perennial-Signature."""
    digest = hmac.new(secret.encode(), timestamp.encode() + b"." + data, hashlib.sha256).hexdigest()
    return f"sha256={digest}"


def headers(secret: str, data: bytes, timestamp: str) -> dict[str, str]:
    """The headers of a request with this body."""
    told = json.loads(data)
    return {
        "Content-Type": "application/json",
        "User-Agent": "perennial",
        "X-Perennial-Event": told["event"],
        "X-Perennial-Delivery": told["id"],
        "X-Perennial-Timestamp": timestamp,
        "X-Perennial-Signature": signature(secret, timestamp, data),
    }


def post(to: Receiver, given: Mapping[str, str], data: bytes) -> int:
    """Send one request; the status of the answer, also where that is no 2xx.

    Raises:
        OSError: There was no answer in time.
    """
    request = urllib.request.Request(to.url, data=data, headers=dict(given), method="POST")
    try:
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=TIMEOUT_S) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code
    except HTTPException as error:
        raise ConnectionError(f"no HTTP: {type(error).__name__}") from error


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect is an answer like any other that is no 2xx: the signed body goes nowhere else."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> None:
        return None


def _attempts(to: Receiver, data: bytes, send: Send, wait: Callable[[float], None]) -> tuple[str, int]:
    """Why it was not delivered ("" if it was), and after how many attempts."""
    problem = ""
    for attempt in range(1, ATTEMPTS + 1):
        if attempt > 1:
            wait(PAUSE_S * 2 ** (attempt - 2))
        try:
            status = send(to, headers(to.secret, data, str(int(time.time()))), data)
        except OSError as error:
            problem = f"no answer: {getattr(error, 'reason', None) or error}"
            continue
        if 200 <= status < 300:
            return "", attempt
        problem = f"answered {status}"
        if 300 <= status < 500 and status not in (408, 425, 429):
            return problem, attempt  # it will say so again
    return problem, ATTEMPTS


def _key(model: str, seq: int) -> str:
    return f"webhook/{model}/{seq:06d}.json"
