"""GGUF: the rule of our tokenizers, what a refusal says, and what llama.cpp's own converter makes of a model.

The real converter is that of PERENNIAL_GGUF_CONVERTER, or comes from the source distribution of
llama-cpp-python, which carries llama.cpp.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, pre_tokenizers

from tasks.recipe.failures import ConfigInvalid
from tasks.release.gguf import CONVERTER, PYTHON, convert, converter, lossless
from tasks.release.gguf_converter import GPT2, rule_of

SOURCE = "llama-cpp-python==0.3.36"
SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"

STAND_IN = """
import sys
class ModelBase: pass
class TextModel(ModelBase):
    dir_model = sys.argv[1]
    def get_vocab_base_pre(self, tokenizer):
        if KNOWN: return "llama-bpe"
        print("** chkhsh:  " + "ab" * 32, file=sys.stderr)
        raise NotImplementedError("BPE pre-tokenizer was not recognized")
def main():
    import struct
    rule = TextModel().get_vocab_base_pre(None).encode()
    head = struct.pack("<4sIQQ", b"GGUF", 3, 20, 30)
    open(sys.argv[sys.argv.index("--outfile") + 1], "wb").write(head + rule + "|".join(sys.argv).encode())
if __name__ == "__main__": main()
"""


def tokenizer_of(directory: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((directory / "tokenizer.json").read_text())
    return read


@pytest.mark.parametrize(
    "change",
    [
        {"normalizer": {"type": "NFC"}},
        {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "use_regex": True}},
        {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}},
        {"pre_tokenizer": {"type": "Whitespace"}},
        {"pre_tokenizer": None},
        {"model": {"type": "BPE", "ignore_merges": True}},
        {"model": {"type": "WordPiece"}},
    ],
)
def test_only_gpt2s_rule_is_called_gpt2(change: dict[str, Any], tiny_model_dir: Path) -> None:
    ours = tokenizer_of(tiny_model_dir)
    assert rule_of(ours) == GPT2
    assert rule_of({**ours, **change}) is None


def with_another_rule(model: Path, directory: Path) -> Path:
    """A model whose tokenizer splits numbers into digits, as GPT-2's rule does not."""
    directory.mkdir()
    for path in model.iterdir():
        (directory / path.name).write_bytes(path.read_bytes())
    changed = Tokenizer.from_file(str(model / "tokenizer.json"))
    changed.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r"\d"), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    changed.save(str(directory / "tokenizer.json"))
    return directory


