"""The smoke test around a promotion: before it refuses, after it says so loudly and takes nothing back."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tasks.artefacts import Store, commit, open_store
from tasks.recipe.failures import ConfigInvalid, DataInvalid
from tasks.recipe.models import Smoke
from tasks.release import promote as decisions
from tasks.release import signature, smoke
from tasks.release.cards import keep
from tasks.release.register import ReleaseRecord
from tasks.release.smoke import Answer, difference
from tasks.runner import handover, release
from tasks.runner.settings import Settings
from tasks.tracking import ledger, registry
from tasks.tracking.registry import VersionInfo
from tasks.tracking.runs import RunFacts, open_parent
from tasks.tracking.sources import source_of

ASKED = Smoke(prompt="the value of an", tokens=4)


def said(*tokens: int, margins: list[float] | None = None, tie: float = 1e-4) -> Answer:
    return Answer(tokens=list(tokens), text=str(tokens), margins=margins or [0.5] * len(tokens), tie=tie)


def test_the_same_answer_differs_by_nothing() -> None:
    assert difference(said(1, 2, 3), said(1, 2, 3)) == ""
    assert difference(said(1, 2, 3), said(1, 2, 3, margins=[0.5, 0.5009, 0.4991])) == ""


def test_the_same_words_of_other_weights_are_a_difference() -> None:
    assert "other weights" in difference(said(1, 2, 3), said(1, 2, 3, margins=[0.5, 0.5, 0.4]))


def test_another_token_or_length_is_a_difference() -> None:
    assert difference(said(1, 2, 3), said(1, 9, 3)).startswith("token 2 of the answer was 2 and is 9")
    assert difference(said(1, 2, 3), said(1, 2)).startswith("the answer had 3 tokens and has 2")


def test_a_tie_may_fall_the_other_way_and_a_lead_may_not() -> None:
    recorded = said(1, 2, 3, margins=[0.5, 1e-6, 0.5])
    assert difference(recorded, said(1, 9, 8)) == ""
    assert difference(recorded, said(9, 2, 3)) != ""
    assert difference(said(1, 2, 3, margins=[0.5, 1e-3, 0.5]), said(1, 9, 8)) != ""


@pytest.fixture
def settings(store: Store, tmp_path: Path, tracking: str) -> Settings:
    return Settings(tmp_path / "home", store.uri, tracking)


@pytest.fixture
def versions(store: Store, tmp_path: Path) -> list[VersionInfo]:
    """Three signed versions of `pydocs`, whose recipe asks for a smoke test."""
    run = open_parent(RunFacts("pydocs", "run-1", "pydocs", "file:///plan.json"))
    plan = {"release": {"smoke": ASKED.model_dump()}}
    store.write("runs/run-1/plan.json", json.dumps(plan).encode())
    made = []
    for number in "123":
        folder = tmp_path / f"model-{number}"
        folder.mkdir()
        (folder / "weights").write_text(number)
        digest = commit(store, folder, kind="model", parents=[], producer="test", meta={}).digest
        tags = {
            "perennial.candidate": digest,
            "perennial.report": f"report-{number}",
            "perennial.card": keep(store, f"# pydocs {number}"),
            "perennial.plan": f"{store.uri}/runs/run-1/plan.json",
            "perennial.run": "run-1",
        }
        version = registry.register("pydocs", source_of(store, digest), run, tags)
        signature.sign(store, version, "test")
        draft = ledger.Draft(action="register", actor="test", to_version=number, to_digest=digest)
        ledger.append(store, "pydocs", lambda lines, draft=draft: draft)  # type: ignore[misc]
        made.append(registry.version("pydocs", number))
    decisions.reconcile(store, "pydocs")
    return made


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> dict[str, Answer]:
    """What the models say, by their weights: a file of one digit stands for a model."""
    given = {number: said(int(number), 7) for number in "123"}
    monkeypatch.setattr(smoke, "answer", lambda directory, asked: given[(directory / "weights").read_text()])
    return given


def decide(settings: Settings, version: str, action: Any = "promote", **more: Any) -> str:
    named: dict[str, Any] = {"plan": None, "model": "pydocs", "version": version}
    return release.decide(action, settings, **named, by=["ada"], reason=f"{version} is good", **more).words


def record(settings: Settings, version: str) -> None:
    handover.smoke_version(settings, "pydocs", version, record=True, prompt=None, tokens=None, chat=False)


def champion() -> str | None:
    return registry.aliases("pydocs").get("champion")


@pytest.mark.usefixtures("answers")
def test_a_passing_test_lets_the_alias_move(
    settings: Settings, versions: list[VersionInfo], store: Store
) -> None:
    record(settings, "1")
    assert "smoke test: passed before and after" in decide(settings, "1")
    assert champion() == "1"
    outcome = smoke.last(store, versions[0])
    assert outcome is not None
    assert (outcome.when, outcome.passed, outcome.digest) == ("after", True, versions[0].digest)


def test_a_failing_test_before_refuses(
    settings: Settings, versions: list[VersionInfo], store: Store, answers: dict[str, Answer]
) -> None:
    record(settings, "1")
    answers["1"] = said(5, 7)
    with pytest.raises(DataInvalid, match=r"version 1 of 'pydocs' is not promoted: .* was 1 and is 5"):
        decide(settings, "1")
    assert champion() is None
    assert [line.action for line in ledger.history(store, "pydocs")] == ["register"] * 3
    passed, words = handover.smoke_version(
        settings, "pydocs", "1", record=False, prompt=None, tokens=None, chat=False
    )
    assert not passed
    assert "was 1 and is 5" in words
    record(settings, "1")  # the remedy, where the new answer is right
    decide(settings, "1")
    assert champion() == "1"


@pytest.mark.usefixtures("versions", "answers")
def test_without_the_recorded_answer_that_the_recipe_asks_for_nothing_is_promoted(settings: Settings) -> None:
    with pytest.raises(ConfigInvalid, match=r"asks for a smoke test and none was recorded; `perennial smoke"):
        decide(settings, "1")
    assert champion() is None
    record(settings, "1")  # the remedy
    decide(settings, "1")
    assert champion() == "1"


@pytest.mark.usefixtures("versions")
def test_a_failing_test_after_is_loud_and_takes_nothing_back(
    settings: Settings, answers: dict[str, Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    record(settings, "1")
    promote = decisions.promote

    def and_break(*arguments: Any, **named: Any) -> decisions.Decision:
        made = promote(*arguments, **named)
        answers["1"] = said(5, 7)
        return made

    monkeypatch.setattr(decisions, "promote", and_break)
    told: list[str] = []

    def tell(_: Store, model: str) -> list[str]:
        told.append(model)
        return []

    monkeypatch.setattr(handover, "tell", tell)
    with pytest.raises(DataInvalid) as raised:
        decide(settings, "1")
    assert "FAILED AFTER THE PROMOTION. Version 1 of 'pydocs' IS the champion" in str(raised.value)
    assert "perennial rollback pydocs" in str(raised.value)
    assert champion() == "1"
    assert told == ["pydocs"]  # who listens hears of the promotion all the same


@pytest.mark.usefixtures("versions")
def test_a_champion_that_failed_after_its_promotion_is_rolled_back(
    settings: Settings, answers: dict[str, Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    for version in "12":
        record(settings, version)
    decide(settings, "1")
    promote = decisions.promote

    def and_break(*arguments: Any, **named: Any) -> decisions.Decision:
        made = promote(*arguments, **named)
        answers["2"] = said(5, 7)
        return made

    with monkeypatch.context() as breaking:
        breaking.setattr(decisions, "promote", and_break)
        with pytest.raises(DataInvalid, match="FAILED AFTER THE PROMOTION"):
            decide(settings, "2")
    assert champion() == "2"
    words = release.roll_back(settings, "pydocs", "ada", "its smoke test failed", "")
    assert "smoke test: passed before and after" in words
    assert champion() == "1"


@pytest.mark.usefixtures("answers")
def test_where_no_model_can_be_loaded_a_recent_pass_counts(
    settings: Settings, versions: list[VersionInfo], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(settings, "1")
    monkeypatch.setattr(smoke, "can_run", lambda: False)
    smoke.write_outcome(store, versions[0], "by hand", False, "broken")
    with pytest.raises(ConfigInvalid, match="no torch here"):
        decide(settings, "1")
    smoke.write_outcome(store, versions[0], "by hand", True, "good")
    assert "was not repeated: no torch here" in decide(settings, "1")
    assert champion() == "1"
    record_of = smoke.last(store, versions[0])
    assert record_of is not None
    old = record_of.model_copy(update={"time": "2020-01-01T00:00:00+00:00"})
    assert not smoke.is_fresh(old)
    assert smoke.is_fresh(old.model_copy(update={"time": datetime.datetime.now(datetime.UTC).isoformat()}))


@pytest.mark.usefixtures("versions")
def test_where_tasks_of_their_own_run_the_test_it_is_not_run_twice(
    settings: Settings, answers: dict[str, Answer], store: Store, versions: list[VersionInfo]
) -> None:
    record(settings, "1")
    answers["1"] = said(5, 7)
    smoke.write_outcome(store, versions[0], "by hand", False, "broken")
    with pytest.raises(DataInvalid, match="smoke test failed"):  # the last one did not pass: it is run here
        decide(settings, "1", smoke_elsewhere=True)
    smoke.write_outcome(store, versions[0], "by hand", True, "good")
    assert "repeated by the task smoke_after" in decide(settings, "1", smoke_elsewhere=True)
    assert champion() == "1"
    outcome = smoke.last(store, versions[0])
    assert outcome is not None
    assert outcome.when == "by hand"


@pytest.mark.usefixtures("versions")
def test_a_rollback_is_tested_too_and_needs_no_torch(
    settings: Settings, answers: dict[str, Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    for version in ("1", "2"):
        record(settings, version)
        decide(settings, version)
    good, answers["1"] = answers["1"], said(5, 7)
    with pytest.raises(DataInvalid, match="smoke test failed"):
        release.roll_back(settings, "pydocs", "ada", "worse", "")
    assert champion() == "2"
    answers["1"] = good
    monkeypatch.setattr(smoke, "can_run", lambda: False)
    assert "rolled back from version 2 to 1" in release.roll_back(settings, "pydocs", "ada", "worse", "")
    assert champion() == "1"


@pytest.mark.usefixtures("versions")
def test_what_was_tested_is_what_is_promoted(
    settings: Settings, answers: dict[str, Answer], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version in "123":
        record(settings, version)
    decide(settings, "1")
    answer, tested = smoke.answer, []

    def and_register(directory: Path, asked: Smoke) -> Answer:
        """Another run registers its candidate while the model answers."""
        tested.append((directory / "weights").read_text())
        if len(tested) == 1:
            draft = ledger.Draft(action="register", actor="test", to_version="2", to_digest="d")
            ledger.append(store, "pydocs", lambda lines: draft)
            decisions.reconcile(store, "pydocs")
        return answer(directory, asked)

    monkeypatch.setattr(smoke, "answer", and_register)
    decide(settings, "candidate")
    assert (champion(), tested) == ("3", ["3", "3"])


@pytest.mark.usefixtures("versions", "answers")
def test_a_rollback_tests_what_the_ledger_says_comes_back(
    settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version in "12":
        record(settings, version)
        decide(settings, version)
    record(settings, "3")
    registry.set_alias("pydocs", "previous", "3")  # by hand, or a process that was killed
    answer, tested = smoke.answer, []

    def and_tell(directory: Path, asked: Smoke) -> Answer:
        tested.append((directory / "weights").read_text())
        return answer(directory, asked)

    monkeypatch.setattr(smoke, "answer", and_tell)
    for _ in "ab":  # the second call is a retry, whose previous version is the one that was taken back
        words = release.roll_back(settings, "pydocs", "ada", "worse", "run-1")
    assert "already on record" in words
    assert champion() == "1"
    assert set(tested) == {"1"}


@pytest.mark.usefixtures("answers")
def test_a_record_counts_for_its_own_artefact_only(
    settings: Settings, versions: list[VersionInfo], store: Store
) -> None:
    record(settings, "1")
    store.write("smoke/pydocs/2/record.json", store.read("smoke/pydocs/1/record.json"))
    with pytest.raises(DataInvalid, match="somebody changed one of the two"):
        decide(settings, "2")
    store.write("smoke/pydocs/3/record.json", b"{}")
    with pytest.raises(DataInvalid, match="no record of a smoke test"):
        decide(settings, "3")
    assert smoke.read_record(store, versions[0]) is not None


@pytest.mark.usefixtures("answers")
def test_the_exports_that_a_recipe_asks_for_are_made_after_the_promotion(
    settings: Settings,
    versions: list[VersionInfo],
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan = {"release": {"export": ["huggingface", "gguf"]}}
    store.write("runs/run-1/plan.json", json.dumps(plan).encode())
    signature.sign(store, versions[0], "test")
    monkeypatch.setenv("PERENNIAL_EXPORTS", str(tmp_path / "exports"))
    monkeypatch.setenv("PATH", "")
    made: list[str] = []

    def export_version(*arguments: Any) -> str:
        made.append(arguments[3])
        if arguments[3] == "gguf":
            raise ConfigInvalid("no converter")
        return f"exported to {arguments[4]}"

    monkeypatch.setattr(handover, "export_version", export_version)
    said = decide(settings, "1")
    assert champion() == "1"
    assert f"exported to {tmp_path}/exports/pydocs/1/huggingface" in said
    assert "WARNING: no export to gguf: no converter" in said
    assert made == ["huggingface", "gguf"]


@pytest.mark.usefixtures("versions", "answers")
def test_options_of_the_command_that_mean_nothing_are_refused(settings: Settings) -> None:
    def ask(**given: Any) -> None:
        named = {"record": False, "prompt": None, "tokens": None, "chat": False, **given}
        handover.smoke_version(settings, "pydocs", "1", **named)

    for given in ({"prompt": "x"}, {"record": True, "tokens": 3}, {"record": True, "prompt": ""}):
        with pytest.raises(ConfigInvalid, match="--prompt"):
            ask(**given)
    with pytest.raises(ConfigInvalid, match="has no recorded smoke test"):
        ask()


def test_a_real_model_answers_alike_each_time_and_other_weights_do_not(
    tiny_model_dir: Path, tiny_model_like: Any
) -> None:
    first = smoke.answer(tiny_model_dir, ASKED)
    assert len(first.tokens) == 4
    assert difference(first, smoke.answer(tiny_model_dir, ASKED)) == ""
    assert all(margin >= 0 for margin in first.margins)
    assert difference(first, smoke.answer(tiny_model_like(seed=5), ASKED)) != ""
    chat = smoke.answer(tiny_model_dir, ASKED.model_copy(update={"chat": True}))
    assert chat.tokens != first.tokens


@pytest.fixture
def plan(store: Store, versions: list[VersionInfo]) -> str:
    """The plan of the run that registered version 3."""
    said = {"outcome": "registered", "run": "run-1", "model": "pydocs", "version": versions[2].version}
    more = {"semantic_version": "", "version_reason": "", "candidate": versions[2].digest, "report": "r"}
    record = ReleaseRecord.model_validate(
        said | more | {"champion": None, "approval": "human", "summary": "a summary"}
    )
    store.write("runs/run-1/release.json", record.model_dump_json().encode())
    store.write("runs/run-1/summary.md", b"a summary")
    return f"{store.uri}/runs/run-1/plan.json"


@pytest.mark.usefixtures("versions")
def test_what_airflow_runs_in_a_steps_image(
    settings: Settings, answers: dict[str, Answer], plan: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Registered and promoted without torch; recorded and tested by a task elsewhere, in between."""
    frozen = SimpleNamespace(run="run-1", model="pydocs")
    monkeypatch.setattr(release, "read_plan", lambda uri: (frozen, open_store(settings.store)))

    def task(**more: Any) -> tuple[bool, str]:
        return release.smoke_test(settings, plan, None, None, record="if_missing" in more, **more)

    with monkeypatch.context() as orchestrator:
        orchestrator.setattr(smoke, "can_run", lambda: False)
        with pytest.raises(ConfigInvalid, match="none was recorded"):
            decide(settings, "3")
    passed, words = task(if_missing=True)
    assert (passed, words.split(" recorded: ")[0]) == (True, "smoke test of version 3 of 'pydocs'")
    answers["3"] = said(9, 9)  # a second call, after a library changed, leaves the record as it is
    assert task(if_missing=True) == (True, "the smoke test of version 3 of 'pydocs' is recorded already")
    assert task()[0] is False
    answers["3"] = said(3, 7)
    assert task()[0] is True
    monkeypatch.setattr(smoke, "can_run", lambda: False)
    decide(settings, "3")
    assert champion() == "3"


