"""Releases are signed when they are registered, and checked before anything trusts them."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tasks.artefacts import commit
from tasks.recipe.failures import ConfigInvalid, DataInvalid
from tasks.recipe.fingerprints import canonical
from tasks.release import signature
from tasks.release.keys import key_id, public_text, signing_key
from tasks.release.promote import promote, rollback
from tasks.runner.imports import import_model
from tasks.runner.planner import freeze
from tasks.runner.release import sign_version
from tasks.runner.settings import Settings
from tasks.tracking import ledger, registry
from tasks.tracking.server import call

KEY = "signatures/pydocs/1.json"
RECIPE = """\
recipe: small
model: pydocs
steps:
  merged: {stage: merge, inputs: {models: [champion, champion.tuned]}}
"""


@pytest.fixture
def run(make_run: Callable[..., Any]) -> Any:
    """A run that was registered as version 1, its plan in the store."""
    made = make_run()
    made.store.write("runs/run-1/plan.json", canonical(made.plan))
    made.register()
    return made


def settings(run: Any, tracking: str, tmp_path: Path) -> Settings:
    return Settings(tmp_path / "home", run.store.uri, tracking)


def use_key(path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Make a key the installation's own; its public half."""
    key = Ed25519PrivateKey.generate()
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    path.chmod(0o600)
    monkeypatch.setenv("PERENNIAL_SIGNING_KEY", str(path))
    return public_text(key.public_key())


def alter(run: Any, change: Callable[[dict[str, Any]], None]) -> None:
    signed = json.loads(run.store.read(KEY))
    change(signed)
    run.store.write(KEY, json.dumps(signed).encode())


def test_a_registered_version_is_signed_with_all_that_it_claims(run: Any) -> None:
    version = registry.version("pydocs", "1")
    signed = signature.verify(run.store, version)
    said = signed.statement
    assert (said.model, said.version, said.candidate, said.by) == ("pydocs", "1", run.candidate, "perennial")
    assert said.report == run.records["report"]["outputs"]["report"]["digest"]
    assert said.tags["perennial.step.tuned"] == run.records["tuned"]["outputs"]["model"]["digest"]
    assert said.plan == signature._plan_digest(run.store, version) != ""
    assert version.tags["perennial.signed_by"] == signed.key
    assert signed.key == key_id(signing_key(run.store.uri).public_key())


def tag(name: str, value: str) -> Callable[[Any], None]:
    return lambda _: registry.tag_version("pydocs", "1", {name: value})


def other_model(run: Any) -> None:
    """Another model that is whole and in the store, put in the candidate's place."""
    base = run.records["base"]["outputs"]["model"]["digest"]
    registry.tag_version("pydocs", "1", {"perennial.candidate": base})


def signed_by_hand(run: Any) -> None:
    """The whole statement made to fit, by somebody who has not the key."""
    other_model(run)
    base = run.records["base"]["outputs"]["model"]["digest"]

    def change(signed: dict[str, Any]) -> None:
        signed["statement"]["candidate"] = base
        signed["statement"]["tags"]["perennial.candidate"] = base
        text = signature.Statement.model_validate(signed["statement"]).to_bytes()
        signed["signature"] = base64.b64encode(Ed25519PrivateKey.generate().sign(text)).decode()

    alter(run, change)


TAMPERED: dict[str, tuple[Callable[[Any], None], str]] = {
    "another model": (other_model, "candidate was"),
    "another report": (tag("perennial.report", "0" * 64), "report was"),
    "another step": (tag("perennial.step.tuned", "0" * 64), "tag perennial.step.tuned was"),
    "one more step": (tag("perennial.step.evil", "0" * 64), "tag perennial.step.evil was none"),
    "another intent": (tag("perennial.intent", "i2"), "tag perennial.intent was i1 and is i2"),
    "another lineage": (tag("perennial.lineage", "{}"), "tag perennial.lineage was"),
    "another signature's tag": (tag("perennial.signature", "x"), "tag perennial.signature was"),
    "another plan": (lambda run: run.store.write("runs/run-1/plan.json", b"{}"), "plan was"),
    "the statement": (
        lambda run: alter(run, lambda signed: signed["statement"].update(report="x")),
        "forged or was altered",
    ),
    "the signature": (lambda run: alter(run, lambda signed: signed.update(signature="AAAA")), "forged"),
    "no base64": (lambda run: alter(run, lambda signed: signed.update(signature="*")), "forged"),
    "no statement": (lambda run: run.store.write(KEY, b"{}"), "no signed statement"),
    "signed by hand": (signed_by_hand, "forged"),
}


