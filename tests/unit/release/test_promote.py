from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

from tasks import cli
from tasks.artefacts import Store
from tasks.recipe.failures import ConfigInvalid, DataInvalid, Infrastructure
from tasks.release import signature
from tasks.release.aliases import decided_against, reconcile
from tasks.release.audit import ledger_problems
from tasks.release.checks import PROMOTION
from tasks.release.delete import delete
from tasks.release.promote import approvals, promote, reject, rollback
from tasks.tracking import ledger, registry
from tasks.tracking.server import call


def actions(store: Any) -> list[str]:
    return [f"{line.action} {line.to_version}" for line in ledger.history(store, "pydocs")[3:]]


def test_champion_and_previous_move_together(three: Any) -> None:
    first = promote(three, "pydocs", "1", "ada", "the first", run="run-1")
    assert (first.champion, first.previous, first.repeated) == ("1", None, False)
    second = promote(three, "pydocs", "candidate", "ben", "better")
    assert (second.champion, second.previous) == ("3", "1")
    assert registry.aliases("pydocs") == {"champion": "3", "previous": "1"}
    line = ledger.history(three, "pydocs")[-1]
    assert (line.actor, line.reason, line.from_version, line.to_version) == ("ben", "better", "1", "3")
    assert line.to_digest == registry.version("pydocs", "3").digest
    assert line.evidence == registry.version("pydocs", "3").tags["perennial.report"]
    assert registry.version("pydocs", "3").tags["perennial.ledger"] == line.hash
    assert ledger_problems(three, "pydocs") == []


def test_a_retry_changes_nothing(three: Any) -> None:
    promote(three, "pydocs", "candidate", "ada", "good")
    again = promote(three, "pydocs", "candidate", "ada", "good")
    assert again.repeated
    assert promote(three, "pydocs", "3", "ada", "good").repeated
    assert actions(three) == ["promote 3"]


def test_the_champion_cannot_be_promoted_by_another_decision(three: Any) -> None:
    promote(three, "pydocs", "1", "ada", "good")
    with pytest.raises(ConfigInvalid, match=r"champion already since .* \(by ada: good\)"):
        promote(three, "pydocs", "1", "ben", "good")
    assert actions(three) == ["promote 1"]


def test_rollback_and_back_again(three: Any) -> None:
    promote(three, "pydocs", "1", "ada", "good")
    promote(three, "pydocs", "2", "ada", "better")
    done = rollback(three, "pydocs", "ben", "users complain", run="r")
    assert (done.champion, done.previous) == ("1", "2")
    assert registry.aliases("pydocs") == {"champion": "1", "previous": "2", "candidate": "3"}
    assert rollback(three, "pydocs", "ben", "users complain", run="r").repeated
    rollback(three, "pydocs", "ben", "they were wrong")
    assert registry.aliases("pydocs")["champion"] == "2"
    promote(three, "pydocs", "3", "ada", "best")
    assert actions(three) == ["promote 1", "promote 2", "rollback 1", "rollback 2", "promote 3"]


def test_a_second_rollback_of_the_same_version_is_refused(three: Any) -> None:
    promote(three, "pydocs", "2", "ada", "good")
    promote(three, "pydocs", "3", "ada", "better")
    rollback(three, "pydocs", "ada", "wrong dates", run="click-1", from_version="3", to_version="2")
    told = r"version 3 was to be taken back .* now version 2 is the champion since .* \(by ada: wrong dates\)"
    for run, actor in (("click-2", "ada"), ("by-ben", "ben"), ("", "ben")):
        with pytest.raises(ConfigInvalid, match=told):
            rollback(three, "pydocs", actor, "wrong dates", run=run, from_version="3", to_version="2")
    assert actions(three) == ["promote 2", "promote 3", "rollback 2"]
    again = rollback(three, "pydocs", "ada", "wrong dates", run="click-1", from_version="3", to_version="2")
    assert again.repeated
    assert rollback(three, "pydocs", "ada", "wrong dates", from_version="2").champion == "3"


