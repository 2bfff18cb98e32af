"""Hand a version over: a folder in the form that another system reads, with its card and a manifest.

    huggingface   a plain Hugging Face model directory, file for file what was registered
    vllm          the same, checked for everything that vLLM reads: weights, tokenizer, a chat template that
                  renders, a generation config
    gguf          model.gguf, by llama.cpp's own converter

`perennial.json` in the folder says which version it is (model, number, semantic version, digest, who signed
it, report), and the size and sha256 of every file; README.md is the model card. Only a version with a good
signature is handed over. The folder appears whole or not at all.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from tasks.artefacts import Store, load_manifest
from tasks.artefacts.artefact import FileEntry, describe
from tasks.artefacts.files import disk_failure
from tasks.recipe.failures import ConfigInvalid, DataInvalid, Infrastructure
from tasks.release import gguf, signature
from tasks.release.cards import read_card
from tasks.release.whole import whole_model
from tasks.tracking.registry import VersionInfo

Format = Literal["huggingface", "gguf", "vllm"]
FORMATS: tuple[Format, ...] = ("huggingface", "gguf", "vllm")
MANIFEST = "perennial.json"
CARD = "README.md"


class Exported(BaseModel):
    """`perennial.json`: what was handed over.

    Attributes:
        to: The form.
        digest: Of the version's artefact.
        base: Digest of the model beside which an adapter was trained, where the version is one: it was
        merged. signed_by: Id of the key that signed the version; `signed_on`, when.
        card: The file with the model card.
        serve: The command that serves the folder, where the form is made for one.
        files: Every other file, with size and sha256.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    to: Format
    model: str
    version: str
    semantic_version: str
    digest: str
    base: str | None
    source: str
    report: str
    license: str
    signed_by: str
    signed_on: str
    created: str
    card: str
    serve: str
    files: list[FileEntry]


def export(
    store: Store, version: VersionInfo, to: Format, out: Path, *, cache: Path, outtype: str = "auto"
) -> Exported:
    """Write a version into a new folder.

    Args:
        store: Holds its artefact.
        version: As MLflow has it.
        to: The form.
        out: The folder; must not exist, or be empty.
        cache: For artefacts fetched from a remote store.
        outtype: What GGUF stores weights in.

    Raises:
        ConfigInvalid: It is not signed, the folder is taken, the form lacks something (a chat template, the
            converter), or the version has no card.
        DataInvalid: The version is not what was signed, or what was written is not right.
        Infrastructure: The store, MLflow or the disk failed.
    """
    if outtype not in gguf.OUTTYPES:
        raise ConfigInvalid(f"--outtype {outtype}: choose among {', '.join(gguf.OUTTYPES)}")
    if outtype != "auto" and to != "gguf":
        raise ConfigInvalid(f"--outtype has no effect with --to {to}; leave it out, or write --to gguf")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigInvalid(f"{out} exists and is not empty; name a new folder")
    signed = signature.verify(store, version)
    card, manifest = read_card(store, version), load_manifest(store, version.digest)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as scratch:
        whole = whole_model(store, version.digest, cache=cache, scratch=Path(scratch) / "whole")
        folder = Path(scratch) / "export"
        folder.mkdir()
        serve = WRITERS[to](whole, folder, version, outtype)
        (folder / CARD).write_text(card, encoding="utf-8")
        done = Exported(
            to=to,
            model=version.name,
            version=version.version,
            semantic_version=version.semantic,
            digest=version.digest,
            base=manifest.meta.get("base") if manifest.kind == "adapter" else None,
            source=version.source,
            report=version.tags.get("perennial.report", ""),
            license=version.tags.get("perennial.license", ""),
            signed_by=signed.key,
            signed_on=signed.statement.time,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            card=CARD,
            serve=serve.replace(str(folder), str(out)),
            files=list(describe(folder)),
        )
        (folder / MANIFEST).write_text(done.model_dump_json(indent=1) + "\n", encoding="utf-8")
        try:
            if out.exists():
                out.rmdir()
            folder.rename(out)
        except OSError as error:
            raise disk_failure(error, f"exporting to {out}", out.parent, 0) from error
    return done


def write_huggingface(whole: Path, folder: Path, version: VersionInfo, outtype: str) -> str:
    """Copy a model directory file for file; nothing serves it in particular, so ""."""
    _copy(whole, folder)
    return ""


