"""A form's ticket: proof that it was shown by this server to this user, so that no other site can send it.

An HMAC (SHA-256, under Airflow's `[api] secret_key`) over user, purpose and time. Airflow's session cookie is
SameSite=Lax, which stops foreign forms already; the ticket holds where a browser or a proxy does not keep to
that.
"""

from __future__ import annotations

import hashlib
import hmac
import time

LASTS_SECONDS = 12 * 3600


def issue(secret: str, user: str, purpose: str, now: float | None = None) -> str:
    """A ticket for one user and one purpose, such as `rollback pydocs`."""
    at = str(int(time.time() if now is None else now))
    return f"{at}.{_sign(secret, user, purpose, at)}"


def good(secret: str, user: str, purpose: str, ticket: str, now: float | None = None) -> bool:
    """Whether a ticket was issued for this user and purpose, not too long ago."""
    at, _, signature = ticket.partition(".")
    if not at.isascii() or not at.isdigit() or not secret:
        return False
    age = (time.time() if now is None else now) - int(at)
    expected = _sign(secret, user, purpose, at)
    return -60 <= age <= LASTS_SECONDS and hmac.compare_digest(expected.encode(), signature.encode())


def _sign(secret: str, user: str, purpose: str, at: str) -> str:
    text = "\0".join(["perennial form", user, purpose, at])
    return hmac.new(secret.encode(), text.encode(), hashlib.sha256).hexdigest()
