"""The smoke test of a version: it loads, and answers a prompt as it did when it was registered.

The recipe's `release.smoke` asks for it. At registration the version's greedy answer is recorded in the
store, `smoke/<model>/<version>/record.json`; before a promotion and after it the model is loaded again, as
its files are then, and must give that answer. What came out last stands beside it, in `last.json`.

Greedy decoding is deterministic on one machine. On another one sums are rounded otherwise, so two tokens that
were as likely as each other may change places: where the recorded lead of the chosen token is within
rounding, another token is a tie and no failure, and what follows it is not compared.
"""

from __future__ import annotations

import datetime
import importlib.util
import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tasks.artefacts import ObjectMissing, Store
from tasks.recipe.failures import ConfigInvalid, DataInvalid, PerennialError
from tasks.recipe.models import Smoke
from tasks.tracking.registry import VersionInfo

FRESH = datetime.timedelta(hours=1)
"""How old a passed test may be that stands for one which cannot be run here (no torch in this image)."""

SLACK = 10
"""How many times rounding the leads may differ: another machine adds in another order, token after token."""

When = Literal["registered", "before", "after", "by hand"]


class Answer(BaseModel):
    """What a model says to a prompt, greedily.

    Attributes:
        tokens: Ids of the answer; the end token too, where it came.
        text: The same as text.
        margins: By how much each token's logit leads the next one's, as a share of the largest logit.
        tie: A lead up to this is rounding, in the precision the model is stored in.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    tokens: list[int] = Field(min_length=1)
    text: str
    margins: list[float]
    tie: float


class Record(BaseModel):
    """The answer that a version was registered with.

    Attributes:
        digest: Of the version's artefact: a record never counts for another one.
        versions: Of the libraries that computed it.
        time: ISO 8601, UTC.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    model: str
    version: str
    digest: str
    smoke: Smoke
    answer: Answer
    versions: dict[str, str]
    time: str


