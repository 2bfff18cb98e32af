"""Short trainings inside a probe: the trainer's own, and nothing left of them."""

from __future__ import annotations

import copy

import pytest
import torch

from tasks.evaluate.methods.tunability import TunabilityOptions, add_noise
from tasks.evaluate.probes.options import TuningOptions
from tasks.evaluate.probes.tuning import chat_rows, document_rows, tune
from tasks.evaluate.scoring import load_subject
from tasks.recipe.failures import DataInvalid, Preempted
from tasks.sft import METHODS
from tasks.stage import Input
from tasks.training.models import load_model
from tests.conftest import tiny_texts

OPTIONS = TuningOptions(threads=1, lr=1e-3, tuning_batch=4)
CHATS = [
    {
        "key": str(i),
        "messages": [{"role": "user", "content": text[:40]}, {"role": "assistant", "content": "a list"}],
    }
    for i, text in enumerate(tiny_texts(16))
]


@pytest.fixture
def chats(write_rows):
    return Input("data.chats", "c" * 64, "chats", write_rows("chats", CHATS))


@pytest.fixture
def subject(tiny_model_dir):
    return load_subject(Input("model", "m" * 64, "model", tiny_model_dir), 256)


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_it_trains_as_the_stage_does_and_leaves_nothing(
    make_context, tiny_model_dir, subject, chats, tmp_path
):
    context = make_context({}, directory=tmp_path / "probe")
    rows = chat_rows(chats, subject.tokenizer, 256, 100, "here")
    assert len(rows) == 16
    tuned = tune(context, tiny_model_dir, rows, 6, OPTIONS)

    method = METHODS["completion"]
    stage = make_context({"model": ("model", tiny_model_dir), "data": chats}, directory=tmp_path / "stage")
    given = {"lr": 1e-3, "batch_size": 4, "epochs": 1.5, "packing": False, "threads": 1, "max_length": 256}
    method.run(stage, method.options.model_validate(given))
    theirs, _ = load_model(stage.output("model"))
    ours = weights(tuned)
    for name, value in theirs.state_dict().items():
        assert torch.equal(ours[name], value), name
    assert any(not torch.equal(ours[name], value) for name, value in subject.model.state_dict().items())
    assert list(context.work.iterdir()) == []
    assert context.checkpoints.newest() is None
    assert context.points == context.notes == []


def test_a_step_that_is_to_stop_stops(make_context, tiny_model_dir, subject, chats):
    context = make_context({})
    context.stop_after = 1
    rows = chat_rows(chats, subject.tokenizer, 256, 100, "here")
    with pytest.raises(Preempted):
        tune(context, tiny_model_dir, rows, 6, OPTIONS)


def test_documents_are_cut_into_windows(subject, write_rows):
    long = " ".join(tiny_texts(30))
    item = Input("data.d", "d" * 64, "documents", write_rows("d", [{"key": "a", "text": long}]))
    rows = document_rows(item, subject, 100)
    assert [token for row in rows for token in row.input_ids] == [*subject.prefix, *subject.encode(long)]
    assert max(len(row.input_ids) for row in rows) == subject.window
    assert all(all(row.mask) for row in rows)
    assert len(document_rows(item, subject, 2)) == 2
    empty = Input("data.e", "e" * 64, "documents", write_rows("e", [{"key": "a", "text": ""}]))
    with pytest.raises(DataInvalid, match=r"'data\.e' has no text"):
        document_rows(empty, subject, 2)


def test_noise_is_in_proportion_to_each_matrix_and_spares_norms(subject):
    noisy, again = copy.deepcopy(subject.model), copy.deepcopy(subject.model)
    add_noise(noisy, 0.1, 5)
    add_noise(again, 0.1, 5)
    for name, old in subject.model.named_parameters():
        new = noisy.get_parameter(name)
        assert torch.equal(new, again.get_parameter(name))
        if old.dim() < 2:
            assert torch.equal(new, old)
        else:
            share = float(((new - old).square().mean() / old.square().mean()).sqrt().detach())
            assert share == pytest.approx(0.1, rel=0.1), name
    other = copy.deepcopy(subject.model)
    add_noise(other, 0.1, 6)
    assert not torch.equal(other.get_input_embeddings().weight, noisy.get_input_embeddings().weight)


@pytest.mark.parametrize("noise", [[0.0], [0.1, 0.1], [-1.0]])
def test_noise_of_no_size_is_refused(noise):
    with pytest.raises(ValueError, match="different sizes above 0"):
        TunabilityOptions(noise=noise)