@pytest.mark.parametrize("case", TAMPERED)
def test_what_was_altered_is_never_promoted(run: Any, case: str) -> None:
    act, words = TAMPERED[case]
    before = ledger.history(run.store, "pydocs")
    act(run)
    with pytest.raises(DataInvalid, match=words):
        promote(run.store, "pydocs", "1", "ada", "good")
    assert ledger.history(run.store, "pydocs") == before
    assert registry.aliases("pydocs") == {"candidate": "1"}


def test_tags_that_change_later_do_not_break_the_signature(run: Any) -> None:
    promote(run.store, "pydocs", "1", "ada", "good")
    call("tag", lambda client: client.set_model_version_tag("pydocs", "1", "team", "docs"))
    said = signature.verify(run.store, registry.version("pydocs", "1")).statement
    assert (said.candidate, said.version) == (run.candidate, "1")
    assert "team" not in said.tags


def test_the_signature_of_one_version_is_none_of_another(run: Any, make_run: Callable[..., Any]) -> None:
    make_run("run-2", weights="b").register()
    run.store.write("signatures/pydocs/2.json", run.store.read(KEY))
    with pytest.raises(DataInvalid, match="version was 1 and is 2"):
        promote(run.store, "pydocs", "2", "ada", "good")


def test_rollback_checks_what_it_brings_back(run: Any, make_run: Callable[..., Any]) -> None:
    make_run("run-2", weights="b").register()
    promote(run.store, "pydocs", "1", "ada", "good")
    promote(run.store, "pydocs", "2", "ada", "better", over="1")
    run.store.delete(KEY)
    with pytest.raises(ConfigInvalid, match="version 1 of 'pydocs' is not signed"):
        rollback(run.store, "pydocs", "ben", "worse")
    assert registry.aliases("pydocs")["champion"] == "2"


def test_an_unsigned_version_can_be_signed_by_a_person(run: Any, tracking: str, tmp_path: Path) -> None:
    run.store.delete(KEY)
    with pytest.raises(ConfigInvalid, match=r"not signed.* `perennial sign pydocs 1`"):
        promote(run.store, "pydocs", "1", "ada", "good")
    words = sign_version(settings(run, tracking, tmp_path), "pydocs", "1", "ada")
    assert "are those that run 'run-1' registered" in words
    assert promote(run.store, "pydocs", "1", "ada", "good").champion == "1"
    assert signature.verify(run.store, registry.version("pydocs", "1")).statement.by == "ada"


def test_a_person_cannot_sign_what_its_run_denies(run: Any, tracking: str, tmp_path: Path) -> None:
    run.store.delete(KEY)
    other_model(run)
    with pytest.raises(DataInvalid, match="somebody changed one of the two"):
        sign_version(settings(run, tracking, tmp_path), "pydocs", "1", "ada")
    assert run.store.stat(KEY) is None


def test_a_person_cannot_sign_a_damaged_model(run: Any, tracking: str, tmp_path: Path) -> None:
    run.store.delete(f"artefacts/{run.candidate}/files/weights")
    with pytest.raises(DataInvalid, match="object missing: weights"):
        sign_version(settings(run, tracking, tmp_path), "pydocs", "1", "ada")


def test_where_the_run_is_gone_signing_says_so(run: Any, tracking: str, tmp_path: Path) -> None:
    for name in ("plan.json", "release.json"):
        run.store.delete(f"runs/run-1/{name}")
    assert "nothing could be compared" in sign_version(
        settings(run, tracking, tmp_path), "pydocs", "1", "ada"
    )
    said = signature.verify(run.store, registry.version("pydocs", "1")).statement
    assert (said.by, said.plan) == ("ada", "")  # there was no plan to vouch for


