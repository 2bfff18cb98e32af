"""A short training of a model under judgement, by the trainer that every training step uses.

It leaves nothing in the store: its checkpoints are not published and its folder is removed. A probe that is
killed begins anew.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tasks.evaluate.probes.options import TuningOptions
from tasks.evaluate.scoring import Subject
from tasks.recipe.failures import DataInvalid
from tasks.stage import Checkpoints, Input, StepContext
from tasks.training.chats import ChatSamples, render_chats
from tasks.training.documents import read_documents
from tasks.training.fit import fit
from tasks.training.models import load_model
from tasks.training.objectives.causal_lm import CAUSAL_LM
from tasks.training.options import TrainOptions
from tasks.training.render import Rendered, require_template
from tasks.training.rows import fill_token, read_rows

WARMUP = 0.03
"""Share of a short training in which the rate rises; that of the stage sft."""


class _Unpublished:
    """Checkpoints that are kept nowhere."""

    def save(self, directory: Path, position: int, keep: Sequence[int] = ()) -> None:
        """Publishes nothing."""

    def newest(self) -> tuple[Path, int] | None:
        """There is none."""
        return None

    def recorded(self) -> int:
        """Nothing was."""
        return 0


@dataclass
class _Aside:
    """The context of a training inside a probe: its own folder, no curves, the step's wish to stop."""

    step: str
    seed: int
    work: Path
    cache: Path
    stopping: Callable[[], bool]
    inputs: Mapping[str, list[Input]] = field(default_factory=dict)
    checkpoints: Checkpoints = field(default_factory=_Unpublished)
    fresh: bool = True

    def output(self, name: str) -> Path:
        """A folder beside the training's own."""
        path = self.work / "outputs" / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def recall(self, key: str) -> Path | None:
        """Nothing is kept."""
        return None

    def remember(self, key: str, path: Path) -> None:
        """Nothing is kept."""

    def metric(self, name: str, value: float, step: int) -> None:
        """The probe's figures are what counts, not the curve of its training."""

    def progress(self, done: float, figure: str = "") -> None:
        """The probe says how far it is."""

    def note(self, text: str) -> None:
        """What the trainer says of its data and memory is about no training of the recipe."""


def tune(
    context: StepContext,
    start: Path,
    rows: Sequence[Rendered],
    steps: int,
    options: TuningOptions,
    *,
    repeat: int = 0,
) -> PreTrainedModel:
    """A copy of a model after a short full fine-tuning with a cosine schedule.

    Args:
        context: The probe's context.
        start: The model's directory.
        rows: What to train on, one a sample.
        steps: Optimiser steps.
        options: Rate, samples a step, threads.
        repeat: Added to the step's seed: a training with other dropout and another order of the rows.

    Returns:
        The tuned model, on the CPU.

    Raises:
        What the trainer raises (Diverged where the rate is too high, Preempted where the step is to stop).
    """
    model, tokenizer = load_model(start)
    batch = min(options.tuning_batch, len(rows))
    work = context.work / "tuning"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    tuned, _ = fit(
        _Aside(context.step, context.seed + repeat, work, context.cache, context.stopping),
        start,
        model,
        ChatSamples(rows, fill_token(tokenizer)),
        CAUSAL_LM,
        TrainOptions(
            lr=options.lr,
            epochs=steps * batch / len(rows),
            batch_size=batch,
            warmup=WARMUP,
            weight_decay=0.0,
            checkpoint_every=steps + 1,
            threads=options.threads,
        ),
        log_path=work / "training.jsonl",
    )
    shutil.rmtree(work)
    return tuned.to("cpu").eval()


def chat_rows(
    item: Input, tokenizer: PreTrainedTokenizerBase, max_length: int, rows: int, where: str
) -> list[Rendered]:
    """The first conversations of a set that fit, as training samples; their answers are supervised.

    Args:
        item: A set of chats.
        tokenizer: The model's.
        max_length: Longest conversation in tokens; longer ones are left out.
        rows: Most conversations.
        where: The step and the model, for messages.

    Raises:
        ConfigInvalid: The tokenizer has no chat template.
        DataInvalid: A conversation cannot be rendered, or none fits.
    """
    require_template(tokenizer, where)
    chats = render_chats(read_rows(item.path), tokenizer, max_length=max_length, too_long="drop", turns="all")
    return [row for _, row in chats.rows][:rows]


def document_rows(item: Input, subject: Subject, rows: int) -> list[Rendered]:
    """The first windows of a set's documents as training samples; every token is supervised.

    Args:
        item: A set of documents.
        subject: The model; its window is the longest sample.
        rows: Most samples.

    Raises:
        DataInvalid: There is no document of two tokens or more.
    """
    found: list[Rendered] = []
    for _, text in read_documents(item.path):
        ids = [*subject.prefix, *subject.encode(text)]
        for begin in range(0, len(ids), subject.window):
            piece = ids[begin : begin + subject.window]
            if len(piece) > 1:
                found.append(all_supervised(piece))
        if len(found) >= rows:
            break
    if not found:
        raise DataInvalid(f"set '{item.ref}' has no text to train on")
    return found[:rows]


def all_supervised(ids: Sequence[int]) -> Rendered:
    """A row of which every token is learnt."""
    return Rendered(list(ids), [True] * len(ids), 1, 1)
