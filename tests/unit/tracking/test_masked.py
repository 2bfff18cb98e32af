"""Secrets do not get into MLflow: not as a parameter, not as a tag, not in a failure's message."""

from __future__ import annotations

import pytest

from tasks.tracking.runs import RunFacts, StepFacts, open_parent, open_step, set_tags
from tasks.tracking.server import call

TOKEN = "hf_" + "aB3d" * 8
PASSWORD = "correct horse battery"


def test_params_and_tags_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", PASSWORD)
    plan = "s3://ada:hunter22@bucket/plan.json"
    parent = open_parent(RunFacts("pydocs", "run-1", "pydocs", plan, reason=f"with {TOKEN}"))
    options = {"lr": 1e-4, "note": f"uses {PASSWORD}", "deep": {"url": "https://me:pw1234@host/x"}}
    step = open_step(parent, StepFacts("base", "pretrain", "scratch", "f" * 64, options))
    set_tags(step, {"perennial.message": f"cannot read with {TOKEN}"})
    again = open_step(parent, StepFacts("base", "pretrain", "scratch", "f" * 64, options | {"note": TOKEN}))
    assert again == step
    held = [call("read", lambda client, run=run: client.get_run(run)) for run in (parent, step)]  # type: ignore[misc]
    text = "\n".join(str({**run.data.params, **run.data.tags}) for run in held)
    for secret in (TOKEN, PASSWORD, "hunter22", "pw1234"):
        assert secret not in text
    assert held[1].data.params == {"lr": "0.0001", "note": "uses ***", "deep.url": "https://***@host/x"}
    assert held[1].data.tags["perennial.message"] == "cannot read with ***"
    assert held[0].data.tags["perennial.plan"] == "s3://***@bucket/plan.json"
