"""A model as GGUF, by llama.cpp's own converter.

That is `convert_hf_to_gguf.py` of a llama.cpp checkout, on PATH or named by PERENNIAL_GGUF_CONVERTER. It is a
program of its own with its own requirements, so it is not among ours; PERENNIAL_GGUF_PYTHON names the Python
that has them, if it is not this one.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

from tasks.recipe.failures import ConfigInvalid, DataInvalid, Infrastructure

OUTTYPES = ("auto", "f32", "f16", "bf16", "q8_0")
"""What the converter can store weights in; `auto` is what loses nothing of the model's own."""

CONVERTER = "PERENNIAL_GGUF_CONVERTER"
PYTHON = "PERENNIAL_GGUF_PYTHON"
HELPER = Path(__file__).with_name("gguf_converter.py")
REQUIREMENTS = "requirements/requirements-convert_hf_to_gguf.txt"
"""What the converter needs, in llama.cpp's checkout."""
CONVERTERS = ("convert_hf_to_gguf.py", "convert-hf-to-gguf")
"""What it is called on PATH."""

CONVERSION_S = 6 * 3600


def convert(whole: Path, target: Path, name: str, outtype: str) -> None:
    """Convert a model directory with llama.cpp's converter, and check the file's header.

    The converter's own `auto` halves a model in 32 bits; ours does not.

    Raises:
        ConfigInvalid: There is no converter, it lacks a package, or it does not know the model's architecture
            or tokenizer.
        DataInvalid: What it wrote is no GGUF file.
        Infrastructure: It took too long.
    """
    command = converter()
    if any(whole.glob("*.py")):
        raise ConfigInvalid(
            "the model brings code of its own, which llama.cpp does not run; export it --to huggingface"
        )
    kind = lossless(whole) if outtype == "auto" else outtype
    arguments = [str(whole), "--outfile", str(target), "--outtype", kind, "--model-name", name]
    try:
        done = subprocess.run(
            [*command, *arguments],
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=CONVERSION_S,
        )
    except subprocess.TimeoutExpired as error:
        raise Infrastructure(f"{command[-1]} was still at work after {CONVERSION_S // 3600} hours") from error
    except OSError as error:
        raise ConfigInvalid(f"the converter {command[-1]} cannot be run: {error}") from error
    if done.returncode != 0:
        raise ConfigInvalid(refusal(command, whole, done.returncode, done.stderr or done.stdout))
    header(target)


def lossless(whole: Path) -> str:
    """What GGUF must store the weights in to lose nothing: f32, f16 or bf16.

    Vectors do not count: the converter keeps them in 32 bits whatever the rest is in.
    """
    found = set()
    for path in whole.glob("*.safetensors"):
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            tensors: dict[str, Any] = json.loads(file.read(length))
        found |= {each["dtype"] for each in tensors.values() if len(each.get("shape", ())) > 1}
    return {("F16",): "f16", ("BF16",): "bf16"}.get(tuple(found), "f32")


def converter() -> list[str]:
    """The command that converts: as named by PERENNIAL_GGUF_CONVERTER, or from PATH.

    A Python file runs under PERENNIAL_GGUF_PYTHON, or under this Python, through gguf_converter.py, which
    tells it how our own tokenizers split text; any other program runs as it is.

    Raises:
        ConfigInvalid: There is none, or no such Python.
    """
    named = os.environ.get(CONVERTER, "")
    if named:
        found: str | None = named if Path(named).is_file() else None
        if found is None:
            raise ConfigInvalid(f"{CONVERTER} names {named}, which is no file")
    else:
        found = next(filter(None, map(shutil.which, CONVERTERS)), None)
    if found is None:
        raise ConfigInvalid(
            f"--to gguf needs llama.cpp's converter: put {CONVERTERS[0]} of a llama.cpp checkout on PATH, or "
            f"name it by {CONVERTER}; docs/handover.md says where to get it and what it needs"
        )
    if not found.endswith(".py"):
        return [found]
    python = os.environ.get(PYTHON) or sys.executable
    if shutil.which(python) is None:
        raise ConfigInvalid(f"{PYTHON} names {python}, which is no program")
    return [python, str(HELPER), found]


def refusal(command: list[str], whole: Path, code: int, output: str) -> str:
    """Why the converter converted nothing, and what to do."""
    lines = [line for line in output.strip().splitlines() if line.strip()]
    last = lines[-1] if lines else ""
    if lacks := re.search(r"No module named '([\w.]+)'", last):
        package = lacks[1].partition(".")[0]
        return (
            f"llama.cpp's converter needs the Python package '{package}', which {command[0]} does not have: "
            f"install it there, or name by {PYTHON} a Python with the packages of llama.cpp's {REQUIREMENTS}"
        )
    if "pre-tokenizer was not recognized" in last:
        known = re.search(r"chkhsh:\s+([0-9a-f]{64})", output)
        rule = json.loads((whole / "tokenizer.json").read_text(encoding="utf-8")).get("pre_tokenizer")
        return (
            "llama.cpp does not know how this tokenizer splits text (tokenizer.json, pre_tokenizer: "
            f"{json.dumps(rule)[:300]}). Of the tokenizers that it has not seen, only those are converted "
            "that split by GPT-2's rule, as pretrain/scratch trains them. If llama.cpp has one that splits "
            f"alike, add it under the hash {known[1] if known else 'chkhsh'} to get_vocab_base_pre of "
            f"{command[-1]} (conversion/base.py beside it); else export the model --to huggingface"
        )
    end = "\n".join(lines[-8:])
    return (
        f"{command[-1]} ended with {code}. It converts the architectures and tokenizers that llama.cpp "
        f"knows; its last words:\n{end}"
    )


def header(path: Path) -> dict[str, int]:
    """Version, tensors and metadata entries of a GGUF file (github.com/ggml-org/ggml, docs/gguf.md).

    Raises:
        DataInvalid: It is none, or it holds nothing.
    """
    try:
        with path.open("rb") as file:
            magic, version, tensors, entries = struct.unpack("<4sIQQ", file.read(24))
    except (OSError, struct.error) as error:
        raise DataInvalid(f"{path.name}: the converter wrote no GGUF file: {error}") from error
    if magic != b"GGUF" or version < 2 or not tensors or not entries:
        raise DataInvalid(
            f"{path.name}: the converter wrote no GGUF file with tensors ({magic!r}, {version})"
        )
    return {"version": version, "tensors": tensors, "entries": entries}
