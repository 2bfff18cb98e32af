"""The trainer's image, built for the CPU: it has DeepSpeed's operations and compiles nothing at a start."""

from __future__ import annotations

from tests.containers import tools

LOAD = """
import os, shutil
os.environ["PATH"] = "/opt/venv/bin"
assert shutil.which("g++") is None
import torch
from deepspeed.git_version_info import installed_ops
from deepspeed.ops.adam import DeepSpeedCPUAdam
from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder
weight = torch.nn.Parameter(torch.ones(4))
weight.grad = torch.ones(4)
DeepSpeedCPUAdam([weight], lr=0.1).step()
ShareMemCommBuilder().load()
print("moved", bool((weight < 1).all()), sorted(name for name, there in installed_ops.items() if there))
"""


def test_deepspeeds_operations_load_without_a_compiler(trainer_image: str) -> None:
    told = tools.podman(
        *("run", "--rm", "--network", "none", *tools.RESTRICTED, "--volume", "perennial-test-ops:/scratch"),
        *("--entrypoint", "python", trainer_image, "-c", LOAD),
    )
    assert told.splitlines()[-1] == "moved True ['cpu_adam', 'deepspeed_shm_comm']"
