"""Completion-only fine-tuning on a tiny model: what it writes, what it refuses, whole and with LoRA."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from tasks.recipe.failures import ConfigInvalid, DataInvalid, Preempted
from tasks.sft import METHODS
from tasks.stage import Estimate, Result
from tasks.training.chats import ChatSamples, render_chats
from tasks.training.models import load_model, tokenizer_digest
from tasks.training.objectives.causal_lm import CAUSAL_LM

METHOD = METHODS["completion"]
ANSWERS = {"list": "is empty", "key": "is a number", "value": "is a string", "name": "is returned"}
CHATS: list[dict[str, Any]] = [
    {
        "key": f"{subject}-{index}",
        "messages": [
            {"role": "user", "content": "the " * index + subject},
            {"role": "assistant", "content": answer},
        ],
    }
    for index in range(1, 7)
    for subject, answer in ANSWERS.items()
]
FAST = {"lr": 5e-3, "epochs": 2.0, "batch_size": 2, "max_length": 64, "threads": 1, "checkpoint_every": 1000}


@pytest.fixture
def chats(write_rows):
    return write_rows("chats", CHATS)


def run(
    make_context: Callable[..., Any],
    model: Path,
    data: Path,
    directory: Path | None = None,
    **options: object,
) -> tuple[Any, Result]:
    context = make_context(
        {"model": ("model", model), "data": ("chats", data)}, step="tuned", directory=directory
    )
    return context, METHOD.run(context, METHOD.options.model_validate(FAST | options))


def answer_loss(model_directory: Path) -> float:
    """Mean loss of the answers of all conversations."""
    model, tokenizer = load_model(model_directory)
    rows = render_chats(CHATS, tokenizer, max_length=64, too_long="drop", turns="all").rows
    batch = ChatSamples([row for _, row in rows], 0).batch(range(len(rows)))
    with torch.no_grad():
        return float(CAUSAL_LM.loss(model, batch)[0]) / CAUSAL_LM.weight(batch)


def weights(directory: Path) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in load_model(directory)[0].state_dict().items()}


def test_the_answers_are_learnt_and_the_masks_reported(make_context, tiny_model_dir, chats):
    context, result = run(make_context, tiny_model_dir, chats)
    assert answer_loss(context.output("model")) < answer_loss(tiny_model_dir) - 0.5
    assert result.metrics["loss"] < result.metrics["first_loss"]
    report = json.loads((context.output("log") / "mask_report.json").read_text())
    assert (report["kept"], report["end_share"], report["max_length"]) == (24, 1.0, 64)
    assert report["supervised_per_row"].keys() == {chat["key"] for chat in CHATS}
    assert result.meta["model"]["tokenizer"] == tokenizer_digest(tiny_model_dir)
    log = (context.output("log") / "training.jsonl").read_text().splitlines()
    assert len(log) == result.meta["log"]["steps"]
    assert not list(context.output("model").glob("adapter*"))


@pytest.mark.slow
def test_a_stopped_training_goes_on_to_the_same_weights(make_context, tiny_model_dir, chats, tmp_path):
    straight, _ = run(
        make_context, tiny_model_dir, chats, tmp_path / "straight", trainable="lora", lora_rank=2
    )
    context = make_context(
        {"model": ("model", tiny_model_dir), "data": ("chats", chats)}, directory=tmp_path / "stopped"
    )
    context.stop_after = 2
    options = METHOD.options.model_validate(FAST | {"trainable": "lora", "lora_rank": 2})
    with pytest.raises(Preempted):
        METHOD.run(context, options)
    context.stop_after = None
    METHOD.run(context, options)
    one, two = weights(straight.output("model")), weights(context.output("model"))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    logs = [each.output("log").joinpath("training.jsonl").read_bytes() for each in (straight, context)]
    assert logs[0] == logs[1]


def test_lora_changes_linear_layers_only_and_gives_a_whole_model(make_context, tiny_model_dir, chats):
    context, _ = run(
        make_context, tiny_model_dir, chats, trainable="lora", lora_rank=4, lora_alpha=8.0, lora_dropout=0.1
    )
    before, after = weights(tiny_model_dir), weights(context.output("model"))
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if "proj" in name}
    assert answer_loss(context.output("model")) < answer_loss(tiny_model_dir)
    assert not list(context.output("model").glob("adapter*"))


def test_a_row_without_an_answer_is_named_before_training(make_context, tiny_model_dir, write_rows):
    data = write_rows(
        "bad", [*CHATS, {"key": "lonely", "messages": [{"role": "user", "content": "the list"}]}]
    )
    with pytest.raises(DataInvalid, match="row 'lonely'"):
        run(make_context, tiny_model_dir, data)


def test_answers_that_do_not_end_are_refused(make_context, tiny_model_dir, chats):
    with pytest.raises(DataInvalid, match="end token supervised"):
        run(make_context, tiny_model_dir, chats, max_length=11, too_long="truncate")


def test_a_model_without_chat_template_is_refused(make_context, tiny_model_dir, chats, tmp_path):
    bare = tmp_path / "bare"
    shutil.copytree(tiny_model_dir, bare)
    (bare / "chat_template.jinja").unlink()
    with pytest.raises(ConfigInvalid, match=r"step 'tuned'.*no chat template"):
        run(make_context, bare, chats)


def test_an_option_of_lora_without_lora_is_refused():
    with pytest.raises(ValidationError, match="lora_alpha has no effect while trainable is full"):
        METHOD.options.model_validate({"lora_alpha": 64.0})
    METHOD.options.model_validate({"trainable": "lora", "lora_alpha": 64.0})


def test_the_estimate_counts_tokens_steps_and_spares_lora_its_memory():
    model = {"parameters": 10**9, "hidden": 2048, "layers": 24, "vocab_size": 50_000}
    inputs: dict[str, list[Mapping[str, Any]]] = {
        "model": [model],
        "data": [{"rows": 1000, "characters": 350_000}],
    }

    def estimated(**options: object) -> Estimate:
        assert METHOD.estimate is not None
        return METHOD.estimate(METHOD.options.model_validate({"batch_size": 4} | options), inputs)

    whole, lora = estimated(epochs=3.0), estimated(epochs=3.0, trainable="lora")
    assert whole.tokens == lora.tokens == 3 * (100_000 + 6_000)
    assert whole.optimiser_steps == 78  # 104 packed samples of 1,024 tokens, three times, four a step
    assert whole.memory_bytes is not None
    assert lora.memory_bytes is not None
    assert whole.memory_bytes - lora.memory_bytes == 12 * 10**9
    assert whole.meta["model"] == model
    assert estimated(epochs=1.0, packing=False).optimiser_steps == 250


def test_two_changes_of_the_targets_are_refused():
    with pytest.raises(ValidationError, match="label_smoothing has no meaning with token_loss: dft"):
        METHOD.options.model_validate({"label_smoothing": 0.1, "token_loss": "dft"})


@pytest.mark.parametrize(
    ("options", "figure"),
    [({"label_smoothing": 0.1}, "nats"), ({"token_loss": "dft"}, "nats"), ({"neftune": 5.0}, "loss")],
)
def test_the_losses_of_fine_tuning_reach_the_training(
    options, figure, make_context, tiny_model_dir, chats, tmp_path
):
    logs = []
    for name, chosen in (("plain", {}), ("varied", options)):
        context, _ = run(make_context, tiny_model_dir, chats, tmp_path / name, **chosen)
        lines = (context.output("log") / "training.jsonl").read_text().splitlines()
        logs.append([json.loads(line) for line in lines])
    plain, varied = logs
    assert varied[0]["loss"] != plain[0]["loss"]
    if figure == "nats":  # the cross-entropy proper is logged beside, and starts where the plain loss does
        assert varied[0]["nats"] == pytest.approx(plain[0]["loss"], rel=1e-5)
    assert varied[-1][figure] < varied[0][figure] - 0.3


def test_chunks_change_nothing_but_memory(make_context, tiny_model_dir, chats, tmp_path):
    found = [
        weights(
            run(make_context, tiny_model_dir, chats, tmp_path / str(chunk), loss_chunk=chunk)[0].output(
                "model"
            )
        )
        for chunk in (0, 5)
    ]
    for name in found[0]:
        torch.testing.assert_close(found[0][name], found[1][name], rtol=0, atol=1e-4)
