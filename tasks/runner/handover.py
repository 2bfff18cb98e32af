"""What happens around and after a promotion: smoke test, webhook, exports, storage as a difference."""

from __future__ import annotations

import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from tasks.artefacts import ArtefactAltered, ObjectMissing, Store, open_store
from tasks.artefacts.delta import pack, unpack
from tasks.recipe.failures import ConfigInvalid, DataInvalid, Infrastructure, PerennialError
from tasks.recipe.models import Smoke
from tasks.recipe.plan import Plan
from tasks.release import signature, smoke, webhook
from tasks.release.export import MANIFEST, Format, export
from tasks.release.register import ReleaseRecord
from tasks.release.whole import whole_model
from tasks.runner.settings import Settings
from tasks.tracking import registry
from tasks.tracking.registry import VersionInfo

DIGEST = re.compile(r"[0-9a-f]{64}")

EXPORTS = "PERENNIAL_EXPORTS"
"""The folder of the exports that a recipe asks for, `<model>/<semantic version>/<form>`; else in the home."""


def registered(settings: Settings, store: Store, plan: Plan, record: ReleaseRecord) -> str:
    """Record the smoke test's answer for a version that was just registered; what was done, in words.

    Raises:
        ConfigInvalid: The model does not load, or has no chat template for the prompt. The version stays
            registered, and no promotion takes it without a recorded test.
    """
    wanted = plan.release.smoke if plan.release else None
    if wanted is None or record.version is None:
        return ""
    version = registry.version(plan.model, record.version)
    known = smoke.read_record(store, version)
    if known is not None and known.smoke == wanted:
        return ""
    if not smoke.can_run():
        return (
            f"WARNING: the smoke test of version {version.version} was not recorded: there is no torch here; "
            f"run `perennial smoke {version.name} {version.version} --record` where there is, before it is "
            "promoted"
        )
    return _record(settings, store, version, wanted)


def before(
    settings: Settings, store: Store, model: str, name: str, *, back: bool = False, elsewhere: bool = False
) -> None:
    """What must hold before an alias moves to a version: its smoke test, where it has one, passes.

    Args:
        settings: Where things are.
        store: The store.
        model: The registered model.
        name: Number or alias of the version.
        back: It is a rollback: a test that cannot be run here does not stand in its way.
        elsewhere: A recent passed test counts, although one could be run here too.

    Raises:
        DataInvalid: The smoke test failed.
        ConfigInvalid: The recipe asks for one and none is recorded, or it cannot be run here and no passed
            one is recent.
    """
    webhook.begin(store, model)
    version = registry.find_version(model, name)
    if version is None or not version.digest:
        return  # who decides on it says what is wrong
    if unpack(store, version.digest, cache=_cache(settings)):
        print(f"version {version.version} of '{model}' was kept as a difference and is whole again")
    called = f"version {version.version} of '{model}'"
    if smoke.read_record(store, version) is None:
        if wanted(store, version) is not None and not back:
            raise ConfigInvalid(
                f"{called} is not promoted: its recipe asks for a smoke test and none was recorded; "
                f"`perennial smoke {model} {version.version} --record`"
            )
        return
    here, outcome = smoke.can_run(), smoke.last(store, version)
    if (elsewhere or not here) and outcome is not None and outcome.passed and smoke.is_fresh(outcome):
        return
    if not here:
        if back:
            return
        raise ConfigInvalid(
            f"{called} is not promoted: there is no torch here to run its smoke test with; run `perennial "
            f"smoke {model} {version.version}` where there is, which counts for an hour, or promote it there"
        )
    try:
        outcome = _run(settings, store, version, "before")
    except (ObjectMissing, ArtefactAltered):
        return  # the decision refuses a damaged artefact itself, and says what is damaged
    if not outcome.passed:
        raise DataInvalid(
            f"{called} is not promoted: its smoke test failed: {outcome.words}. If the libraries changed and "
            f"this is right now, `perennial smoke {model} {version.version} --record`"
        )


def after(settings: Settings, store: Store, model: str, number: str, *, elsewhere: bool = False) -> str:
    """Test what the alias `champion` stands for now, and tell the webhook; what was done, in words.

    Args:
        settings: Where things are.
        store: The store.
        model: The registered model.
        number: The version that was decided on.
        elsewhere: The test is repeated by who asked for the promotion (the task smoke_after).

    Raises:
        DataInvalid: The smoke test failed. The promotion stands: what to do is a person's decision.
    """
    problem = ""
    said: list[str] = []
    version = registry.find_version(model, "champion")
    if version is not None and version.version == number and smoke.read_record(store, version) is not None:
        if elsewhere:
            said.append("the smoke test is repeated by the task smoke_after")
        elif not smoke.can_run():
            said.append(
                f"WARNING: the smoke test was not repeated: no torch here; where there is: `perennial smoke "
                f"{model} champion`"
            )
        else:
            problem = _problem_after(settings, store, version)
            if not problem:
                said.append("smoke test: passed before and after")
    if not problem and version is not None and version.version == number:
        said += _hand_over(settings, store, version)
    said += tell(store, model)
    if problem:
        raise DataInvalid("\n".join([_failed_after(model, number, problem), *said]))
    return "\n".join(said)