class Outcome(BaseModel):
    """How a smoke test ended.

    Attributes:
        digest: Of what was tested.
        when: Before or after the alias moved, or by hand.
        words: For a person: what was compared, or what went wrong.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    digest: str
    when: When
    passed: bool
    words: str
    time: str


def can_run() -> bool:
    """Whether this machine can load a model at all: the image of the orchestrator has no torch."""
    return importlib.util.find_spec("torch") is not None


def answer(directory: Path, smoke: Smoke) -> Answer:
    """The greedy answer of a model in the precision that it is stored in, on the CPU.

    Args:
        directory: A model directory.
        smoke: The prompt, how long the answer may be, and whether the chat template renders it.

    Raises:
        ConfigInvalid: It does not load, or has no chat template where the prompt is a user's message.
        DataInvalid: A logit is not finite.
    """
    import torch

    import tasks.training  # noqa: F401 - settles the accelerator before transformers is imported
    from tasks.training.models import PROBE_TOLERANCE, load_model

    model, tokenizer = load_model(directory, _precision(directory))
    if smoke.chat:
        if not tokenizer.chat_template:
            raise ConfigInvalid(
                f"release.smoke: chat: true, but the tokenizer of {directory} has no chat template; leave "
                "chat out, and the prompt is the beginning of a text"
            )
        given = tokenizer.apply_chat_template(
            [{"role": "user", "content": smoke.prompt}],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )
    else:
        given = tokenizer(smoke.prompt, return_tensors="pt")
    ids_BT = given["input_ids"]
    if ids_BT.shape[1] == 0:
        raise ConfigInvalid("release.smoke: the prompt has no tokens; write a sentence")
    with torch.no_grad():
        made = model.generate(
            ids_BT,
            attention_mask=torch.ones_like(ids_BT),
            do_sample=False,
            num_beams=1,
            max_new_tokens=smoke.tokens,
            use_cache=True,
            return_dict_in_generate=True,
            output_logits=True,
            pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0,
        )
    tokens = made.sequences[0, ids_BT.shape[1] :].tolist()
    margins = []
    for token, logits_BV in zip(tokens, made.logits, strict=False):
        logits_V = logits_BV[0].float()
        if not torch.isfinite(logits_V).all():
            raise DataInvalid(f"the model in {directory} gives logits that are not finite; it is broken")
        others_V = logits_V.clone()
        others_V[token] = -torch.inf
        lead = float(logits_V[token] - others_V.max())
        margins.append(lead / max(float(logits_V.abs().max()), 1e-6))
    dtype = next(model.parameters()).dtype
    text = tokenizer.decode(tokens, skip_special_tokens=True)
    return Answer(tokens=tokens, text=text, margins=margins, tie=PROBE_TOLERANCE[dtype])


def difference(recorded: Answer, now: Answer) -> str:
    """How an answer differs from the recorded one, in words; "" where it is the same, or differs by a tie."""
    for place, (was, is_) in enumerate(zip(recorded.tokens, now.tokens, strict=False)):
        if was != is_:
            if abs(recorded.margins[place]) <= recorded.tie:
                return ""
            return (
                f"token {place + 1} of the answer was {was} and is {is_}: {recorded.text!r} was recorded, "
                f"{now.text!r} came"
            )
    if len(recorded.tokens) != len(now.tokens):
        return f"the answer had {len(recorded.tokens)} tokens and has {len(now.tokens)}: {now.text!r}"
    off = max(abs(was - is_) for was, is_ in zip(recorded.margins, now.margins, strict=True))
    if off > SLACK * recorded.tie:
        return f"the same words ({now.text!r}) with leads that differ by {off:.2g}: these are other weights"
    return ""


def write_record(store: Store, version: VersionInfo, smoke: Smoke, given: Answer) -> Record:
    """Put down the answer of a version, in place of one that is there."""
    made = Record(
        model=version.name,
        version=version.version,
        digest=version.digest,
        smoke=smoke,
        answer=given,
        versions=_versions(),
        time=_now(),
    )
    store.write(_key(version, "record"), made.model_dump_json(indent=1).encode())
    return made


def is_recorded(store: Store, version: VersionInfo) -> bool:
    """Whether there is a recorded answer, readable or not."""
    return store.stat(_key(version, "record")) is not None


def read_record(store: Store, version: VersionInfo) -> Record | None:
    """The recorded answer of a version; None if it was registered without a smoke test.

    Raises:
        DataInvalid: It is not readable, or of another artefact.
    """
    key = _key(version, "record")
    try:
        found = Record.model_validate_json(store.read(key))
    except ObjectMissing:
        return None
    except ValidationError as error:
        raise DataInvalid(
            f"{store.locate(key)}: no record of a smoke test: {error}; record it anew with `perennial smoke "
            f"{version.name} {version.version} --record`, once you know who changed it"
        ) from error
    if found.digest != version.digest:
        raise DataInvalid(
            f"{store.locate(key)} is of the artefact {found.digest}, and version {version.version} of "
            f"'{version.name}' is {version.digest}: somebody changed one of the two"
        )
    return found


def run(store: Store, version: VersionInfo, directory: Path, when: When) -> Outcome:
    """Load a version, have it answer, compare, and put down how it ended.

    Args:
        store: Holds the record.
        version: With a record.
        directory: Its verified files.
        when: Before or after the alias moves, or by hand.
    """
    recorded = read_record(store, version)
    if recorded is None:
        raise ConfigInvalid(f"version {version.version} of '{version.name}' has no recorded smoke test")
    try:
        differs = difference(recorded.answer, answer(directory, recorded.smoke))
    except PerennialError as error:
        differs = str(error)
    words = differs or f"loads and gives the recorded answer, {recorded.answer.text[:60]!r}"
    return write_outcome(store, version, when, not differs, words)


def write_outcome(store: Store, version: VersionInfo, when: When, passed: bool, words: str) -> Outcome:
    """Put down how a smoke test ended."""
    made = Outcome(digest=version.digest, when=when, passed=passed, words=words, time=_now())
    store.write(_key(version, "last"), made.model_dump_json(indent=1).encode())
    return made


def last(store: Store, version: VersionInfo) -> Outcome | None:
    """How the last smoke test of a version ended, None if there was none of this artefact."""
    try:
        found = Outcome.model_validate_json(store.read(_key(version, "last")))
    except (ObjectMissing, ValidationError):
        return None
    return found if found.digest == version.digest else None


def is_fresh(outcome: Outcome) -> bool:
    """Whether an outcome is new enough to stand for a test that cannot be run here."""
    age = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(outcome.time)
    return age <= FRESH


def _precision(directory: Path) -> Literal["fp32", "bf16", "fp16"]:
    config: dict[str, Any] = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    named = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    known: dict[str, Literal["bf16", "fp16"]] = {"bfloat16": "bf16", "float16": "fp16"}
    return known.get(named, "fp32")


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "transformers")}


def _key(version: VersionInfo, name: str) -> str:
    return f"smoke/{version.name}/{version.version}/{name}.json"


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
