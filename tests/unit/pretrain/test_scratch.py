import pytest

from tasks.pretrain.methods.scratch import ScratchOptions, estimate, run
from tasks.pretrain.tokenizer import SPECIAL_TOKENS
from tasks.recipe.failures import ConfigInvalid
from tasks.training.models import load_model, load_tokenizer

SMALL = {"vocab_size": 300, "hidden": 32, "layers": 2, "heads": 4, "intermediate": 64, "positions": 64}
TEXTS = [f"the value of object {n} is returned when the function is called" for n in range(40)]


@pytest.fixture
def documents(write_rows):
    return {
        "documents": (
            "documents",
            write_rows("general", [{"key": str(n), "text": t} for n, t in enumerate(TEXTS)]),
        )
    }


def test_the_model_has_the_sizes_asked_for_and_the_estimate_knew(documents, make_context):
    context = make_context(documents)
    result = run(context, ScratchOptions(**SMALL, kv_heads=2))
    meta = dict(result.meta["model"])
    guessed = dict(estimate(ScratchOptions(**SMALL, kv_heads=2), {}).meta["model"])
    assert meta["parameters"] == guessed["parameters"]
    assert {k: meta[k] for k in guessed if k != "bytes"} == {k: guessed[k] for k in guessed if k != "bytes"}
    model, _ = load_model(context.output("model"))
    assert model.config.tie_word_embeddings
    assert (model.config.bos_token_id, model.config.eos_token_id, model.config.pad_token_id) == (0, 1, 2)


def test_untied_embeddings_are_counted(documents, make_context):
    options = ScratchOptions(**SMALL, tie_embeddings=False)
    result = run(make_context(documents), options)
    assert result.meta["model"]["parameters"] == estimate(options, {}).meta["model"]["parameters"]


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(documents, make_context, tmp_path):
    written = []
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        context = make_context(documents, directory=tmp_path / name, seed=seed)
        run(context, ScratchOptions(**SMALL))
        written.append({file.name: file.read_bytes() for file in context.output("model").iterdir()})
    assert written[0] == written[1]
    assert written[0]["model.safetensors"] != written[2]["model.safetensors"]
    assert written[0]["tokenizer.json"] == written[2]["tokenizer.json"]


def test_the_tokenizer_reads_back_any_text_and_renders_chats(documents, make_context):
    context = make_context(documents)
    run(context, ScratchOptions(**SMALL))
    tokenizer = load_tokenizer(context.output("model"))
    text = "the value \n\t ünïcode 🙂  two  spaces"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer.convert_ids_to_tokens(list(range(6))) == list(SPECIAL_TOKENS)
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]
    assert (
        tokenizer.apply_chat_template(messages, tokenize=False)
        == "<|bos|><|user|>hi<|eos|><|assistant|>yo<|eos|>"
    )
    assert tokenizer.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True).endswith(
        "<|eos|><|assistant|>"
    )


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"heads": 5}, "even multiple of heads"),
        ({"kv_heads": 3}, "multiple of kv_heads"),
        ({"vocab_size": 30000}, "gives only"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(change, what, documents, make_context):
    with pytest.raises(ConfigInvalid, match=what):
        run(make_context(documents), ScratchOptions(**{**SMALL, **change}))


def test_the_defaults_make_the_demo_model():
    assert estimate(ScratchOptions(), {}).meta["model"]["parameters"] == 2_557_632
