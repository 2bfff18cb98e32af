"""Exports: equal logits bit for bit, everything vLLM reads, GGUF where the converter is, a manifest."""

from __future__ import annotations

import json
import shutil
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.artefacts import Store, commit
from tasks.artefacts.artefact import describe
from tasks.recipe.failures import ConfigInvalid, DataInvalid
from tasks.release import signature
from tasks.release.cards import keep
from tasks.release.export import CARD, MANIFEST, Exported, check_vllm, export
from tasks.release.gguf import header
from tasks.tracking import registry
from tasks.tracking.registry import VersionInfo
from tasks.tracking.runs import RunFacts, open_parent
from tasks.tracking.sources import source_of

CARD_TEXT = "# pydocs 1.0.0\n"
Register = Callable[..., VersionInfo]


@pytest.fixture
def register(store: Store) -> Register:
    """Registers a model directory as a signed version with a card."""

    def make(directory: Path, *, card: bool = True, signed: bool = True) -> VersionInfo:
        run = open_parent(RunFacts("pydocs", "run-1", "pydocs", "file:///plan.json"))
        digest = commit(store, directory, kind="model", parents=[], producer="test", meta={}).digest
        tags = {
            "perennial.candidate": digest,
            "perennial.report": "r" * 8,
            "perennial.run": "run-1",
            "perennial.semantic_version": "1.0.0",
            "perennial.license": "Apache-2.0",
            **({"perennial.card": keep(store, CARD_TEXT)} if card else {}),
        }
        made = registry.register("pydocs", source_of(store, digest), run, tags)
        if signed:
            signature.sign(store, made, "test")
        return registry.version("pydocs", made.version)

    return make


def files(folder: Path) -> dict[str, str]:
    return {entry.path: entry.sha256 for entry in describe(folder)}


def test_a_hugging_face_folder_gives_the_same_logits_bit_for_bit(
    store: Store, register: Register, tiny_model_dir: Path, tmp_path: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    version = register(tiny_model_dir)
    done = export(store, version, "huggingface", tmp_path / "out", cache=tmp_path / "cache")
    there = files(tmp_path / "out")
    assert {name: there[name] for name in files(tiny_model_dir)} == files(tiny_model_dir)
    assert there.keys() - files(tiny_model_dir).keys() == {CARD, MANIFEST}
    ids = AutoTokenizer.from_pretrained(tmp_path / "out")("the value of a key", return_tensors="pt").input_ids
    logits = [
        AutoModelForCausalLM.from_pretrained(path)(ids).logits for path in (tiny_model_dir, tmp_path / "out")
    ]
    assert torch.equal(*logits)
    read = Exported.model_validate_json((tmp_path / "out" / MANIFEST).read_bytes())
    assert read == done
    assert (read.model, read.version, read.semantic_version, read.digest) == (
        "pydocs",
        "1",
        "1.0.0",
        version.digest,
    )
    assert (read.signed_by, read.license) == (version.tags["perennial.signed_by"], "Apache-2.0")
    assert {file.path: file.sha256 for file in read.files} == {
        n: s for n, s in there.items() if n != MANIFEST
    }


def test_what_may_not_be_handed_over_is_refused(
    store: Store, register: Register, tiny_model_dir: Path, tmp_path: Path
) -> None:
    def refused(version: VersionInfo, words: str, kind: type[Exception] = ConfigInvalid, **more: Any) -> None:
        out = more.pop("out", tmp_path / "out")
        with pytest.raises(kind, match=words):
            export(store, version, more.pop("to", "huggingface"), out, cache=tmp_path / "cache", **more)
        assert not (tmp_path / "out").exists()
        assert not list(tmp_path.glob(".out*"))

    version = register(tiny_model_dir, signed=False, card=False)
    refused(version, "is not signed")
    signature.sign(store, version, "test")
    version = registry.version("pydocs", version.version)
    refused(version, "has no model card")
    registry.tag_version("pydocs", version.version, {"perennial.card": keep(store, CARD_TEXT)})
    signature.sign(store, registry.version("pydocs", version.version), "test")
    version = registry.version("pydocs", version.version)
    refused(version, "is not empty", out=tiny_model_dir)
    refused(version, "choose among", outtype="q2")
    refused(version, "has no effect with --to huggingface", outtype="f16")
    registry.tag_version("pydocs", version.version, {"perennial.report": "another"})
    refused(registry.version("pydocs", version.version), "is not what was signed", DataInvalid)


def test_a_vllm_folder_has_all_that_vllm_reads(
    store: Store, register: Register, tiny_model_dir: Path, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer, GenerationConfig

    bare = shutil.copytree(tiny_model_dir, tmp_path / "bare")
    (bare / "generation_config.json").unlink()
    done = export(store, register(bare), "vllm", tmp_path / "out", cache=tmp_path / "cache")
    out = tmp_path / "out"
    config = json.loads((tiny_model_dir / "config.json").read_text())
    made = GenerationConfig.from_pretrained(out)
    assert (made.eos_token_id, made.bos_token_id) == (config["eos_token_id"], config["bos_token_id"])
    tokenizer = AutoTokenizer.from_pretrained(out)
    text = tokenizer.apply_chat_template([{"role": "user", "content": "hello"}], tokenize=False)
    assert "hello" in text
    assert done.serve == f"vllm serve {out} --served-model-name pydocs"
    assert {"config.json", "tokenizer.json", "generation_config.json", "model.safetensors"} <= files(
        out
    ).keys()


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda d: (d / "tokenizer_config.json").unlink(), "tokenizer_config.json is missing"),
        (lambda d: (d / "model.safetensors").unlink(), r"there is no \*.safetensors"),
        (
            lambda d: (d / "model.safetensors.index.json").write_text(
                '{"weight_map": {"a": "x.safetensors"}}'
            ),
            "x.safetensors, which model.safetensors.index.json names, is missing",
        ),
        (
            lambda d: (d / "generation_config.json").write_text('{"eos_token_id": [1, 9999]}'),
            "eos_token_id 9999 is no token of 300",
        ),
        (
            lambda d: (d / "chat_template.jinja").write_text("{{ raise_exception('no') }}"),
            "does not render: no",
        ),
        (lambda d: (d / "chat_template.jinja").write_text("hello"), "leaves the question out"),
    ],
)
def test_a_folder_that_vllm_could_not_serve_is_refused(
    break_it: Callable[[Path], Any], words: str, tiny_model_dir: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_model_dir, tmp_path / "model")
    check_vllm(folder)
    break_it(folder)
    with pytest.raises(DataInvalid, match=words):
        check_vllm(folder)


