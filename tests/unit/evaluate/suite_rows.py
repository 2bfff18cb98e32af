"""Small sets, and a training's log, for tests of the whole suite."""

from __future__ import annotations

DOCUMENTS = [
    {"key": f"d{i}", "text": "the value of an object is a list of names. " * (i + 1)} for i in range(6)
]
EXAMS = [
    {
        "key": f"e{i}",
        "question": f"What is the key {i}?",
        "options": [chr(97 + (7 * i + 3 * j) % 26) for j in range(3)],
        "answer": i % 3,
    }
    for i in range(9)
]
LOG = [{"step": i, "samples": i, "tokens": 100 * i, "loss": 5 - 0.1 * i, "lr": 0.1} for i in range(12)]
