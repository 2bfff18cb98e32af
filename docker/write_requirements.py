"""Writes the files of requirements/: every package of an image with its version and hashes.

torch and what only its build for CUDA brings are left out, since which build of it an image has is decided
when the image is built; constraints.txt pins their versions. DeepSpeed has a file of its own, as it is
compiled against torch.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docker" / "requirements"
BY_TORCH = re.compile(r"^(torch|triton|nvidia-[\w-]+|cuda-[\w-]+)==", re.MULTILINE)
HEADER = "# Made by `make image-requirements` from pyproject.toml and constraints.txt.\n"


def compiled(*arguments: str) -> str:
    """What uv says of a set of requirements for the images' Python."""
    command = [
        sys.executable,
        "-m",
        "uv",
        "pip",
        "compile",
        "--quiet",
        "--generate-hashes",
        "--no-annotate",
        "--no-header",
    ]
    platform = ["--python-version", "3.11", "--python-platform", "x86_64-manylinux_2_28"]
    constraints = ["--constraints", str(ROOT / "constraints.txt")]
    done = subprocess.run(
        [*command, *platform, *constraints, *arguments], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return done.stdout


def packages(text: str) -> dict[str, str]:
    """Each package's name and its lines."""
    entries = re.split(r"\n(?=[A-Za-z0-9])", text.strip())
    return {re.split(r"[=\[ ]", each, maxsplit=1)[0]: each for each in entries}


def write(name: str, found: dict[str, str]) -> None:
    """Write one file."""
    (FOLDER / f"{name}.txt").write_text(HEADER + "".join(f"{each}\n" for each in found.values()))


def main() -> None:
    """Write all four."""
    tasks = packages(compiled("pyproject.toml", "--extra", "tasks"))
    tasks = {name: entry for name, entry in tasks.items() if not BY_TORCH.match(entry)}
    write("deepspeed", {"deepspeed": tasks.pop("deepspeed")})
    write("tasks", tasks)
    write("orchestrator", packages(compiled("pyproject.toml", "--extra", "orchestrator")))
    with tempfile.TemporaryDirectory() as folder:
        wanted = Path(folder) / "build.in"
        wanted.write_text("setuptools\n")
        write("build", packages(compiled(str(wanted))))


if __name__ == "__main__":
    main()