def test_an_old_page_does_not_bring_another_version_back_than_it_showed(three: Any) -> None:
    for version in "123":
        promote(three, "pydocs", version, "ada", "good")
    rollback(three, "pydocs", "ada", "3 stutters")
    with pytest.raises(ConfigInvalid, match=r"version 1 was to come back, but .* and 3 the previous one"):
        rollback(three, "pydocs", "ben", "wrong dates", run="old", from_version="2", to_version="1")
    assert registry.aliases("pydocs")["champion"] == "2"


@pytest.mark.parametrize("promoted", [[], ["1"]])
def test_rollback_without_a_previous_version_is_refused(three: Any, promoted: list[str]) -> None:
    for version in promoted:
        promote(three, "pydocs", version, "ada", "good")
    with pytest.raises(ConfigInvalid, match="no previous version to go back to"):
        rollback(three, "pydocs", "ben", "worse")


def test_rejection_takes_the_candidate_away(three: Any) -> None:
    promote(three, "pydocs", "1", "ada", "good")
    done = reject(three, "pydocs", "candidate", "ben", "no better")
    assert registry.aliases("pydocs") == {"champion": "1"}
    assert (done.champion, done.line.from_version, done.line.to_version) == ("1", "1", "3")
    assert reject(three, "pydocs", "candidate", "ben", "no better").repeated
    assert actions(three) == ["promote 1", "reject 3"]
    assert registry.version("pydocs", "3").tags["perennial.decision"] == "reject by ben"
    with pytest.raises(ConfigInvalid, match="perennial rollback pydocs"):
        reject(three, "pydocs", "1", "ben", "no better")


