"""What the claims about probes share: tiny models that are taught something, and a probe of them."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.evaluate import METHODS
from tasks.evaluate.probes.options import TuningOptions
from tasks.evaluate.probes.tuning import all_supervised, tune
from tasks.evaluate.scoring import load_subject
from tasks.recipe.models import Gate
from tasks.release.gates import judge
from tasks.release.records import Report
from tasks.stage import Input
from tasks.training.chats import render_chats
from tasks.training.models import load_model, save_model
from tests.conftest import WORDS, new_context

RESAMPLES: Mapping[str, dict[str, int]] = {"intruders": {}}
"""The probe without a sample has no resamples."""

ONE_THREAD = TuningOptions(threads=1, lr=5e-3, tuning_batch=16)


def short_texts(count: int, seed: int) -> list[str]:
    """Six random words each: nothing but having read them tells one from another."""
    draw = random.Random(f"short/{seed}")
    return [" ".join(draw.choice(WORDS) for _ in range(6)) + "." for _ in range(count)]


def taught(start: Path, to: Path, texts: Sequence[str], steps: int, lr: float = 5e-3) -> Path:
    """The model after so many steps on these texts."""
    item = Input("start", "d" * 64, "model", start)
    subject = load_subject(item, 256)
    end = [subject.tokenizer.eos_token_id]
    rows = [all_supervised([*subject.prefix, *subject.encode(text), *end]) for text in texts]
    options = ONE_THREAD.model_copy(update={"lr": lr})
    model = tune(new_context(to.with_name(f"{to.name}-work")), start, rows, steps, options)
    save_model(model, subject.tokenizer, to)
    return to


def taught_chats(
    start: Path, to: Path, chats: Sequence[Mapping[str, Any]], steps: int, lr: float = 5e-3
) -> Path:
    """The model after so many steps on these conversations."""
    _, tokenizer = load_model(start)
    rows = render_chats(chats, tokenizer, max_length=256, too_long="drop", turns="all").rows
    options = ONE_THREAD.model_copy(update={"lr": lr})
    model = tune(
        new_context(to.with_name(f"{to.name}-work")), start, [row for _, row in rows], steps, options
    )
    save_model(model, tokenizer, to)
    return to


def chat(question: str, answer: str, key: str = "") -> dict[str, Any]:
    return {
        "key": key or question,
        "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}],
    }


def probe(
    name: str, directory: Path, inputs: Mapping[str, Any], **options: Any
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Figure -> its entry, and the whole probe.json."""
    method = METHODS[name]
    context = new_context(directory, inputs, step=name)
    method.run(context, method.options.model_validate({**RESAMPLES.get(name, {"resamples": 200}), **options}))
    found = json.loads((context.output("probe") / "probe.json").read_text())
    assert {entry["name"] for entry in found["sets"]} == {name}
    return {entry["measure"]: entry for entry in found["sets"]}, found


def verdict(found: Mapping[str, Any], measure: str, **rule: Any) -> str:
    """How a gate on a figure of a probe ends."""
    report = Report.model_validate({"models": found["models"], "sets": found["sets"]})
    gate = Gate.model_validate({"gate": "gate", "measure": measure, "reason": "none", **rule})
    return judge([gate], report)[0].verdict


def value(entry: Mapping[str, Any], role: str = "model") -> float:
    return float(entry["values"][role]["value"])
