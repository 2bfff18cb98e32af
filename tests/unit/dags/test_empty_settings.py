"""docker/compose.yaml hands on as an empty text what the shell does not name: the same as unset."""

from __future__ import annotations

import pytest
import yaml
from runtimes.process import ROOT
from shared.notify import Notice, channels, deadline

from tasks.recipe.trusted_code import trusted
from tasks.recipe.uris import allowed_prefixes, refusal
from tasks.release.webhook import receiver


def test_an_empty_setting_is_an_unset_one(monkeypatch: pytest.MonkeyPatch) -> None:
    services = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text(encoding="utf-8"))["services"]
    told = services["scheduler"]["environment"].items()
    empty = [name for name, value in told if value == f"${{{name}:-}}"]
    assert len(empty) == 5
    answers = []
    for setting in (None, ""):
        for name in empty:
            if setting is None:
                monkeypatch.delenv(name, raising=False)
            else:
                monkeypatch.setenv(name, setting)
        Notice("failure")  # reads PERENNIAL_NOTIFY
        answers.append(
            (deadline(), receiver(), allowed_prefixes(), refusal("s3://corpora/x"), trusted(), channels(""))
        )
    assert answers[0] == answers[1]
    assert answers[0] == (None, (None, ""), [], "", frozenset(), [])
