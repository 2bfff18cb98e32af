"""Weeks of a model that is kept current: slices arrive in S3, updates are promoted, rolled back, rejected.

Every command as a user types it, with the store and the corpus behind a real S3 protocol server.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from moto.server import ThreadedMotoServer

from tests import warm
from tests.news_slices import DATES, corpus_file, write_slice

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "tests" / "recipes" / "news.yaml"
KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}


class Site:
    """A bucket where news arrives, and an installation that learns from it."""

    def __init__(self, folder: Path, server: str) -> None:
        self.folder = folder
        self.client = boto3.Session("test", "test", region_name="us-east-1").client("s3", endpoint_url=server)
        self.client.create_bucket(Bucket="perennial")
        corpus_file(folder / "corpora", "s3://perennial/news/")
        key = folder / "key.pem"
        key.write_bytes(
            Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        )
        key.chmod(0o600)
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("PERENNIAL", "MLFLOW"))
        }
        self.environment = kept | KEYS | {
            "PERENNIAL_HOME": str(folder / "home"),
            "PERENNIAL_STORE": "s3://perennial/store",
            "PERENNIAL_CORPORA": str(folder / "corpora"),
            "PERENNIAL_SIGNING_KEY": str(key),
            "AWS_ENDPOINT_URL": server,
            "OMP_NUM_THREADS": "1",
        }  # fmt: skip

    def arrives(self, week: int) -> None:
        path = write_slice(self.folder / "weeks", week)
        self.client.upload_file(str(path), "perennial", f"news/{DATES[week]}/topics.jsonl")

    def perennial(self, *arguments: str, code: int = 0) -> str:
        done = subprocess.run(
            [warm.python(), "-m", "tasks.cli", *arguments],
            cwd=ROOT, env=self.environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        output = done.stdout + done.stderr
        assert done.returncode == code, output
        assert "Traceback" not in output
        return output

    def update(self, run: str, *more: str, code: int = 0) -> str:
        return self.perennial("run", str(RECIPE), "--run", run, *more, code=code)

    def decide(self, action: str, run: str, reason: str, *more: str, code: int = 0) -> str:
        plan = f"s3://perennial/store/runs/{run}/plan.json"
        return self.perennial(action, "--plan", plan, "--by", "ada", "--reason", reason, *more, code=code)

    def json(self, key: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(
            self.client.get_object(Bucket="perennial", Key=f"store/{key}")["Body"].read()
        )
        return found


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield Site(tmp_path, f"http://{host}:{port}")
    server.stop()


def test_three_updates_one_rolled_back_one_rejected(site: Site) -> None:
    assert "nothing has arrived yet" in site.perennial("corpus", "look", "news", code=10)
    assert "perennial corpus look" in site.update("too-early", code=3)

    site.arrives(0)
    assert "new slice 2026-01-05" in site.perennial("corpus", "look", "news", "--run", "a")
    assert "new slice 2026-01-05" in site.perennial("corpus", "look", "news", "--run", "a")  # a retry
    assert "no new data" in site.perennial("corpus", "look", "news", "--run", "b", code=10)
    assert "no champion yet" in site.perennial("corpus", "drift", "news", code=10)
    site.update("week-1")
    site.decide("promote", "week-1", "the first")

    # Nothing new: green, without work, and with the evidence.
    said = site.perennial("plan", str(RECIPE), "--freeze", "--run", "nothing-new")
    assert "news: no change" in said
    assert "where ada put it" in said
    unchanged = site.json("runs/nothing-new/unchanged.json")
    assert (unchanged["champion"], unchanged["since"]["reason"]) == ("1", "the first")
    assert unchanged["data"]["news"]["slices"].keys() == {"2026-01-05"}

    for week, run in ((1, "week-2"), (2, "week-3")):
        site.arrives(week)
        site.perennial("corpus", "look", "news")
        told = site.perennial("corpus", "drift", "news")
        assert f"slice {DATES[week]} against what version {week} of 'news' learned from" in told
        site.update(run)
        pins = site.json(f"runs/{run}/plan.json")["data"]
        slices = json.loads(site.perennial("corpus", "show", "news", "--json"))["slices"]
        assert pins["news"]["meta"]["slices"] == {DATES[week]: slices[week]["digest"]}
        site.decide("promote", run, f"week {week + 1}")
    assert len(slices) == 3
    assert 0 < slices[2]["drift"][0]["figures"]["jensen_shannon"] < 1

    # A run by hand that was judged before the rollback does not go over the champion of now unnoticed.
    site.update("by-hand", "--set", "steps.adapted.options.lr=1e-3")
    assert "champion: 2, previous: 3" in site.perennial(
        "rollback", "news", "--by", "ben", "--reason", "complaints"
    )
    refused = site.decide("promote", "by-hand", "cheaper", code=8)
    assert "it was judged when version 3 was in production, and now version 2 is" in refused
    assert "--over 2" in refused
    site.decide("reject", "by-hand", "no better")

    history = site.perennial("history", "news")
    for words in ("the first", "week 2", "week 3", "complaints", "no better"):
        assert words in history
    costs = json.loads(site.perennial("costs", "news", "--json"))
    assert [version["version"] for version in costs["versions"]] == ["1", "2", "3", "4"]
    assert costs["versions"][1]["aliases"] == ["champion"]
    assert all(version["device_hours"] > 0 and version["cost"] > 0 for version in costs["versions"])
    assert costs["device_hours"] == pytest.approx(sum(run["device_hours"] for run in costs["runs"]), abs=1e-5)
