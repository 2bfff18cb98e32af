"""`fake_perennial.py` with the one command more that a pod's end is asked of: `outcome`.

A step is done where the stand-in wrote its record.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from tests.integration import fake_perennial


def main() -> int:
    if sys.argv[1] != "outcome":
        return fake_perennial.main()
    given = dict(zip(sys.argv[2::2], sys.argv[3::2], strict=True))
    run = given["--plan"].rpartition("/runs/")[2].removesuffix("/plan.json")
    store = Path(os.environ["PERENNIAL_STORE"].removeprefix("file://"))
    done = (store / "runs" / run / "steps" / f"{given['--step']}.json").exists()
    print(json.dumps({"state": "done" if done else "none"}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
