"""Stands in for `perennial` where a test is about Airflow: the same arguments, files and exit codes, no work.

It records its calls in `<store>/calls.jsonl`. `<store>/behaviour.json` says what goes wrong:
{"<command or step>": [exit code of the 1st call, of the 2nd, ...]}, afterwards 0; a code of -9 kills itself,
and "sleep:<seconds>" sleeps, ending with 5 where SIGTERM comes first (as a step with a checkpoint does).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("command")
    parser.add_argument("target", nargs="?", default="")
    parser.add_argument("more", nargs="*", default=[])
    for name in ("plan", "step", "run", "model", "version", "reason", "from-run", "from-step", "from", "to"):
        parser.add_argument(f"--{name}", default="")
    for name in (
        "recipe",
        "suite",
        "against",
        "older-than",
        "runs-older-than",
        "stale-hours",
        "approval-hours",
        "free-gb",
    ):
        parser.add_argument(f"--{name}", default="")
    parser.add_argument("--by", action="append", default=[])
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--refresh", action="append", default=[])
    for name in ("freeze", "json", "apply", "record", "if-missing", "after", "smoke-elsewhere"):
        parser.add_argument(f"--{name}", action="store_true")
    given = parser.parse_args()
    store = Path(os.environ["PERENNIAL_STORE"].removeprefix("file://"))
    store.mkdir(parents=True, exist_ok=True)
    what = given.step or given.command
    with (store / "calls.jsonl").open("a") as calls:
        calls.write(json.dumps(vars(given) | {"what": what, "by": " and ".join(given.by)}) + "\n")
    before = sum(
        json.loads(line)["what"] == what for line in (store / "calls.jsonl").read_text().splitlines()
    )
    behaviour = store / "behaviour.json"
    script = json.loads(behaviour.read_text()).get(what, []) if behaviour.exists() else []
    act = script[before - 1] if before <= len(script) else 0
    if isinstance(act, str):
        return sleep(float(act.removeprefix("sleep:")), store)
    if act == -9:
        os.kill(os.getpid(), signal.SIGKILL)
    if act:
        print(f"{what}: told to end with {act}", file=sys.stderr)
        return int(act)
    told = store / f"{given.command}.json"  # what a test wants the command to say
    if given.command == "summary":
        text = f"# Summary\n\n| set | value |\n|---|---|\n| news | {given.plan or given.model} |"
        known = json.loads(told.read_text()) if told.exists() else {"run": "tiny-1"}
        known = {"approvals": 1, "smoke": False, "version": given.version} | known
        print(json.dumps(known | {"markdown": text}) if given.json else text)
    elif told.exists():
        print(told.read_text())
    else:
        print(f"{what} is done")
    run = given.run or given.plan.rpartition("/runs/")[2].removesuffix("/plan.json")
    if given.command == "plan":
        write(store / "runs" / run / "plan.json", {"set": given.set, "refresh": given.refresh})
    if given.command == "step":
        write(store / "runs" / run / "steps" / f"{what}.json", {"figure": f"figure of {what}"})
    return 0


def sleep(seconds: float, store: Path) -> int:
    def stop(_number: int, _frame: object) -> None:
        (store / "checkpoint").write_text(str(os.getpid()))
        print("checkpoint written", flush=True)
        sys.exit(5)

    signal.signal(signal.SIGTERM, stop)
    (store / "sleeping").write_text(str(os.getpid()))
    print("sleeping", flush=True)
    time.sleep(seconds)
    return 0


def write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


if __name__ == "__main__":
    sys.exit(main())