def _problem_after(settings: Settings, store: Store, version: VersionInfo) -> str:
    """What is wrong with a version that was just promoted, by its smoke test; "" where nothing is."""
    try:
        outcome = _run(settings, store, version, "after")
    except PerennialError as error:
        return smoke.write_outcome(store, version, "after", False, str(error)).words
    return "" if outcome.passed else outcome.words


def _failed_after(model: str, number: str, problem: str) -> str:
    return (
        f"THE SMOKE TEST FAILED AFTER THE PROMOTION. Version {number} of '{model}' IS the champion, and "
        f"nothing was taken back: {problem}\n"
        f"take it back with `perennial rollback {model} --reason ...`, or repeat the test with "
        f"`perennial smoke {model} champion`"
    )


def _hand_over(settings: Settings, store: Store, version: VersionInfo) -> list[str]:
    """Export a version as its recipe says; a failure is told and stops nothing."""
    said: list[str] = []
    root = Path(os.environ.get(EXPORTS) or settings.home / "exports") / version.name
    for to in _release(store, version).get("export") or []:
        out = root / (version.semantic or version.version) / to
        if (out / MANIFEST).is_file():  # a retry, or a rollback to it
            continue
        by_hand = f"`perennial export {version.name} {version.version} --to {to} --out DIR`"
        if to != "huggingface" and not smoke.can_run():
            said.append(
                f"WARNING: no export to {to}: there is no transformers here; {by_hand} where there is"
            )
            continue
        try:
            said.append(export_version(settings, version.name, version.version, to, out, "auto"))
        except PerennialError as error:
            said.append(f"WARNING: no export to {to}: {error}; {by_hand}")
    return said


def tell(store: Store, model: str) -> list[str]:
    """Deliver what the webhook was not told yet of any model, this one first; never raises."""
    if webhook.receiver() == (None, ""):
        return []
    try:
        others = [each for each in registry.models() if each != model]
        return webhook.deliver(store, [model, *others])
    except PerennialError as error:
        return [f"WARNING: webhook: {error}; `perennial deliver` tries again"]


def deliver(settings: Settings) -> str:
    """Deliver what the webhook was not told yet; what was done, in words.

    Raises:
        ConfigInvalid: No webhook is set up.
        Infrastructure: The receiver did not take it; what is left is delivered by the next call.
    """
    to, wrong = webhook.receiver()
    if to is None:
        raise ConfigInvalid(wrong or f"no webhook is set up: set {webhook.URL} and {webhook.SECRET}")
    said = webhook.deliver(open_store(settings.store), registry.models())
    if any(line.startswith("WARNING") for line in said):
        raise Infrastructure("\n".join(said))
    return "\n".join(said) or "nothing to deliver"


def smoke_version(
    settings: Settings,
    model: str,
    name: str,
    *,
    record: bool,
    if_missing: bool = False,
    after: bool = False,
    prompt: str | None = None,
    tokens: int | None = None,
    chat: bool = False,
) -> tuple[bool, str]:
    """Run the smoke test of a version, or record it; whether it passed, and what came out, in words.

    Args:
        settings: Where things are.
        model: The registered model.
        name: Number or alias of the version.
        record: Its answer now is the right one.
        if_missing: Unless one is recorded already.
        after: It was just promoted; one that is not the champion any more passes untested.
        prompt: Instead of the recipe's release.smoke; so are `tokens` and `chat`.

    Raises:
        ConfigInvalid: Nothing was recorded, or there is nothing to record: neither the recipe nor the command
            has a prompt.
    """
    store = open_store(settings.store)
    version = registry.version(model, name)
    if after and record:
        raise ConfigInvalid("--after is a test of what was promoted; leave --record out")
    if not record:
        if prompt is not None or tokens is not None or chat:
            raise ConfigInvalid("--prompt, --tokens and --chat are about a new record: add --record")
        if if_missing:
            raise ConfigInvalid("--if-missing is about a new record: add --record")
        if after:
            return _after(settings, store, version)
        outcome = _run(settings, store, version, "by hand")
        return outcome.passed, f"smoke test of version {version.version} of '{model}': {outcome.words}"
    if if_missing and smoke.is_recorded(store, version):
        return True, f"the smoke test of version {version.version} of '{model}' is recorded already"
    asked = wanted(store, version)
    if prompt is not None:
        given = {"prompt": prompt, "chat": chat, **({"tokens": tokens} if tokens is not None else {})}
        try:
            asked = Smoke.model_validate(given)
        except ValidationError as error:
            raise ConfigInvalid(f"--prompt and --tokens: {error.errors()[0]['msg']}") from error
    elif tokens is not None or chat:
        raise ConfigInvalid("--tokens and --chat are about a prompt: add --prompt")
    if asked is None:
        raise ConfigInvalid(
            f"the recipe of version {version.version} of '{model}' has no release.smoke; name a prompt: "
            "--prompt TEXT"
        )
    return True, _record(settings, store, version, asked)