def write_vllm(whole: Path, folder: Path, version: VersionInfo, outtype: str) -> str:
    """Copy a model directory, add a generation config where it has none, and check what vLLM reads of it.

    Returns:
        The command that serves it.

    Raises:
        ConfigInvalid: It has no chat template.
        DataInvalid: A file that vLLM reads is missing or does not fit the others, or the template fails.
    """
    _copy(whole, folder)
    if not (folder / "generation_config.json").is_file():
        _write_generation_config(folder)
    check_vllm(folder)
    code = " --trust-remote-code" if any(folder.glob("*.py")) else ""
    return f"vllm serve {folder} --served-model-name {version.name}{code}"


def check_vllm(folder: Path) -> None:
    """Every file that vLLM reads is there and fits the others, and the chat template renders.

    Raises:
        ConfigInvalid: The tokenizer has no chat template.
        DataInvalid: Something is missing or does not fit; the message lists all of it.
    """
    faults = [
        f"{name} is missing"
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json")
        if not (folder / name).is_file()
    ]
    if faults:
        raise DataInvalid(f"not fit for vLLM: {'; '.join(faults)}")
    config = _json(folder / "config.json")
    if not config.get("architectures"):
        faults.append("config.json names no architecture")
    faults += _weights_faults(folder)
    faults += _token_faults(folder, config)
    if faults:
        raise DataInvalid(f"not fit for vLLM: {'; '.join(faults)}")
    _render(folder)


def write_gguf(whole: Path, folder: Path, version: VersionInfo, outtype: str) -> str:
    """Convert a model directory with llama.cpp's converter.

    Returns:
        The command that serves it.
    """
    gguf.convert(whole, folder / "model.gguf", version.name, outtype)
    return f"llama-server -m {folder / 'model.gguf'} --alias {version.name}"


WRITERS: Mapping[Format, Callable[[Path, Path, VersionInfo, str], str]] = {
    "huggingface": write_huggingface,
    "gguf": write_gguf,
    "vllm": write_vllm,
}
"""Form -> fills a folder from a model directory; gives the command that serves it, or ""."""


def _copy(whole: Path, folder: Path) -> None:
    """Copy the files of a model directory, and check that they are the same ones."""
    needed = sum(path.stat().st_size for path in whole.rglob("*") if path.is_file())
    try:
        for path in sorted(whole.rglob("*")):
            if path.is_file():
                target = folder / path.relative_to(whole)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)
    except OSError as error:
        raise disk_failure(error, "the export", folder, needed) from error
    if describe(whole) != describe(folder):
        raise Infrastructure(f"{folder}: the copy is not what was copied; the disk may be faulty")


def _write_generation_config(folder: Path) -> None:
    from transformers import AutoConfig, GenerationConfig

    config = AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    GenerationConfig.from_model_config(config).save_pretrained(str(folder))


def _weights_faults(folder: Path) -> list[str]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        named = set(_json(index).get("weight_map", {}).values())
        gone = [name for name in sorted(named) if not (folder / name).is_file()]
        return [f"{name}, which {index.name} names, is missing" for name in gone]
    return [] if any(folder.glob("*.safetensors")) else ["there is no *.safetensors file"]


def _token_faults(folder: Path, config: Mapping[str, Any]) -> list[str]:
    """The tokens that end an answer must be tokens of the model."""
    rows = int(config.get("vocab_size", 0))
    generation = _json(folder / "generation_config.json")
    faults = []
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        held = generation.get(name)
        for token in held if isinstance(held, list) else [held]:
            if token is not None and rows and not 0 <= int(token) < rows:
                faults.append(f"generation_config.json: {name} {token} is no token of {rows}")
    return faults


def _render(folder: Path) -> None:
    from jinja2 import TemplateError
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    if not tokenizer.chat_template:
        raise ConfigInvalid(
            "the model has no chat template, without which vLLM answers no conversation; release a model "
            "that was fine-tuned on conversations, or export it --to huggingface, which vLLM completes texts "
            "with"
        )
    question = "What changed?"
    try:
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
        )
    except (TemplateError, ValueError, TypeError) as error:
        raise DataInvalid(f"not fit for vLLM: the chat template does not render: {error}") from error
    if question not in text:
        raise DataInvalid(f"not fit for vLLM: the chat template leaves the question out: {text!r}")


def _json(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataInvalid(f"{path.name} is no JSON: {error}") from error
    return found
