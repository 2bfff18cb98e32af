from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest

from tasks.recipe.failures import ConfigInvalid, DataInvalid, GatesFailed, Infrastructure, PerennialError
from tasks.recipe.fingerprints import canonical
from tasks.release import signature
from tasks.release.cards import read_card
from tasks.release.promote import promote, reject, rollback
from tasks.release.register import ReleaseRecord
from tasks.tracking import ledger, registry
from tasks.tracking.server import call

MakeRun = Callable[..., Any]


def logged(run: Any) -> list[str]:
    def act(client: Any) -> list[str]:
        parent = registry.versions("pydocs")[0].run_id
        return [each.path for each in client.list_artifacts(parent, "release")]

    return call("list", act)


def test_first_release_waits_as_candidate(make_run: MakeRun) -> None:
    run = make_run()
    record = run.register()
    assert (record.outcome, record.version, record.semantic_version) == ("registered", "1", "1.0.0")
    assert registry.aliases("pydocs") == {"candidate": "1"}
    info = registry.version("pydocs", "candidate")
    assert info.digest == run.candidate
    assert info.tags["perennial.data.news"] == run.plan["data"]["news"]["digest"]
    assert info.tags["perennial.step.tuned"] == run.records["tuned"]["outputs"]["model"]["digest"]
    assert info.tags["perennial.step.base"] == run.records["base"]["outputs"]["model"]["digest"]
    assert info.tags["perennial.step.base.log"] == run.records["base"]["outputs"]["log"]["digest"]
    assert info.tags["perennial.report"] == run.records["report"]["outputs"]["report"]["digest"]
    assert info.tags["perennial.recipe_digest"] == "9" * 64
    assert info.tags["perennial.intent"] == "i1"
    assert info.tags["perennial.plan"] == f"{run.store.uri}/runs/run-1/plan.json"
    assert info.tags["perennial.license"] == "Apache-2.0"
    (line,) = ledger.history(run.store, "pydocs")
    assert (line.action, line.to_version, line.run) == ("register", "1", "run-1")


def test_documents_are_in_the_store_and_in_mlflow(make_run: MakeRun) -> None:
    run = make_run()
    record = run.register()
    kept = ReleaseRecord.model_validate_json(run.store.read("runs/run-1/release.json"))
    assert kept == record
    assert run.store.read("runs/run-1/summary.md").decode() == record.summary
    page = run.store.read("runs/run-1/report.html").decode()
    assert "<b>merged</b>: options.weight changed: 0.5 -&gt; 0.3 &lt;b&gt;" in page
    assert "<!-- changes -->" not in page
    assert logged(run) == [
        f"release/{name}"
        for name in (
            "gates.json",
            "model-card.md",
            "release.json",
            "report.html",
            "report.json",
            "summary.md",
        )
    ]


def test_registering_again_changes_nothing(make_run: MakeRun) -> None:
    run = make_run()
    assert run.register() == run.register()
    assert len(registry.versions("pydocs")) == 1
    assert len(ledger.history(run.store, "pydocs")) == 1