@pytest.mark.usefixtures("versions")
def test_what_airflow_runs_after_the_promotion(settings: Settings, answers: dict[str, Answer]) -> None:
    for version in "12":
        record(settings, version)
    decide(settings, "1")

    def after(version: str) -> tuple[bool, str]:
        return handover.smoke_version(settings, "pydocs", version, record=False, after=True)

    assert after("1") == (True, "version 1 of 'pydocs' passed its smoke test after its promotion")
    answers["1"] = said(5, 7)
    passed, words = after("1")
    assert not passed
    assert "FAILED AFTER THE PROMOTION. Version 1 of 'pydocs' IS the champion" in words
    assert "take it back with `perennial rollback pydocs" in words
    assert champion() == "1"
    outcome = smoke.last(open_store(settings.store), registry.version("pydocs", "1"))
    assert outcome is not None
    assert (outcome.when, outcome.passed) == ("after", False)
    decide(settings, "2")  # another one meanwhile: there is nothing to take back
    assert after("1") == (True, "version 1 of 'pydocs' is not the champion any more: not tested")
    with pytest.raises(ConfigInvalid, match="leave --record out"):
        handover.smoke_version(settings, "pydocs", "2", record=True, after=True)


@pytest.mark.usefixtures("answers", "plan")
def test_the_summary_says_whether_a_version_has_a_smoke_test(settings: Settings, store: Store) -> None:
    assert release.summary_of(settings, None, "pydocs", "3")["smoke"] is True  # its recipe asks for one
    store.write("runs/run-1/plan.json", b'{"release": {}}')
    assert release.summary_of(settings, None, "pydocs", "3")["smoke"] is False
    handover.smoke_version(settings, "pydocs", "3", record=True, prompt="by hand")
    assert release.summary_of(settings, None, "pydocs", "3")["smoke"] is True


def test_a_smoke_test_is_of_a_run_or_of_a_version(settings: Settings, plan: str) -> None:
    with pytest.raises(ConfigInvalid, match="not both"):
        release.smoke_test(settings, plan, "pydocs", "1", record=False)
    with pytest.raises(ConfigInvalid, match="--plan URI, or MODEL VERSION"):
        release.smoke_test(settings, None, "pydocs", None, record=False)
    with pytest.raises(ConfigInvalid, match="add --record"):
        release.smoke_test(settings, None, "pydocs", "1", record=False, if_missing=True)
