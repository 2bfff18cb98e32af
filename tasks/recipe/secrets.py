"""Secrets in text: found in recipes, where they are refused, and masked in logs, failures and MLflow.

Two ways to know one: by its shape (an AWS key, a token, a password in a URL), and by its value, where a
variable of this process's environment holds it under a name such as AWS_SECRET_ACCESS_KEY.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

MASK = "***"

SHAPES: Mapping[str, re.Pattern[str]] = {
    kind: re.compile(pattern)
    for kind, pattern in {
        "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?"
        r"(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
        "an AWS access key": r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
        "a GitHub token": r"\b(?:gh[pousr]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{30,})\b",
        "a GitLab token": r"\bglpat-[A-Za-z0-9_-]{20,}",
        "a Google key": r"\bAIza[A-Za-z0-9_-]{35}",
        "a Hugging Face token": r"\bhf_[A-Za-z0-9]{20,}\b",
        "a Slack token": r"\bxox[abeprs]-[A-Za-z0-9-]{10,}",
        "an API key": r"\bsk-(?=[A-Za-z_-]*[0-9])[A-Za-z0-9_-]{20,}",
        "a JSON web token": r"\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}",
        "an authorization": r"(?i)(?<=bearer )[A-Za-z0-9._~+/=-]{16,}"
        r"|(?<=authorization: basic )[A-Za-z0-9+/=]+",
        "a password in a URL": r"(?<=://)[^\s/@:'\"]*:[^\s/@'\"]+(?=@)|(?<=http://)[^\s/@'\"]+(?=@)"
        r"|(?<=https://)[^\s/@'\"]+(?=@)",
        "a signed URL": r"(?i)(?<=x-amz-signature=)[0-9a-f]{8,}|(?<=x-amz-security-token=)[^&\s]{8,}"
        r"|(?<=[?&]sig=)[^&\s]{8,}",
    }.items()
}
"""Kind of secret -> what it looks like; the match is the secret itself, so that what is around it stays."""

_SETTING = re.compile(
    r"""(?ix)
    (?P<name> (?: secret | passw(?:or)?d | passphrase | credentials?
                | (?:api|access|private|account|fernet) [_-]? key
                | (?:auth|access|refresh|session|security|bearer|api|id|hf|tracking|github) [_-]? token ) \w*
      ["']? \s* [=:] \s* ["']? )
    (?P<value> [^\s'",;&{}()\[\]]{4,} )
    """
)
"""A setting whose name says that its value is secret: `aws_secret_access_key = ...`, `"password": "..."`."""

_NAMED = frozenset(
    {"SECRET", "SECRETS", "TOKEN", "PASSWORD", "PASSWD", "PASSPHRASE", "KEY", "APIKEY", "CREDENTIAL", "CONN"}
)
"""Words of a variable's name that make its value a secret; CONN is a connection of Airflow, whole."""

_SHORTEST = 8
"""Characters of an environment's secret that is masked: a shorter one would black out ordinary words."""


def mask(text: str) -> str:
    """The text with every secret in it replaced by `***`."""
    for value in environment_secrets():
        text = text.replace(value, MASK)
    for shape in SHAPES.values():
        text = shape.sub(MASK, text)
    return _SETTING.sub(rf"\g<name>{MASK}", text)


def kind_of_secret(text: str) -> str:
    """What secret the text holds, in words, or "".

    A setting's name alone does not count here: a sentence about a password is no password.
    """
    for kind, shape in SHAPES.items():
        if shape.search(text):
            return kind
    if any(value in text for value in environment_secrets()):
        return "a secret of this process's environment"
    return ""


def secrets_in(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Where in a recipe's data a text holds a secret, and of what kind."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from secrets_in(inner, (*path, key))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from secrets_in(inner, (*path, number))
    elif isinstance(value, str) and (kind := kind_of_secret(value)):
        yield path, kind


def environment_secrets(environment: Mapping[str, str] | None = None) -> list[str]:
    """The values of variables whose names say that they are secret, the longest first.

    The path of a file (PERENNIAL_SIGNING_KEY) is no secret. Of a value of several lines every line is one.
    """
    given = os.environ if environment is None else environment
    found: set[str] = set()
    for name, value in given.items():
        if len(value) >= _SHORTEST and _NAMED & set(name.upper().split("_")) and not os.path.exists(value):
            found |= {line for line in value.splitlines() if len(line) >= _SHORTEST}
    return sorted(found, key=len, reverse=True)