def test_a_model_without_a_chat_template_is_not_for_vllm(tiny_model_dir: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model_dir, tmp_path / "model")
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigInvalid, match=r"no chat template.*--to huggingface"):
        check_vllm(folder)


CONVERTER = """#!{python}
import struct, sys
from pathlib import Path
arguments = sys.argv[1:]
assert Path(arguments[0], "config.json").is_file()
out = Path(arguments[arguments.index("--outfile") + 1])
kind = arguments[arguments.index("--outtype") + 1]
if kind == "f16":
    print("NotImplementedError: BPE pre-tokenizer was not recognized", file=sys.stderr)
    raise SystemExit(1)
out.write_bytes(b"nothing" * 9 if kind == "q8_0" else struct.pack("<4sIQQ", b"GGUF", 3, 20, 30) + b"...")
"""


def test_gguf_goes_through_the_converter(
    store: Store, register: Register, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = register(tiny_model_dir)

    def to(name: str, **more: str) -> Exported:
        return export(store, version, "gguf", tmp_path / name, cache=tmp_path / "cache", **more)

    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(ConfigInvalid, match=r"needs llama.cpp's converter: put convert_hf_to_gguf.py"):
        to("out")
    monkeypatch.setenv("PERENNIAL_GGUF_CONVERTER", str(tmp_path / "none.py"))
    with pytest.raises(ConfigInvalid, match="which is no file"):
        to("out")
    script = tmp_path / "convert-hf-to-gguf"
    script.write_text(CONVERTER.format(python=sys.executable))
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PERENNIAL_GGUF_CONVERTER", str(script))
    done = to("out")
    assert {file.path for file in done.files} == {"model.gguf", CARD}
    assert done.serve == f"llama-server -m {tmp_path / 'out' / 'model.gguf'} --alias pydocs"
    assert header(tmp_path / "out" / "model.gguf") == {"version": 3, "tensors": 20, "entries": 30}
    with pytest.raises(ConfigInvalid, match=r"(?s)ByteLevel.*--to huggingface"):
        to("refused", outtype="f16")
    with pytest.raises(DataInvalid, match="wrote no GGUF file"):
        to("broken", outtype="q8_0")
    assert not (tmp_path / "refused").exists()
    assert not (tmp_path / "broken").exists()