def _after(settings: Settings, store: Store, version: VersionInfo) -> tuple[bool, str]:
    """Test a version that was just promoted; whether it passed, and what came out, in words."""
    champion = registry.find_version(version.name, "champion")
    if champion is None or champion.version != version.version:
        return True, f"version {version.version} of '{version.name}' is not the champion any more: not tested"
    problem = _problem_after(settings, store, champion)
    if problem:
        return False, _failed_after(version.name, version.version, problem)
    return True, f"version {version.version} of '{version.name}' passed its smoke test after its promotion"


def smokes(store: Store, version: VersionInfo) -> bool:
    """Whether a version has a smoke test: one is recorded, or its recipe asks for one."""
    return smoke.is_recorded(store, version) or wanted(store, version) is not None


def wanted(store: Store, version: VersionInfo) -> Smoke | None:
    """The smoke test that the recipe of a version asks for; None where its run is no longer there."""
    said = _release(store, version).get("smoke")
    return Smoke.model_validate(said) if said else None


def export_version(settings: Settings, model: str, name: str, to: Format, out: Path, outtype: str) -> str:
    """Write a version into a new folder in the form that another system reads; what was written, in words."""
    store = open_store(settings.store)
    version = registry.version(model, name)
    done = export(store, version, to, out.absolute(), cache=_cache(settings), outtype=outtype)
    size = sum(file.size for file in done.files)
    lines = [
        f"version {done.version} ({done.semantic_version}) of '{model}' is in {out}: {to}, {size:,} bytes"
    ]
    return "\n".join([*lines, *([f"serve it with: {done.serve}"] if done.serve else [])])


def delta_version(settings: Settings, model: str, name: str, *, base: str | None, restore: bool) -> str:
    """Keep a version's weights as an exact difference from another model's, or put them back; in words.

    Args:
        settings: Where things are.
        model: The registered model.
        name: Number of the version.
        base: Number or alias of the version, or digest of the model, that it differs from; the champion where
            left out.
        restore: Put the weights back.

    Raises:
        ConfigInvalid: An alias points at the version, there is no base, or the two have too little in common.
        DataInvalid: The version is not what was signed.
    """
    store = open_store(settings.store)
    version = registry.version(model, name)
    called = f"version {version.version} of '{model}'"
    if restore:
        if base is not None:
            raise ConfigInvalid("--base has no effect with --restore; leave it out")
        put_back = unpack(store, version.digest, cache=_cache(settings))
        return f"{called} is whole again" if put_back else f"{called} is whole"
    held = [alias for alias, number in registry.aliases(model).items() if number == version.version]
    if held:
        raise ConfigInvalid(
            f"{called} is the {held[0]}, which others read; only versions without an alias are kept as a "
            "difference"
        )
    signature.verify(store, version)
    beside = _base(model, base)
    done = pack(store, version.digest, beside, cache=_cache(settings))
    share = done.bytes / done.whole_bytes
    return (
        f"{called} is kept as its difference from {beside}: {done.bytes:,} bytes instead of "
        f"{done.whole_bytes:,} ({share:.0%}), exact. It reads as ever and is made whole before it is promoted"
    )


def _base(model: str, named: str | None) -> str:
    """The digest of the model that a version is to differ from."""
    if named is not None and DIGEST.fullmatch(named):
        return named
    found = registry.find_version(model, named or "champion")
    if found is None and named is None:
        raise ConfigInvalid(
            f"'{model}' has no champion to take the difference from; name a version: --base NUMBER"
        )
    return (found or registry.version(model, named or "champion")).digest


def _record(settings: Settings, store: Store, version: VersionInfo, wanted: Smoke) -> str:
    with tempfile.TemporaryDirectory(prefix="perennial-smoke-") as scratch:
        whole = whole_model(store, version.digest, cache=_cache(settings), scratch=Path(scratch) / "whole")
        made = smoke.write_record(store, version, wanted, smoke.answer(whole, wanted))
    smoke.write_outcome(store, version, "registered", True, f"recorded: {made.answer.text[:60]!r}")
    return f"smoke test of version {version.version} of '{version.name}' recorded: {made.answer.text[:60]!r}"


def _run(
    settings: Settings, store: Store, version: VersionInfo, when: Literal["before", "after", "by hand"]
) -> smoke.Outcome:
    with tempfile.TemporaryDirectory(prefix="perennial-smoke-") as scratch:
        whole = whole_model(store, version.digest, cache=_cache(settings), scratch=Path(scratch) / "whole")
        return smoke.run(store, version, whole, when)


def _release(store: Store, version: VersionInfo) -> dict[str, Any]:
    """The release rules of the plan that made a version; {} where its run is no longer there."""
    _, _, key = version.tags.get("perennial.plan", "").rpartition("/runs/")
    if not key or store.stat(f"runs/{key}") is None:
        return {}
    found: dict[str, Any] = json.loads(store.read(f"runs/{key}")).get("release") or {}
    return found


def _cache(settings: Settings) -> Path:
    return settings.home / "cache" / "artefacts"