@pytest.mark.parametrize("by_hand", ["reject", "promote", "roll back", "delete"])
def test_a_question_that_runs_out_of_time_leaves_a_persons_decision(
    three: Any, by_hand: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if by_hand in ("promote", "roll back"):
        promote(three, "pydocs", "1", "ada", "good")
        promote(three, "pydocs", "3", "ada", "better")
    else:
        reject(three, "pydocs", "3", "ada", "it stutters")
    if by_hand == "roll back":
        rollback(three, "pydocs", "ada", "it stutters")
    if by_hand == "delete":
        delete(three, "pydocs", "3", "ada", "tidying up")
    before, held = ledger.history(three, "pydocs"), registry.aliases("pydocs")
    monkeypatch.setenv("PERENNIAL_STORE", three.uri)
    late = ["--model=pydocs", "--version=3", "--by=nobody", "--reason=nobody answered in time"]
    assert cli.main(["reject", *late]) == 0
    told = capsys.readouterr().out
    assert "nobody answered in time, and the version was decided on meanwhile; that stays" in told
    assert "by ada: " in told
    assert ledger.history(three, "pydocs") == before
    assert registry.aliases("pydocs") == held
    taken_back = decided_against(before, "3")
    assert (taken_back.reason if taken_back else "") == (
        "it stutters" if by_hand in ("reject", "roll back") else ""
    )


def test_a_question_that_runs_out_of_time_rejects_what_waits(three: Any) -> None:
    for version in ("3", "2"):  # the candidate, and one that is not the newest any more
        done = reject(three, "pydocs", version, "nobody", "nobody answered in time")
        assert (done.line.action, done.repeated) == ("reject", False)
        assert reject(three, "pydocs", version, "nobody", "nobody answered in time").repeated
    assert actions(three) == ["reject 3", "reject 2"]


def test_what_nobody_rejected_after_a_person_stays_rejected(three: Any) -> None:
    reject(three, "pydocs", "3", "ada", "it stutters")
    line = ledger.Draft(action="reject", actor="nobody", to_version="3", to_digest="d")
    ledger.append(three, "pydocs", lambda _: line)
    found = decided_against(ledger.history(three, "pydocs"), "3")
    assert (found.actor if found else "") == "ada"


def test_a_decision_needs_a_name_and_a_reason(three: Any) -> None:
    for decide in (promote, reject):
        with pytest.raises(ConfigInvalid, match="--by WHO"):
            decide(three, "pydocs", "1", " ", "good")
    with pytest.raises(ConfigInvalid, match="--reason TEXT"):
        rollback(three, "pydocs", "ada", "")


def test_versions_that_are_not_there_are_refused(three: Any) -> None:
    with pytest.raises(ConfigInvalid, match="no version '9'"):
        promote(three, "pydocs", "9", "ada", "good")
    with pytest.raises(ConfigInvalid, match="versions: none"):
        promote(three, "another", "1", "ada", "good")


@pytest.mark.parametrize("damage", ["missing", "altered"])
def test_damaged_models_never_reach_production(three: Any, damage: str) -> None:
    promote(three, "pydocs", "1", "ada", "good")
    promote(three, "pydocs", "2", "ada", "better")
    for version in ("1", "3"):
        path = three.local_path(f"artefacts/{registry.version('pydocs', version).digest}/files/weights")
        path.chmod(0o644)
        path.unlink() if damage == "missing" else path.write_text("x")
    with pytest.raises(DataInvalid, match=f"object {damage}: weights"):
        promote(three, "pydocs", "3", "ada", "good")
    with pytest.raises(DataInvalid, match=f"object {damage}: weights"):
        rollback(three, "pydocs", "ada", "worse")
    assert actions(three) == ["promote 1", "promote 2"]
    assert registry.aliases("pydocs")["champion"] == "2"


def test_a_version_of_unknown_content_is_refused(three: Any) -> None:
    call("add", lambda client: client.create_model_version("pydocs", "s3://elsewhere/model"))
    with pytest.raises(ConfigInvalid, match="not registered by Perennial"):
        promote(three, "pydocs", "4", "ada", "good")


def test_aliases_follow_the_ledger_after_a_crash(three: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    promote(three, "pydocs", "1", "ada", "good")
    with monkeypatch.context() as crash:

        def away(*_: Any) -> None:
            raise Infrastructure("MLflow is away")

        crash.setattr(registry, "set_alias", away)
        with pytest.raises(Infrastructure):
            promote(three, "pydocs", "2", "ada", "better")
    assert registry.aliases("pydocs")["champion"] == "1"
    assert "behind the ledger: previous: none -> 1" in ledger_problems(three, "pydocs")[0]
    again = promote(three, "pydocs", "2", "ada", "better")
    assert again.repeated
    noted = "version 2: the ledger's last line about it is noted on its page"
    assert again.repairs == ["previous: none -> 1", "champion: 1 -> 2", noted]
    assert ledger_problems(three, "pydocs") == []
    assert registry.aliases("pydocs") == {"champion": "2", "previous": "1", "candidate": "3"}
    assert actions(three) == ["promote 1", "promote 2"]


def test_reconcile_undoes_what_was_moved_by_hand(three: Any) -> None:
    promote(three, "pydocs", "1", "ada", "good")
    assert reconcile(three, "pydocs") == []
    registry.set_alias("pydocs", "champion", "3")
    assert reconcile(three, "pydocs") == ["champion: 3 -> 1"]
    assert registry.aliases("pydocs")["champion"] == "1"


def test_a_champion_from_before_the_ledger_is_taken_over(three: Any) -> None:
    registry.set_alias("pydocs", "champion", "1")
    assert reconcile(three, "pydocs") == []
    done = promote(three, "pydocs", "2", "ada", "better")
    assert (done.champion, done.previous) == ("2", "1")
    assert rollback(three, "pydocs", "ada", "worse").champion == "1"


def test_a_version_deleted_from_mlflow_does_not_block(three: Any) -> None:
    promote(three, "pydocs", "1", "ada", "good")
    call("delete", lambda client: client.delete_model_version("pydocs", "1"))
    promote(three, "pydocs", "2", "ada", "better")
    assert registry.aliases("pydocs") == {"champion": "2", "candidate": "3"}
    with pytest.raises(ConfigInvalid, match="no version '1'"):
        rollback(three, "pydocs", "ada", "worse")


def test_two_deciders_at_once_leave_one_order(three: Any) -> None:
    together = Barrier(2)

    def meet(*_: object) -> None:
        together.wait(120)

    checks = (*PROMOTION, meet)
    with ThreadPoolExecutor(2) as pool:
        asked = {
            version: pool.submit(promote, three, "pydocs", version, "ada", "better", checks=checks)
            for version in ("1", "2")
        }
        refused = {version: each.exception() for version, each in asked.items() if each.exception()}
    ((loser, error),) = refused.items()
    (winner,) = set(asked) - {loser}
    assert isinstance(error, ConfigInvalid)
    assert f"version {loser} of 'pydocs' was to replace no champion, and now version {winner} is" in str(
        error
    )
    assert actions(three) == [f"promote {winner}"]
    assert registry.aliases("pydocs") == {"champion": winner, "candidate": "3"}
    assert ledger_problems(three, "pydocs") == []


@pytest.mark.parametrize("decide", [promote, reject])
def test_what_was_deleted_meanwhile_is_not_decided_on(
    three: Any, decide: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    promote(three, "pydocs", "1", "ada", "good")
    append = ledger.append

    def just_before(*given: Any) -> Any:
        monkeypatch.setattr(ledger, "append", append)
        delete(three, "pydocs", "2", "ben", "tidying up")
        return append(*given)

    monkeypatch.setattr(ledger, "append", just_before)
    with pytest.raises(ConfigInvalid, match=r"version 2 of 'pydocs' was deleted on .* by ben: tidying up"):
        decide(three, "pydocs", "2", "ada", "better")
    assert actions(three) == ["promote 1", "delete 2"]
    assert registry.aliases("pydocs") == {"champion": "1", "candidate": "3"}


def test_a_newer_champion_is_not_replaced_unnoticed(three: Any) -> None:
    promote(three, "pydocs", "1", "ada", "good")
    promote(three, "pydocs", "2", "ada", "better", over="1")
    with pytest.raises(ConfigInvalid, match=r"was to replace version 1, and now version 2 is the champion"):
        promote(three, "pydocs", "3", "ada", "I know", over="1")
    assert actions(three) == ["promote 1", "promote 2"]
    assert promote(three, "pydocs", "3", "ada", "I know", over="2").champion == "3"


def test_a_retry_that_was_overtaken_promotes_nothing(three: Any) -> None:
    promote(three, "pydocs", "1", "policy", "all gates passed", run="run-1")
    promote(three, "pydocs", "2", "ada", "better")
    told = r"promoted by this decision on .* and version 2 is the champion since .* \(by ada: better\)"
    with pytest.raises(ConfigInvalid, match=told):
        promote(three, "pydocs", "1", "policy", "all gates passed", run="run-1")
    assert actions(three) == ["promote 1", "promote 2"]


def test_an_approval_after_a_rollback_is_no_retry_and_says_so(three: Any) -> None:
    promote(three, "pydocs", "1", "ada", "good")
    promote(three, "pydocs", "3", "ada", "fine", run="run-3")
    assert promote(three, "pydocs", "3", "ada", "fine", run="run-3").repeated
    rollback(three, "pydocs", "ben", "it stutters", run="back")
    with pytest.raises(ConfigInvalid, match=r"version 3 .* decide anew: with another reason, or `perennial"):
        promote(three, "pydocs", "3", "ada", "fine", run="run-3")
    assert actions(three) == ["promote 1", "promote 3", "rollback 1"]
    assert promote(three, "pydocs", "3", "ada", "it does not", run="run-3").champion == "3"
    with pytest.raises(ConfigInvalid, match=r"version 1 .* brought back .* in a new run, or `perennial"):
        rollback(three, "pydocs", "ben", "it stutters", run="back")
    assert registry.aliases("pydocs")["champion"] == "3"


def test_a_version_without_a_card_is_not_promoted(three: Any, tmp_path: Path) -> None:
    digest = registry.version("pydocs", "1").digest
    call("untag", lambda client: client.delete_model_version_tag("pydocs", "1", "perennial.card"))
    signature.sign(three, registry.version("pydocs", "1"), "test")
    with pytest.raises(ConfigInvalid, match=r"no model card.*`perennial card pydocs 1 --write`"):
        promote(three, "pydocs", "1", "ada", "good")
    assert registry.version("pydocs", "1").digest == digest
    assert actions(three) == []


def test_weights_under_the_number_of_others_are_not_promoted(three: Any) -> None:
    for version in ("1", "2"):
        registry.tag_version("pydocs", version, {"perennial.semantic_version": "1.0.0"})
        signature.sign(three, registry.version("pydocs", version), "test")
    assert promote(three, "pydocs", "1", "ada", "good").champion == "1"
    with pytest.raises(ConfigInvalid, match=r"calls itself 1\.0\.0, .* version 1\. .* never typed"):
        promote(three, "pydocs", "2", "ada", "better")


def test_checks_refuse_before_anything_is_written(three: Any) -> None:
    seen = []

    def smoke(store: Store, version: registry.VersionInfo) -> None:
        seen.append((registry.aliases("pydocs"), len(ledger.history(store, "pydocs")), version.version))
        raise DataInvalid("it answers nonsense")

    with pytest.raises(DataInvalid, match="nonsense"):
        promote(three, "pydocs", "1", "ada", "good", checks=(*PROMOTION, smoke))
    assert seen == [({"candidate": "3"}, 3, "1")]
    assert actions(three) == []


def two_people(three: Any, version: str = "3") -> None:
    registry.tag_version("pydocs", version, {"perennial.approvals": "2"})
    signature.sign(three, registry.version("pydocs", version), "test")


def test_two_people_approve_where_the_recipe_asks_for_two(three: Any) -> None:
    two_people(three)
    first = promote(three, "pydocs", "candidate", "ada", "looks good")
    assert (first.line.action, first.missing, first.champion) == ("approve", 1, None)
    again = promote(three, "pydocs", "candidate", "ada", "I insist")
    assert (again.repeated, again.missing, again.champion) == (True, 1, None)
    with pytest.raises(ConfigInvalid, match="'policy' is none"):
        promote(three, "pydocs", "candidate", "policy", "all gates passed")
    with pytest.raises(ConfigInvalid, match="'Ada and nobody' is none"):
        promote(three, "pydocs", "candidate", "Ada and nobody", "in time")
    second = promote(three, "pydocs", "candidate", "ben", "I agree")
    assert (second.line.action, second.missing, second.champion) == ("promote", 0, "3")
    assert actions(three) == ["approve 3", "promote 3"]


def test_two_people_may_decide_together(three: Any) -> None:
    two_people(three)
    assert promote(three, "pydocs", "3", "ada and Ada", "twice").line.action == "approve"
    assert promote(three, "pydocs", "3", "ada and ben", "we agree").line.action == "promote"


def test_a_rejection_takes_approvals_back(three: Any) -> None:
    two_people(three)
    promote(three, "pydocs", "3", "ada", "looks good")
    reject(three, "pydocs", "3", "ben", "it stutters")
    assert approvals(ledger.history(three, "pydocs"), "3") == {}
    assert promote(three, "pydocs", "3", "ben", "it does not").line.action == "approve"


def test_a_rollback_by_hand_is_repeated_by_another_reason_only(three: Any) -> None:
    promote(three, "pydocs", "1", "ada", "good")
    promote(three, "pydocs", "2", "ada", "better")
    rollback(three, "pydocs", "ben", "users complain")
    assert rollback(three, "pydocs", "ben", "users complain").repeated
    assert registry.aliases("pydocs")["champion"] == "1"


def test_a_tampered_ledger_stops_every_decision(three: Any) -> None:
    promote(three, "pydocs", "1", "ada", "good")
    three.delete("ledger/pydocs/000002.json")
    for decide in (promote, reject):
        with pytest.raises(DataInvalid, match="tampered"):
            decide(three, "pydocs", "2", "ada", "better")
    with pytest.raises(DataInvalid, match="tampered"):
        rollback(three, "pydocs", "ada", "worse")
    assert "tampered" in ledger_problems(three, "pydocs")[0]
