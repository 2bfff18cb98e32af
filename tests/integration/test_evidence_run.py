"""Every probe beside the suite on real text: one run of tests/recipes/evidence.yaml with the runner."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tasks.recipe.catalogue import Catalogue

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "tests" / "recipes" / "evidence.yaml"
PROBES = {
    "contamination": "membership",
    "secrets": "canaries",
    "tunable": "tunability",
    "lasting": "elasticity",
    "emulated": "disalignment",
    "novel": "contrastive",
    "spectrum": "intruders",
}


def perennial(home: Path, *arguments: str) -> str:
    environment = {k: v for k, v in os.environ.items() if k not in ("PERENNIAL_STORE", "MLFLOW_TRACKING_URI")}
    environment |= {"PERENNIAL_HOME": str(home), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "tasks.cli", *arguments],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    return output


def records(home: Path, run: str) -> dict[str, dict[str, Any]]:
    folder = home / "store" / "runs" / run / "steps"
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}


def test_the_report_holds_every_probe_and_a_second_run_does_nothing(tmp_path: Path) -> None:
    home = tmp_path / "home"
    perennial(home, "run", str(RECIPE), "--run", "one")
    steps = records(home, "one")
    directory = home / "store" / "artefacts" / steps["report"]["outputs"]["report"]["digest"] / "files"
    report = json.loads((directory / "report.json").read_text())
    found = {f"{entry['name']}.{entry['measure']}": entry for entry in report["sets"]}
    catalogue = Catalogue.load()
    for step, method in PROBES.items():
        for figure in catalogue.method("evaluate", method).figures[""]:
            if f"{step}.{figure}" != "contamination.control_auc":  # no text of before is given
                assert found[f"{step}.{figure}"]["values"]["model"] is not None
        assert report["probes"][step]["probe"] == method
        assert (directory / f"items/{step}.{step}.parquet").is_file()
    assert found["tunable.after_sft"]["against"]["baseline"]["quantiles"]
    samples = json.loads((directory / "restricted/novel.json").read_text())["samples"]
    assert {each["round"] for each in samples} == {1, 2}
    again = perennial(home, "run", str(RECIPE), "--run", "two")
    assert again.count("nothing changed since run one") == len(steps)
