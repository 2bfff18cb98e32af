"""Ends with an error where DeepSpeed lacks an operation that a training would compile when it starts."""

import sys

from deepspeed.git_version_info import installed_ops

WANTED = {"0": ("cpu_adam", "fused_adam", "utils"), "1": ("cpu_adam", "deepspeed_shm_comm")}
"""CPU=0 or 1 -> the operations that must be there."""

missing = [name for name in WANTED[sys.argv[1]] if not installed_ops.get(name)]
if missing:
    sys.exit(f"DeepSpeed was built without {', '.join(missing)}; the log above says why")
print("DeepSpeed's operations:", ", ".join(name for name, there in installed_ops.items() if there))
