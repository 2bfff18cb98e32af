"""An adapter is trained, registered, tested, promoted, told of, handed over, and the next run's champion."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests import warm

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "tests" / "recipes" / "adapter.yaml"
SECRET = "not-a-real-secret"

Told = list[tuple[dict[str, str], bytes]]


@pytest.fixture(scope="module")
def receiver() -> Iterator[tuple[str, Told]]:
    """A webhook's receiver, and what it was told."""
    told: Told = []

    class Receiving(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append((dict(self.headers), self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Receiving) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/hook", told
        server.shutdown()
        thread.join()


class Home:
    """One PERENNIAL_HOME and the commands run in it."""

    def __init__(self, path: Path, **environment: str) -> None:
        self.path, self.environment = path, environment

    def perennial(self, *arguments: str, code: int = 0) -> str:
        known = {k: v for k, v in os.environ.items() if k not in ("PERENNIAL_STORE", "MLFLOW_TRACKING_URI")}
        own = {"PERENNIAL_HOME": str(self.path), "OMP_NUM_THREADS": "1", **self.environment}
        done = subprocess.run(
            [warm.python(hash_seed=1), "-m", "tasks.cli", *arguments],
            cwd=ROOT, env=known | own, capture_output=True, text=True, check=False,
        )  # fmt: skip
        output = done.stdout + done.stderr
        assert done.returncode == code, output
        assert code == 0 or "Traceback" not in output, output
        return output

    def record(self, run: str, step: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.path / f"store/runs/{run}/steps/{step}.json").read_text())
        return found


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, receiver: tuple[str, Told]) -> Home:
    """A home in which the recipe has run once and its adapter was promoted."""
    url, _ = receiver
    path = tmp_path_factory.mktemp("handover") / "home"
    found = Home(path, PERENNIAL_WEBHOOK_URL=url, PERENNIAL_WEBHOOK_SECRET=SECRET)
    output = found.perennial("run", str(RECIPE), "--run", "one")
    assert "smoke test of version 1 of 'adapter' recorded" in output
    promoted = found.perennial(
        "promote", "--model", "adapter", "--version", "1", "--by", "ada", "--reason", "first"
    )
    assert "smoke test: passed before and after" in promoted
    assert "webhook: promotion of version 1 of 'adapter' delivered" in promoted
    return found


def test_the_adapter_is_the_version_and_the_webhook_is_told(home: Home, receiver: tuple[str, Told]) -> None:
    outputs = home.record("one", "tuned")["outputs"]
    release = json.loads((home.path / "store/runs/one/release.json").read_text())
    assert release["candidate"] == outputs["adapter"]["digest"]
    assert outputs["adapter"]["kind"] == "adapter"
    headers, data = receiver[1][0]
    body = json.loads(data)
    assert (body["event"], body["version"], body["digest"]) == (
        "promotion",
        "1",
        outputs["adapter"]["digest"],
    )
    assert (body["smoke"]["when"], body["smoke"]["passed"]) == ("after", True)
    signed = hmac.new(
        SECRET.encode(), headers["X-Perennial-Timestamp"].encode() + b"." + data, hashlib.sha256
    )
    assert headers["X-Perennial-Signature"] == f"sha256={signed.hexdigest()}"


def test_an_export_is_the_whole_model(home: Home, tmp_path: Path) -> None:
    output = home.perennial("export", "adapter", "champion", "--to", "vllm", "--out", str(tmp_path / "out"))
    assert "vllm serve" in output
    made = json.loads((tmp_path / "out" / "perennial.json").read_text())
    outputs = home.record("one", "tuned")["outputs"]
    assert made["digest"] == outputs["adapter"]["digest"]
    assert made["base"] == home.record("one", "blank")["outputs"]["model"]["digest"]
    whole = home.path / "store" / "artefacts" / outputs["model"]["digest"] / "files" / "model.safetensors"
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == whole.read_bytes()
    assert (tmp_path / "out" / "README.md").read_text().startswith("---")


def test_the_next_run_is_compared_with_the_whole_champion(home: Home, tmp_path: Path) -> None:
    shutil.copytree(home.path, tmp_path / "home", symlinks=True)
    copy = Home(tmp_path / "home")
    copy.perennial("run", str(RECIPE), "--run", "two", "--set", "steps.tuned.options.lr=5e-3")
    plan = json.loads((copy.path / "store/runs/two/plan.json").read_text())
    assert plan["bindings"]["champion"]["digest"] == copy.record("one", "tuned")["outputs"]["model"]["digest"]
    assert copy.record("two", "report")["inputs"]["champion"] == [plan["bindings"]["champion"]["digest"]]


def test_a_broken_base_stops_the_promotion_in_words(home: Home, tmp_path: Path) -> None:
    shutil.copytree(home.path, tmp_path / "home", symlinks=True)
    copy = Home(tmp_path / "home")
    record = tmp_path / "home/store/smoke/adapter/1/record.json"
    known = json.loads(record.read_text())
    known["answer"]["tokens"][0] += 1
    record.write_text(json.dumps(known))
    said = copy.perennial("smoke", "adapter", "1", code=3)
    assert "token 1 of the answer was" in said
    assert "Traceback" not in said
