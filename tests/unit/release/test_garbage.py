"""Retention by policy: old runs keep what their versions need, and what an alias is on keeps all."""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.artefacts import Store, commit, load_manifest, problems
from tasks.release.audit import audit
from tasks.release.promote import promote
from tasks.runner.garbage import collect
from tasks.runner.settings import settings

DAY = datetime.timedelta(days=1)


@pytest.fixture
def shards(make_run: Callable[..., Any], store: Store, tmp_path: Path) -> list[str]:
    """Three runs, a version each, the second one champion; the token shards that each one made on its way."""
    made = []
    for number in "123":
        folder = tmp_path / f"shards-{number}"
        folder.mkdir()
        (folder / "tokens").write_text(number)
        made.append(commit(store, folder, kind="tokens", parents=[], producer="test", meta={}).digest)
        run = make_run(f"run-{number}", weights=number)
        run.records["tuned"]["outputs"]["shards"] = {"digest": made[-1], "kind": "tokens"}
        run.register()
    promote(store, "pydocs", "1", "ada", "good")
    promote(store, "pydocs", "2", "ada", "better", over="1")
    promote(store, "pydocs", "3", "ada", "best", over="2")
    return made


def old(store: Store, *runs: str) -> None:
    """Make it 40 days since anything was written, but for the runs that are not named."""
    root = Path(store.uri.removeprefix("file://"))
    long_ago = datetime.datetime.now().timestamp() - 40 * 86400
    for folder in ("artefacts", *(f"runs/{run}" for run in runs)):
        for path in (root / folder).rglob("*"):
            os.utime(path, (long_ago, long_ago), follow_symlinks=False)


def gone(store: Store, digests: list[str]) -> list[bool]:
    return [bool(problems(store, digest)) for digest in digests]


def test_without_a_policy_every_run_keeps_all(
    store: Store, shards: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERENNIAL_STORE", store.uri)
    old(store, "run-1", "run-2", "run-3")
    collect(settings(), older_than=DAY, runs_older_than=None, apply=True)
    assert gone(store, shards) == [False, False, False]


def test_old_runs_keep_what_their_versions_need(
    store: Store, shards: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PERENNIAL_STORE", store.uri)
    old(store, "run-1", "run-2", "run-3")
    policy: dict[str, Any] = {"older_than": DAY, "runs_older_than": 30 * DAY}
    collect(settings(), **policy, apply=False)
    said = capsys.readouterr().out
    assert f"artefacts/{shards[0]}/  only old runs name it, and their steps would make it again" in said
    assert gone(store, shards) == [False, False, False]
    collect(settings(), **policy, apply=True)
    assert gone(store, shards) == [True, False, False]  # 2 is `previous`, 3 is `champion`
    assert audit(store, "pydocs").findings == []


def test_a_run_that_is_not_old_keeps_all(
    store: Store, shards: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERENNIAL_STORE", store.uri)
    old(store)
    collect(settings(), older_than=DAY, runs_older_than=30 * DAY, apply=True)
    assert gone(store, shards) == [False, False, False]
    assert load_manifest(store, shards[0]).kind == "tokens"
