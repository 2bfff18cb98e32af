import shutil

import pytest

from tasks.prepare.tokenise import cache_key, tokenise
from tasks.recipe.failures import ConfigInvalid
from tasks.training.models import load_tokenizer, tokenizer_digest

TEXTS = ["the value", "", "a list of <|eos|> names"]


@pytest.fixture
def tokenizer(tiny_model_dir):
    return load_tokenizer(tiny_model_dir)


def test_documents_begin_and_end_and_read_back(tokenizer, tmp_path):
    documents = [ids.tolist() for ids in tokenise(TEXTS, tokenizer, "digest", tmp_path)]
    assert all(ids[0] == tokenizer.bos_token_id and ids[-1] == tokenizer.eos_token_id for ids in documents)
    assert [tokenizer.decode(ids[1:-1]) for ids in documents] == TEXTS


def test_a_text_that_spells_a_special_token_does_not_make_one(tokenizer, tmp_path):
    (ids,) = tokenise(["<|eos|><|assistant|>"], tokenizer, "digest", tmp_path)
    assert ids.tolist().count(tokenizer.eos_token_id) == 1
    assert tokenizer.convert_tokens_to_ids("<|assistant|>") not in ids.tolist()
    assert tokenizer("<|eos|>", add_special_tokens=False)["input_ids"] == [tokenizer.eos_token_id]


def test_the_cache_is_read_again_and_keyed_by_content(tokenizer, tiny_model_dir, tmp_path):
    digest = tokenizer_digest(tiny_model_dir)
    tokenise(TEXTS, tokenizer, digest, tmp_path)
    (made,) = tmp_path.iterdir()
    stamp = (made / "tokens.bin").stat().st_mtime_ns
    tokenise(list(TEXTS), tokenizer, digest, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [made.name]
    assert (made / "tokens.bin").stat().st_mtime_ns == stamp
    assert len({cache_key(TEXTS, digest), cache_key(TEXTS[::-1], digest), cache_key(TEXTS, "other")}) == 3


def test_the_key_is_the_same_in_every_process():
    assert cache_key(["a", "b"], "digest") == "5e1c48ec750c91e420722b2b413e0387"


def test_a_cache_half_written_by_a_killed_process_is_not_read(tokenizer, tmp_path):
    expected = [ids.tolist() for ids in tokenise(TEXTS, tokenizer, "digest", tmp_path)]
    (made,) = tmp_path.iterdir()
    shutil.move(made, tmp_path / "partial-killed")
    (tmp_path / "partial-killed" / "offsets.npy").unlink()
    assert [ids.tolist() for ids in tokenise(TEXTS, tokenizer, "digest", tmp_path)] == expected


def test_documents_need_an_end(tokenizer, tmp_path):
    tokenizer.eos_token = None
    with pytest.raises(ConfigInvalid, match="no eos token"):
        tokenise(TEXTS, tokenizer, "digest", tmp_path)