def test_another_installations_signature_does_not_count(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_key(tmp_path / "other.pem", monkeypatch)
    with pytest.raises(ConfigInvalid, match=r"signed by the key [0-9a-f]{16}, which is not trusted here"):
        promote(run.store, "pydocs", "1", "ada", "good")


def test_keys_are_rotated_without_a_gap(
    run: Any, tracking: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trusted = tmp_path / "trusted.pem"
    old = public_text(signing_key(run.store.uri).public_key())
    first = signature.verify(run.store, registry.version("pydocs", "1")).key
    new = use_key(tmp_path / "new.pem", monkeypatch)
    monkeypatch.setenv("PERENNIAL_TRUSTED_KEYS", str(trusted))
    trusted.write_text(old + new)  # both: what the old key signed still counts
    promote(run.store, "pydocs", "1", "ada", "good")
    sign_version(settings(run, tracking, tmp_path), "pydocs", "champion", "ada")
    trusted.write_text(new)  # the old key is retired: what was signed again still counts
    signed = signature.verify(run.store, registry.version("pydocs", "champion"))
    assert signed.key == key_id(signing_key(run.store.uri).public_key())
    assert signed.key != first


def test_what_a_retired_key_signed_counts_no_more(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "trusted.pem").write_text(use_key(tmp_path / "new.pem", monkeypatch))
    monkeypatch.setenv("PERENNIAL_TRUSTED_KEYS", str(tmp_path / "trusted.pem"))
    with pytest.raises(ConfigInvalid, match="not trusted"):
        promote(run.store, "pydocs", "1", "ada", "good")


def test_a_registration_killed_before_it_signed_is_made_good_by_its_retry(run: Any) -> None:
    before = json.loads(run.store.read(KEY))["statement"]
    run.store.delete(KEY)
    run.register()
    said = signature.verify(run.store, registry.version("pydocs", "1")).statement.model_dump()
    assert said | {"time": ""} == before | {"time": ""}


def test_a_retry_keeps_the_signature(run: Any) -> None:
    before = run.store.read(KEY)
    run.register()
    assert run.store.read(KEY) == before


def test_a_registration_does_not_vouch_for_a_version_it_finds(run: Any, make_run: Callable[..., Any]) -> None:
    """Who can write to MLflow puts up a version of the expected model and report, with steps of his own."""
    run.store.delete(KEY)
    registry.tag_version("pydocs", "1", {"perennial.step.tuned": "0" * 64})
    again = make_run("run-1")
    again.register()
    assert run.store.stat(KEY) is None
    with pytest.raises(ConfigInvalid, match="not signed"):
        promote(run.store, "pydocs", "1", "ada", "good")


def test_without_a_key_nothing_is_put_up_for_a_decision(
    make_run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PERENNIAL_SIGNING_KEY", str(tmp_path / "none.pem"))
    with pytest.raises(ConfigInvalid, match="PERENNIAL_SIGNING_KEY: cannot read"):
        make_run().register()
    assert registry.aliases("pydocs") == {}


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(RECIPE)
    return path


def test_a_run_trusts_a_signed_champion(run: Any, recipe: Path, tracking: str, tmp_path: Path) -> None:
    promote(run.store, "pydocs", "1", "ada", "good")
    plan = freeze(recipe, settings(run, tracking, tmp_path), run="two")
    pinned = plan.bindings["champion"]
    assert pinned is not None
    assert pinned.digest == run.candidate


@pytest.mark.parametrize("case", [*TAMPERED, "not signed"])
def test_a_run_trusts_no_altered_champion(
    run: Any, recipe: Path, tracking: str, tmp_path: Path, case: str
) -> None:
    promote(run.store, "pydocs", "1", "ada", "good")
    act, words = TAMPERED.get(case, (lambda run: run.store.delete(KEY), "is not signed"))
    act(run)
    with pytest.raises((ConfigInvalid, DataInvalid), match=words):
        freeze(recipe, settings(run, tracking, tmp_path), run="two")


def test_an_alias_moved_by_hand_to_a_foreign_version_is_not_trusted(
    run: Any, recipe: Path, tracking: str, tmp_path: Path
) -> None:
    folder = tmp_path / "evil"
    folder.mkdir()
    (folder / "weights").write_text("evil")
    digest = commit(run.store, folder, kind="model", parents=[], producer="x", meta={}).digest
    source = f"{registry.version('pydocs', '1').source.rpartition('/artefacts/')[0]}/artefacts/{digest}/files"
    call(
        "add",
        lambda client: client.create_model_version("pydocs", source, tags={"perennial.candidate": digest}),
    )
    registry.set_alias("pydocs", "champion", "2")
    with pytest.raises(ConfigInvalid, match="version 2 of 'pydocs' is not signed"):
        freeze(recipe, settings(run, tracking, tmp_path), run="two")


def test_a_model_taken_from_the_registry_must_be_signed(run: Any, tracking: str, tmp_path: Path) -> None:
    places = settings(run, tracking, tmp_path)
    assert import_model("models:/pydocs/1", run.store, places).digest == run.candidate
    run.store.delete(KEY)
    with pytest.raises(ConfigInvalid, match="is not signed"):
        import_model("models:/pydocs/1", run.store, places)


def test_missing_keys_are_told_before_any_work(tracking: str, tmp_path: Path) -> None:
    """Not after days of training, when the result is to be registered; the bucket is not even asked for."""
    places = Settings(tmp_path / "home", "s3://bucket/store", tracking)
    with pytest.raises(ConfigInvalid, match="PERENNIAL_TRUSTED_KEYS does not name"):
        freeze(Path(__file__).parents[2] / "recipes" / "tiny.yaml", places, run="one")
