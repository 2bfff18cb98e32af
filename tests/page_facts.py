"""What `perennial page` says of a model with three versions, for tests of the page."""

from __future__ import annotations

from typing import Any

GATE: dict[str, Any] = {
    "gate": "learned-the-news",
    "measure": "news.bits_per_byte",
    "verdict": "passed",
    "severity": "stop",
    "value": -0.2,
    "low": -0.25,
    "high": -0.16,
    "threshold": -0.15,
    "sign": 1,
    "percent": True,
    "change": True,
    "unit": "bits/byte",
    "items": 42,
    "reason": "It matters.",
}


def version(number: str, *aliases: str, **more: Any) -> dict[str, Any]:
    return {
        "version": number,
        "semantic": f"1.{int(number) - 1}.0",
        "aliases": list(aliases),
        "digest": number * 64,
        "bytes": 5_200_000,
        "run": f"pydocs-run-{number}",
        "recipe": "pydocs",
        "why": "new weights",
        "approvals": 1,
        "registered": f"2026-03-0{number}T12:00:00+00:00",
        "device_hours": 0.5,
        "cost": 1.25,
        "currency": "USD",
        "energy_kwh": None,
        "gates": [GATE],
        **more,
    }


FACTS: dict[str, Any] = {
    "model": "pydocs",
    "time": "2026-03-05T10:00:00+00:00",
    "mlflow": "http://mlflow",
    "champion": "2",
    "candidate": "3",
    "previous": "1",
    "versions": [
        version("3", "candidate", gates=[GATE | {"verdict": "failed", "value": -0.1}], approvals=2),
        version("2", "champion"),
        version("1", "previous", bytes=None),
    ],
    "history": [
        {
            "seq": 2,
            "time": "2026-03-02T13:00:00+00:00",
            "action": "promote",
            "actor": "ada <b>",
            "from_version": "1",
            "to_version": "2",
            "reason": "<script>alert(1)</script>",
            "run": "",
            "evidence": "",
        }
    ],
    "bytes": 10_400_000,
    "problems": ["version 1: its model 111 is not in the store"],
}
