"""Isonuma and Titov 2024 in shape: samples of a contrast give away what an update taught."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.claims.probing import probe, taught, value
from tests.conftest import tiny_texts, write_tiny_model

GREEK = "αβγδε"


def greek(count: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    return [
        " ".join("".join(draw.choice(GREEK) for _ in range(draw.randint(2, 4))) for _ in range(8))
        for _ in range(count)
    ]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("base")
    start = write_tiny_model(directory / "start", hidden=48)
    return taught(start, directory / "model", tiny_texts(200, seed=1), 120)


def share_greek(samples: list[dict[str, str]]) -> float:
    text = "".join(each["text"] for each in samples).replace(" ", "")
    return sum(letter in GREEK for letter in text) / len(text)


@pytest.mark.slow
def test_another_alphabet_gives_itself_away_and_more_of_the_same_does_not(base, tmp_path):
    english = tiny_texts(200, seed=2)
    more = taught(base, tmp_path / "more", english, 60, lr=2e-3)
    mixed = taught(base, tmp_path / "mixed", [*english[:170], *greek(30, 1)], 120, lr=2e-3)

    options = {"threads": 1, "rounds": 2, "samples": 6, "tokens": 30, "lr": 2e-3}
    found, whole = probe(
        "contrastive",
        tmp_path / "mixed-probe",
        {"model": ("model", mixed), "origin": ("model", base)},
        **options,
    )
    plain, same = probe(
        "contrastive",
        tmp_path / "more-probe",
        {"model": ("model", more), "origin": ("model", base)},
        **options,
    )
    first = [each for each in whole["samples"] if each["round"] == 1]
    assert share_greek(first) > 0.5  # 15 % of what was taught
    assert share_greek(same["samples"]) == 0
    assert value(found["novelty"]) > 2 * value(plain["novelty"])
    # once the old model knows the first samples, the next are less of the same
    second = [each for each in whole["samples"] if each["round"] == 2]
    assert share_greek(second) < share_greek(first)
