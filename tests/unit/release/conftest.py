"""MLflow on a SQLite file of its own for each test, copied from one that is migrated once a session."""

from __future__ import annotations

import json
import sqlite3
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tasks.artefacts import Store, commit, open_store
from tasks.recipe.fingerprints import canonical
from tasks.release import signature
from tasks.release.cards import keep
from tasks.release.promote import reconcile
from tasks.release.register import ReleaseRecord, register
from tasks.release.verdict import MARKS
from tasks.tracking import ledger, registry
from tasks.tracking.runs import RunFacts, open_parent
from tasks.tracking.server import call
from tasks.tracking.sources import source_of


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.getbasetemp() / "mlflow-template.db"
    if not path.exists():
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}")
            call("migrate", lambda client: client.search_experiments())
    return path


@pytest.fixture(autouse=True)
def tracking(migrated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    # One database is emptied for each test: MLflow looks at the schema of each new one for half a second.
    used = migrated.with_name("mlflow.db")
    with closing(sqlite3.connect(migrated)) as empty, closing(sqlite3.connect(used)) as database:
        empty.backup(database)
    uri = f"sqlite:///{used}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("PERENNIAL_HOME", str(tmp_path / "home"))
    return uri


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(f"file://{tmp_path}/store")


META = {
    "tokenizer": "1" * 64,
    "architecture": "LlamaForCausalLM",
    "vocab_size": 4096,
    "hidden": 192,
    "layers": 4,
    "parameters": 2_600_000,
}
GATE = {
    "gate": "learned-the-news",
    "measure": "news.bits_per_byte",
    "against": "baseline",
    "change": "relative",
    "at_most": -0.15,
    "severity": "stop",
    "reason": "A model that did not learn the new text is not worth releasing.",
}


def report_of(relative: float = -0.2, champion: float | None = None) -> dict[str, Any]:
    """A report of one set; `relative` and `champion` are the changes against the base and the champion."""

    def delta(change: float | None) -> dict[str, float] | None:
        if change is None:
            return None
        low, high = change - 0.05, change + 0.05
        return {
            "difference": 2 * change,
            "low": 2 * low,
            "high": 2 * high,
            "relative": change,
            "relative_low": low,
            "relative_high": high,
        }

    def value(held: float | None) -> dict[str, float] | None:
        return None if held is None else {"value": held, "low": held - 0.1, "high": held + 0.1}

    return {
        "models": {"model": {"digest": "m"}, "baseline": {"digest": "b"}, "champion": None},
        "sets": [
            {
                "name": "news",
                "measure": "bits_per_byte",
                "unit": "bits/byte",
                "better": "lower",
                "items": 42,
                "values": {
                    "model": value(2.0),
                    "baseline": value(2.0 / (1 + relative)),
                    "champion": None if champion is None else value(2.0 / (1 + champion)),
                },
                "against": {"baseline": delta(relative), "champion": delta(champion)},
            }
        ],
    }


@dataclass
class Run:
    """A finished run as the runner leaves it: plan, step records, artefacts in the store."""

    store: Store
    plan: dict[str, Any]
    records: dict[str, dict[str, Any]]
    cache: Path

    def register(self, **named: Any) -> ReleaseRecord:
        self.store.write(f"runs/{self.plan['run']}/plan.json", canonical(self.plan))
        for name, record in self.records.items():
            self.store.write(f"runs/{self.plan['run']}/steps/{name}.json", json.dumps(record).encode())
        parent = open_parent(RunFacts(self.plan["model"], self.plan["run"], "pydocs", "file:///plan.json"))
        uri = f"{self.store.uri}/runs/{self.plan['run']}/plan.json"
        return register(
            self.store, self.plan, self.records, plan_uri=uri, parent=parent, cache=self.cache, **named
        )

    @property
    def candidate(self) -> str:
        return str(self.records["merged"]["outputs"]["model"]["digest"])


@pytest.fixture
def make_report() -> Callable[..., dict[str, Any]]:
    """The maker of report.json: relative=-0.2, champion=None."""
    return report_of


@pytest.fixture
def make_run(store: Store, tmp_path: Path) -> Callable[..., Run]:
    """The maker of finished runs: `weights`, `merge` are what the models hold, `figures` the report."""

    def artefact(kind: str, files: dict[str, str]) -> str:
        folder = Path(tempfile.mkdtemp(dir=tmp_path))
        for name, text in files.items():
            (folder / name).write_text(text)
        return commit(store, folder, kind=kind, parents=[], producer="test", meta={}).digest

    def record(
        step: str, stage: str, method: str, inputs: dict[str, list[str]], **more: Any
    ) -> dict[str, Any]:
        return {
            "fingerprint": "f" * 64,
            "step": step,
            "stage": stage,
            "method": method,
            "inputs": inputs,
            "options": {"lr": 1e-4},
            "figure": f"{step} done",
            "reasons": [f"inputs.{next(iter(inputs))} changed"],
            "run": "ignored",
            **more,
        }

    def make(
        run: str = "run-1",
        *,
        weights: str = "a",
        merge: str = "m",
        intent: str = "i1",
        gates: Sequence[Mapping[str, Any]] = (GATE,),
        meta: Mapping[str, Any] = META,
        **figures: float,
    ) -> Run:
        news = artefact("documents", {"rows.jsonl": "{}"})
        base = artefact("model", {"weights": "base"})
        tuned = artefact("model", {"weights": weights})
        merged = artefact("model", {"weights": weights + merge})
        log = artefact("training_log", {"training.jsonl": "{}"})
        page = {
            "report.json": json.dumps(report_of(**figures)),
            "report.html": f"<html>{''.join(MARKS)}</html>",
        }
        report = artefact("report", page)
        model = {"kind": "model", "meta": dict(meta)}
        records = {
            "base": record(
                "base",
                "pretrain",
                "scratch",
                {"documents": [news]},
                outputs={"log": {"digest": log, "kind": "training_log"}, "model": {**model, "digest": base}},
                cached=True,
                reasons=["nothing changed"],
            ),
            "tuned": record(
                "tuned", "sft", "sft", {"model": [base]}, outputs={"model": {**model, "digest": tuned}}
            ),
            "merged": record(
                "merged",
                "merge",
                "slerp",
                {"models": [tuned, base]},
                outputs={"model": {**model, "digest": merged}},
                reasons=["options.weight changed: 0.5 -> 0.3 <b>"],
            ),
            "report": record(
                "report",
                "evaluate",
                "compare",
                {"model": [merged]},
                outputs={"report": {"digest": report, "kind": "report"}},
            ),
        }
        plan = {
            "run": run,
            "recipe": "pydocs",
            "model": "pydocs",
            "intent": intent,
            "recipe_digest": "9" * 64,
            "description": "Keeps a small model current.",
            "effective": {
                "description": "Keeps a small model current.",
                "owner": "ada",
                "license": "Apache-2.0",
                "intended_use": "Answers about the news.",
                "data": {"news": {"uri": "s3://news", "license": "CC-BY-4.0"}},
            },
            "created": "2026-11-22T01:00:00+00:00",
            "code": {"merged": {"tasks/merge": "c" * 64}},
            "steps": [{"name": name, "resources": "cpu"} for name in records],
            "data": {"news": {"digest": news, "kind": "documents", "meta": {"rows": 1, "uri": "s3://news"}}},
            "uris": {},
            "bindings": {},
            "release": {"candidate": "merged", "report": "report", "approval": "human", "gates": list(gates)},
        }
        return Run(store, plan, records, tmp_path / "cache")

    return make


@pytest.fixture
def three(store: Store, tmp_path: Path) -> Store:
    """A store with three models, each registered as a version of `pydocs`."""
    run = open_parent(RunFacts("pydocs", "run-1", "pydocs", "file:///plan.json"))
    for number in "123":
        folder = tmp_path / f"model-{number}"
        folder.mkdir()
        (folder / "weights").write_text(number)
        digest = commit(store, folder, kind="model", parents=[], producer="test", meta={}).digest
        tags = {
            "perennial.candidate": digest,
            "perennial.report": f"report-{number}",
            "perennial.card": keep(store, f"# pydocs {number}"),
        }
        signature.sign(store, registry.register("pydocs", source_of(store, digest), run, tags), "test")
        draft = ledger.Draft(action="register", actor="test", to_version=number, to_digest=digest)
        ledger.append(store, "pydocs", lambda lines, draft=draft: draft)  # type: ignore[misc]
    reconcile(store, "pydocs")
    return store
