from pathlib import Path
from typing import Any

import pytest

from tasks.recipe.catalogue import Catalogue

ROOT = Path(__file__).resolve().parents[3]


def port(*kinds: str, many: bool = False, optional: bool = False) -> dict[str, Any]:
    return {"kinds": list(kinds), "doc": "", "many": many, "optional": optional}


def method(
    inputs: dict[str, Any],
    outputs: list[tuple[str, str]],
    options: dict[str, Any] | None = None,
    *,
    hands_on: bool = False,
    required: tuple[str, ...] = (),
    figures: dict[str, list[str]] | None = None,
) -> dict[str, Any]:
    schema: dict[str, Any] = {
        "type": "object",
        "additionalProperties": False,
        "properties": options or {},
        "required": list(required),
    }
    return {
        "summary": "for tests",
        "paper": "",
        "inputs": inputs,
        "outputs": [{"name": name, "kind": kind} for name, kind in outputs],
        "hands_on": hands_on,
        "figures": figures or {},
        "options": schema,
    }


def number(default: float, description: str, **limits: Any) -> dict[str, Any]:
    return {"type": "number", "default": default, "description": description, **limits}


LR = number(3e-4, "Peak learning rate.", exclusiveMinimum=0, maximum=1, unit="1/step", source="arXiv:1")
EPOCHS = {"type": "integer", "default": 1, "minimum": 1, "description": "Passes over the data."}
TRAINED = [("model", "model"), ("log", "training_log")]
SETS = {
    "documents": port("documents", many=True, optional=True),
    "chats": port("chats", many=True, optional=True),
    "pairs": port("pairs", many=True, optional=True),
    "exams": port("exams", many=True, optional=True),
}

RAW: dict[str, Any] = {
    "format": 1,
    "stages": {
        "validate": {
            "default": "rules",
            "methods": {
                "rules": method(
                    SETS,
                    [("result", "validation")],
                    {
                        "rows": {
                            "anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}],
                            "default": None,
                            "description": "Rows to look at.",
                        }
                    },
                    hands_on=True,
                )
            },
        },
        "prepare": {
            "default": "pack",
            "methods": {
                "pack": method(
                    {
                        "documents": port("documents"),
                        "replay": port("documents", optional=True),
                        "model": port("model"),
                    },
                    [("tokens", "tokens")],
                    {"replay": number(0.0, "Share of replayed tokens.", minimum=0, exclusiveMaximum=1)},
                )
            },
        },
        "pretrain": {
            "default": "continue",
            "methods": {
                "continue": method(
                    {
                        "model": port("model"),
                        "data": port("tokens"),
                        "before": port("training_log", optional=True),
                    },
                    TRAINED,
                    {
                        "lr": LR,
                        "epochs": EPOCHS,
                        "schedule": {
                            "$ref": "#/$defs/Schedule",
                            "default": "cosine",
                            "description": "Learning rate over time.",
                        },
                    },
                ),
                "scratch": method({"documents": port("documents")}, [("model", "model")]),
            },
        },
        "sft": {
            "default": "completion",
            "methods": {
                "completion": method(
                    {"model": port("model"), "data": port("chats")}, TRAINED, {"lr": LR, "epochs": EPOCHS}
                )
            },
        },
        "align": {
            "default": "dpo",
            "methods": {
                "dpo": method(
                    {"model": port("model"), "data": port("pairs"), "reference": port("reference")},
                    TRAINED,
                    {"beta": number(0.1, "Strength of the pull to the reference.", exclusiveMinimum=0)},
                ),
                "reference": method(
                    {"model": port("model"), "data": port("pairs")}, [("reference", "reference")]
                ),
            },
        },
        "merge": {
            "default": "linear",
            "methods": {
                "linear": method(
                    {"models": port("model", many=True), "base": port("model", optional=True)},
                    [("model", "model")],
                    {
                        "weights": {
                            "type": "array",
                            "items": {"type": "number"},
                            "minItems": 2,
                            "description": "One for each model.",
                        }
                    },
                    required=("weights",),
                ),
                "slerp": method(
                    {"models": port("model", many=True), "base": port("model", optional=True)},
                    [("model", "model")],
                    {"weight": number(0.5, "Share of the second model.", minimum=0, maximum=1)},
                ),
            },
        },
        "evaluate": {
            "default": "suite",
            "methods": {
                "suite": method(
                    {
                        "model": port("model"),
                        "baseline": port("model", optional=True),
                        "champion": port("model", optional=True),
                        "documents": SETS["documents"],
                        "exams": SETS["exams"],
                        "logs": port("training_log", many=True, optional=True),
                    },
                    [("report", "report")],
                    {
                        "shots": {
                            "type": "array",
                            "items": {"type": "integer"},
                            "default": [],
                            "description": "Numbers of examples.",
                        }
                    },
                    figures={
                        "documents": ["bits_per_byte"],
                        "exams": ["accuracy", "negative_flips", "inconsistency", "few_shot"],
                        "requests": ["refusal"],
                    },
                )
            },
        },
    },
}
RAW["stages"]["pretrain"]["methods"]["continue"]["options"]["$defs"] = {
    "Schedule": {"type": "string", "enum": ["cosine", "wsd"]}
}

SMALL = """\
recipe: small
model: small
data:
  news: {uri: "file:///data/news.jsonl", kind: documents}
  chats: {uri: "pydocs://chats"}
  exams: {uri: "pydocs://exams/language-reference"}
steps:
  blank: {stage: pretrain, method: scratch, inputs: {documents: data.news}}
  shards: {stage: prepare, inputs: {documents: data.news, model: blank}}
  base: {stage: pretrain, inputs: {model: blank, data: shards}}
  tuned:
    stage: sft
    inputs: {model: base, data: data.chats}
    options: {lr: 2e-4}
  report: {stage: evaluate, inputs: {model: tuned, baseline: base, documents: data.news, exams: data.exams}}
release:
  candidate: tuned
  report: report
  gates:
    - {gate: kept, measure: news.bits_per_byte, against: baseline, at_most: 0.1, reason: Must not forget.}
"""
"""A right recipe with one of everything."""


@pytest.fixture(scope="session")
def catalogue() -> Catalogue:
    return Catalogue.model_validate(RAW)


@pytest.fixture
def small() -> str:
    return SMALL
