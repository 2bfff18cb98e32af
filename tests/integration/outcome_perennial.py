"""fake_perennial.py, which also answers `outcome`: done once the step's record lies in the store."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from tests.integration import fake_perennial


def outcome(plan: str, step: str) -> str:
    store = Path(os.environ["PERENNIAL_STORE"].removeprefix("file://"))
    run = plan.rpartition("/runs/")[2].removesuffix("/plan.json")
    record = store / "runs" / run / "steps" / f"{step}.json"
    return json.dumps({"state": "done", "figure": ""} if record.exists() else {"state": "none"})


if __name__ == "__main__":
    if sys.argv[1] == "outcome":
        print(outcome(sys.argv[sys.argv.index("--plan") + 1], sys.argv[sys.argv.index("--step") + 1]))
    else:
        raise SystemExit(fake_perennial.main())