def test_an_attempt_cut_short_before_the_ledger_is_completed(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run()
    with monkeypatch.context() as cut:
        cut.setattr(ledger, "append", lambda *_: (_ for _ in ()).throw(Infrastructure("store away")))
        with pytest.raises(Infrastructure):
            run.register()
    assert registry.aliases("pydocs") == {}
    assert run.register().version == "1"
    assert registry.aliases("pydocs") == {"candidate": "1"}
    assert len(registry.versions("pydocs")) == 1


def test_failed_gates_refuse_and_register_nothing(make_run: MakeRun) -> None:
    run = make_run(relative=-0.1)
    with pytest.raises(GatesFailed, match=r"learned-the-news: FAILED: news.bits_per_byte is -10.0%"):
        run.register()
    assert registry.models() == []
    assert ledger.history(run.store, "pydocs") == []
    kept = json.loads(run.store.read("runs/run-1/release.json"))
    assert (kept["outcome"], kept["version"]) == ("refused", None)
    assert kept["gates"][0]["passed"] is False


def test_a_warning_does_not_refuse(make_run: MakeRun) -> None:
    soft = make_run().plan["release"]["gates"][0] | {"severity": "warn"}
    record = make_run(relative=-0.1, gates=[soft]).register()
    assert record.outcome == "registered"
    assert "warns" in record.summary


def test_the_champion_again_is_no_change(make_run: MakeRun) -> None:
    run = make_run()
    run.register()
    promote(run.store, "pydocs", "candidate", "ada", "good")
    same_evidence = make_run("run-2", intent="i2").register()
    assert (same_evidence.outcome, same_evidence.version) == ("no_change", "1")
    same_intent = make_run("run-3", champion=0.0).register()
    assert same_intent.outcome == "no_change"
    assert len(registry.versions("pydocs")) == 1
    assert registry.aliases("pydocs") == {"champion": "1"}


def test_a_retry_after_the_promotion_is_no_change(make_run: MakeRun) -> None:
    run = make_run()
    run.register()
    promote(run.store, "pydocs", "1", "ada", "good")
    assert run.register().outcome == "no_change"
    assert registry.aliases("pydocs") == {"champion": "1"}


@pytest.mark.parametrize(
    ("change", "semantic"),
    [
        ({"weights": "b"}, "1.1.0"),
        ({"merge": "n"}, "1.0.1"),
        ({"champion": 0.0, "intent": "i2"}, "1.0.1"),
    ],
)
def test_the_next_version_says_what_changed(make_run: MakeRun, change: dict[str, Any], semantic: str) -> None:
    first = make_run()
    first.register()
    promote(first.store, "pydocs", "1", "ada", "good")
    record = make_run("run-2", **change).register()
    assert (record.version, record.semantic_version, record.champion) == ("2", semantic, "1")
    assert registry.aliases("pydocs") == {"candidate": "2", "champion": "1"}
    assert record.version_reason in record.summary


def test_another_card_alone_is_a_patch(make_run: MakeRun) -> None:
    first = make_run()
    first.register()
    promote(first.store, "pydocs", "1", "ada", "good")
    second = make_run("run-2")
    second.plan["effective"]["license"] = "MIT"
    record = second.register()
    assert (record.outcome, record.version, record.semantic_version) == ("registered", "2", "1.0.1")
    assert record.version_reason == "the same model with other evidence or another card"
    assert "license: MIT" in read_card(first.store, registry.version("pydocs", "2"))
    assert "license: Apache-2.0" in read_card(first.store, registry.version("pydocs", "1"))


def test_two_runs_at_once_never_share_a_number(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other run registers between the derivation of the number and the registration under it."""
    first = make_run()
    first.register()
    promote(first.store, "pydocs", "1", "ada", "good")
    between, register = [make_run("run-2", weights="b")], registry.register

    def late(*given: Any, **named: Any) -> Any:
        if between:
            assert between.pop().register().semantic_version == "1.1.0"
        return register(*given, **named)

    monkeypatch.setattr(registry, "register", late)
    record = make_run("run-3", weights="c").register()
    assert (record.version, record.semantic_version) == ("3", "1.2.0")
    version = registry.version("pydocs", "3")
    assert version.description.startswith("pydocs 1.2.0: ")
    assert "# pydocs 1.2.0" in read_card(first.store, version)
    signature.verify(first.store, version)


def test_the_tags_lead_to_what_it_was_made_from(make_run: MakeRun) -> None:
    run = make_run()
    for number, record in enumerate(run.records.values()):
        record["device_seconds"] = 900.0 * (number + 1)
    run.records["tuned"]["image"] = "registry/trainer@sha256:1"
    run.plan["bindings"] = {"champion": {"digest": "d" * 64, "kind": "model"}}
    run.records["base"]["inputs"]["model"] = ["e" * 64]
    run.plan |= {"currency": "EUR", "rates": {"cpu": {"price": 2.0, "watts": 100.0}}}
    run.register()
    tags = registry.version("pydocs", "1").tags
    made = {
        name: record["outputs"]["model"]["digest"] for name, record in run.records.items() if name != "report"
    }
    assert json.loads(tags["perennial.parents"]) == sorted([made["tuned"], made["base"]])
    assert json.loads(tags["perennial.base"]) == ["e" * 64]
    assert tags["perennial.image"] == "registry/trainer@sha256:1"
    assert tags["perennial.code"] == hashlib.sha256(canonical(run.plan["code"])).hexdigest()
    assert json.loads(tags["perennial.gates"]) == {"learned-the-news": "passed"}
    assert (tags["perennial.device_hours"], tags["perennial.cost"]) == ("2.5", "5 EUR")
    assert "perennial.approvals" not in tags


def test_rejected_candidates_keep_their_numbers(make_run: MakeRun) -> None:
    first = make_run()
    first.register()
    promote(first.store, "pydocs", "1", "ada", "good")
    make_run("run-2", weights="b").register()
    reject(first.store, "pydocs", "candidate", "ada", "not better")
    assert make_run("run-3", weights="c").register().semantic_version == "1.2.0"


def test_what_a_person_rejected_is_not_asked_again(make_run: MakeRun) -> None:
    run = make_run()
    run.register()
    reject(run.store, "pydocs", "candidate", "ada", "too chatty")
    again = make_run("run-2").register()
    assert (again.outcome, again.version) == ("no_change", "1")
    assert "ada rejected it on" in again.summary
    assert "too chatty" in again.summary
    assert "perennial promote --model pydocs --version 1" in again.summary
    assert registry.aliases("pydocs") == {}
    assert len(registry.versions("pydocs")) == 1
    other_evidence = make_run("run-3", champion=0.0).register()
    assert (other_evidence.outcome, other_evidence.version) == ("registered", "2")


def test_a_question_that_ran_out_of_time_is_asked_again(make_run: MakeRun) -> None:
    run = make_run()
    first = run.register()
    reject(run.store, "pydocs", "candidate", "nobody", "nobody answered in time")
    again = make_run("run-2").register()
    assert (again.outcome, again.version) == ("registered", "1")
    assert again.semantic_version == first.semantic_version
    assert registry.aliases("pydocs") == {"candidate": "1"}
    assert [line.action for line in ledger.history(run.store, "pydocs")] == ["register", "reject", "register"]


@pytest.mark.parametrize(("approval", "outcome"), [("none", "no_change"), ("human", "registered")])
def test_the_gates_alone_do_not_undo_a_rollback(make_run: MakeRun, approval: str, outcome: str) -> None:
    first = make_run()
    first.register()
    promote(first.store, "pydocs", "candidate", "ada", "good")
    make_run("run-2", weights="b").register()
    promote(first.store, "pydocs", "candidate", "policy", "all gates passed")
    rollback(first.store, "pydocs", "ada", "it stutters")
    same = make_run("run-3", weights="b")
    same.plan["release"]["approval"] = approval
    assert same.register().outcome == "no_change"
    other_evidence = make_run("run-4", weights="b", champion=0.0)
    other_evidence.plan["release"]["approval"] = approval
    assert other_evidence.register().outcome == outcome


def test_a_damaged_candidate_is_refused(make_run: MakeRun) -> None:
    run = make_run()
    run.store.delete(f"artefacts/{run.candidate}/files/weights")
    with pytest.raises(DataInvalid, match="object missing: weights"):
        run.register()
    assert registry.models() == []


def test_what_is_not_there_is_told(make_run: MakeRun) -> None:
    run = make_run()
    del run.records["report"]
    with pytest.raises(Infrastructure, match="step 'report' has no record"):
        run.register()
    run = make_run()
    run.plan["release"]["candidate"] = "base.log"
    with pytest.raises(ConfigInvalid, match="is no model"):
        run.register()


def test_a_page_without_the_mark_is_a_bug(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.release.verdict.MARKS", ("<!-- another mark -->", "", "", ""))
    with pytest.raises(PerennialError, match="another mark"):
        make_run().register()


def test_a_champion_registered_by_other_means_does_not_block(make_run: MakeRun) -> None:
    def act(client: Any) -> None:
        client.create_registered_model("pydocs")
        client.create_model_version("pydocs", "s3://elsewhere/model")
        client.set_registered_model_alias("pydocs", "champion", "1")

    call("set up", act)
    record = make_run().register()
    assert (record.version, record.semantic_version, record.champion) == ("2", "1.0.0", "1")
    assert registry.aliases("pydocs") == {"candidate": "2", "champion": "1"}