def test_the_converter_is_told_the_rule_only_where_it_does_not_know_it(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, out = tmp_path / "convert_hf_to_gguf.py", tmp_path / "model.gguf"
    monkeypatch.setenv(CONVERTER, str(script))
    script.write_text(STAND_IN.replace("KNOWN", "False"))
    convert(tiny_model_dir, out, "pydocs", "auto")
    assert out.read_bytes()[24:].startswith(f"gpt-2{script}|{tiny_model_dir}|".encode())
    assert b"--outtype|f32" in out.read_bytes()  # the converter's own "auto" would be f16
    other = with_another_rule(tiny_model_dir, tmp_path / "other")
    with pytest.raises(
        ConfigInvalid, match=r'"Split".*under the hash (ab){32} to get_vocab_base_pre of .*py'
    ):
        convert(other, out, "pydocs", "auto")
    script.write_text(STAND_IN.replace("KNOWN", "True"))
    convert(other, out, "pydocs", "auto")
    assert out.read_bytes()[24:].startswith(b"llama-bpe")


def test_a_converter_that_lacks_a_package_names_it_and_the_python(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "convert_hf_to_gguf.py"
    script.write_text("import no_such_package.inside\n")
    monkeypatch.setenv(CONVERTER, str(script))
    with pytest.raises(
        ConfigInvalid, match=rf"'no_such_package', which {sys.executable} does not have.*{PYTHON}"
    ):
        convert(tiny_model_dir, tmp_path / "model.gguf", "pydocs", "auto")
    monkeypatch.setenv(PYTHON, "/no/such/python")
    with pytest.raises(ConfigInvalid, match=f"{PYTHON} names /no/such/python, which is no program"):
        converter()
    python = tmp_path / "python"
    python.symlink_to(sys.executable)
    monkeypatch.setenv(PYTHON, str(python))
    assert converter()[0] == str(python)
    assert converter()[-1] == str(script)


@pytest.mark.parametrize(
    ("held", "kind"),
    [
        (["float32"], "f32"),
        (["bfloat16"], "bf16"),
        (["float16"], "f16"),
        (["float16", "bfloat16"], "f32"),
        (["bfloat16", "float32"], "f32"),
    ],
)
def test_auto_loses_nothing(held: list[str], kind: str, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    for at, name in enumerate(held):
        tensors = {f"matrix{at}": torch.ones(2, 2, dtype=getattr(torch, name)), f"norm{at}": torch.ones(2)}
        save_file(tensors, tmp_path / f"model-{at}.safetensors", {"format": "pt"})
    assert lossless(tmp_path) == kind


# ---- llama.cpp's own converter


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """llama.cpp's converter; skips where it can neither be found nor fetched."""
    if named := os.environ.get(CONVERTER):
        return Path(named)
    folder = tmp_path_factory.mktemp("llama")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
    done = subprocess.run(
        [*pip, "--no-binary", "llama-cpp-python", SOURCE], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        pytest.skip(
            "llama.cpp's converter is missing, so no real GGUF file was made; name it by "
            f"{CONVERTER} (docs/handover.md), or let pip fetch {SOURCE}: {done.stderr.strip()[-300:]}"
        )
    (archive,) = folder.glob("*.tar.gz")
    assert hashlib.sha256(archive.read_bytes()).hexdigest() == SHA256
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    (found,) = folder.glob("*/vendor/llama.cpp/convert_hf_to_gguf.py")
    return found


@pytest.fixture
def llama(real: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The converter, set up, with the one package that it needs and we do not."""
    monkeypatch.setenv(CONVERTER, str(real))
    if importlib.util.find_spec("sentencepiece") is None and not os.environ.get(PYTHON):
        more = tmp_path_factory.getbasetemp() / "sentencepiece"
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(more)]
        if not more.exists() and subprocess.run([*pip, "sentencepiece"], check=False).returncode != 0:
            pytest.skip("the converter needs the package sentencepiece, so no real GGUF file was made")
        monkeypatch.setenv("PYTHONPATH", str(more), prepend=os.pathsep)
    if (real.parent / "gguf-py").is_dir():
        monkeypatch.syspath_prepend(real.parent / "gguf-py")
    pytest.importorskip("gguf", reason="pip install gguf: without it no GGUF file can be read")
    return real


def unpermuted(weights: Any, heads: int) -> Any:
    """Undo llama.cpp's order of the rows of q and k: the halves of each head interleaved."""
    rows, columns = weights.shape
    return weights.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""llama.cpp's name of a tensor -> transformers'."""


def in_transformers(name: str) -> str:
    parts = name.removesuffix(".weight").split(".")
    layer = f"model.layers.{parts[1]}." if parts[0] == "blk" else ""
    return f"{layer}{NAMES[parts[-1]]}.weight"


def written(model: Path, tmp_path: Path, dtype: str) -> Path:
    """The model in another precision."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out = tmp_path / dtype
    AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype)).save_pretrained(out)
    AutoTokenizer.from_pretrained(model).save_pretrained(out)
    return out


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "kind"), [("float32", "F32"), ("bfloat16", "BF16")])
def test_what_llama_cpp_converts_is_the_model_number_for_number(
    llama: Path, tiny_model_dir: Path, tmp_path: Path, dtype: str, kind: str
) -> None:
    import torch
    from safetensors.torch import load_file
    from transformers import AutoTokenizer

    gguf = importlib.import_module("gguf")
    model = written(tiny_model_dir, tmp_path, dtype)
    convert(model, tmp_path / "model.gguf", "pydocs", "auto")
    read = gguf.GGUFReader(tmp_path / "model.gguf")
    config = json.loads((model / "config.json").read_text())
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    ours = load_file(model / "model.safetensors")
    seen = set()
    for tensor in read.tensors:
        there = in_transformers(tensor.name)
        seen.add(there)
        matrix = len(tensor.shape) > 1
        assert tensor.tensor_type.name == (kind if matrix else "F32"), tensor.name
        values = gguf.dequantize(tensor.data, tensor.tensor_type)
        if (of := tensor.name.split(".")[-2]) in heads:
            values = unpermuted(values, heads[of])
        assert torch.equal(torch.tensor(values), ours[there].float()), tensor.name
    assert seen == set(ours)

    def field(name: str) -> Any:
        return read.fields[name].contents()

    tokenizer = AutoTokenizer.from_pretrained(model)
    assert field("tokenizer.ggml.pre") == GPT2
    assert field("tokenizer.ggml.tokens") == tokenizer.convert_ids_to_tokens(range(config["vocab_size"]))
    merges = [" ".join(pair) for pair in tokenizer_of(model)["model"]["merges"]]
    assert field("tokenizer.ggml.merges") == merges
    control = {at for at, kind in enumerate(field("tokenizer.ggml.token_type")) if kind == 3}
    assert control == set(tokenizer.all_special_ids)
    assert field("tokenizer.chat_template") == tokenizer.chat_template
    assert field("tokenizer.ggml.eos_token_id") == tokenizer.eos_token_id == config["eos_token_id"]
    assert field("tokenizer.ggml.bos_token_id") == tokenizer.bos_token_id
    assert field("tokenizer.ggml.padding_token_id") == tokenizer.pad_token_id
    assert field("general.name") == "pydocs"


@pytest.mark.slow
def test_llama_cpp_refuses_a_rule_that_it_does_not_know(
    llama: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    other = with_another_rule(tiny_model_dir, tmp_path / "other")
    with pytest.raises(ConfigInvalid, match=r'"Split".*under the hash [0-9a-f]{64} to get_vocab_base_pre'):
        convert(other, tmp_path / "model.gguf", "pydocs", "auto")
    assert not (tmp_path / "model.gguf").exists()


TEXTS = (
    "The value of a key isn't returned:  it's held by   the mapping.\n\n  We'll see 12345 names, 3.14!",
    "\n \n\n \n\n\n \t \t\t \t\n  \n   \n    \n     \n",
    "naïve café 東京 🦙🦙 ÅÅ ''''''```` I'M \u00a0x\u2009y\r\n\r\nend  ",
    "<|bos|><|user|>What changed?<|eos|><|assistant|>",
    "def f(x):\n    return x ** 2  # don't\n\tif x:\n\t\tpass\n",
)


@pytest.mark.slow
def test_llama_cpp_reads_and_answers_as_transformers_does(
    llama: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    """The same tokens of a text, and the same greedy continuation."""
    package = pytest.importorskip(
        "llama_cpp", reason="no model was run by llama.cpp: `pip install llama-cpp-python` builds it"
    )
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    convert(tiny_model_dir, tmp_path / "model.gguf", "pydocs", "auto")
    engine = package.Llama(
        str(tmp_path / "model.gguf"), n_ctx=256, n_threads=1, verbose=False, logits_all=True
    )
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    for text in TEXTS:
        ids = engine.tokenize(text.encode(), add_bos=False, special=True)
        assert ids == tokenizer(text)["input_ids"], text
    assert engine.token_eos() == tokenizer.eos_token_id
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    ids = tokenizer("The value of a key", return_tensors="pt").input_ids
    made = model.generate(ids, do_sample=False, max_new_tokens=24, pad_token_id=tokenizer.pad_token_id)
    expected = made[0].tolist()
    engine.eval(ids[0].tolist())
    logits = torch.tensor(engine.scores[: ids.shape[1]])
    assert torch.allclose(logits, model(ids).logits[0], atol=1e-3)
    answer = ids[0].tolist()
    for token in engine.generate(answer.copy(), temp=0.0, repeat_penalty=1.0, top_k=1):
        answer.append(token)
        if len(answer) == len(expected):
            break
    assert answer == expected
