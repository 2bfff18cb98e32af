"""Planting canaries: where they stand, what is never planted, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from tasks.prepare import METHODS
from tasks.prepare.methods.canaries import CanariesOptions, make
from tasks.recipe.failures import DataInvalid

METHOD = METHODS["canaries"]
DOCUMENTS = [{"key": str(i), "text": f"document {i}", "group": "news"} for i in range(20)]


def rows(directory: Path):
    return [json.loads(line) for line in (directory / "rows.jsonl").read_text().splitlines()]


@pytest.fixture
def plant(make_context, write_rows, tmp_path):
    def run(name="run", seed=0, documents=DOCUMENTS, **options):
        context = make_context(
            {"documents": ("documents", write_rows("news", documents))}, directory=tmp_path / name, seed=seed
        )
        given = {"count": 3, "controls": 2, "repeats": 4, "twins": 5, **options}
        result = METHOD.run(context, METHOD.options.model_validate(given))
        return rows(context.output("documents")), rows(context.output("canaries")), result

    return run


def test_each_canary_begins_as_many_documents_as_asked(plant):
    documents, canaries, result = plant()
    assert [row["key"] for row in documents] == [row["key"] for row in DOCUMENTS]
    assert all(row["group"] == "news" for row in documents)
    changed = [
        row["text"] for row, old in zip(documents, DOCUMENTS, strict=True) if row["text"] != old["text"]
    ]
    assert len(changed) == 3 * 4
    for canary in canaries:
        text = canary["prompt"] + canary["secret"]
        assert sum(each.startswith(f"{text}\n\ndocument ") for each in changed) == 4 * canary["planted"]
    # repeated canaries stand in different documents: deduplication by text leaves them
    assert len({row["text"] for row in documents}) == len(documents)
    assert result.meta["documents"] == {"rows": 20, "characters": sum(len(row["text"]) for row in documents)}
    assert result.figure == "3 canaries in 12 of 20 documents"


def test_controls_and_twins_are_nowhere_in_the_text(plant):
    documents, canaries, _ = plant()
    everything = "\n".join(row["text"] for row in documents)
    assert [row["planted"] for row in canaries] == [True, True, True, False, False]
    for canary in canaries:
        secrets = [canary["secret"], *canary["twins"]]
        assert len({*secrets}) == 6
        assert len({len(secret) for secret in secrets}) == 1
        assert (canary["prompt"] in everything) == canary["planted"]
        assert (canary["secret"] in everything) == canary["planted"]
        assert not any(twin in everything for twin in canary["twins"])


def test_the_seed_decides_and_nothing_else():
    options = CanariesOptions(count=2, controls=2, twins=3)
    assert make(options, 1) == make(options, 1)
    assert make(options, 1) != make(options, 2)
    more = make(options.model_copy(update={"controls": 4}), 1)
    assert [row["prompt"] for row in more[:2]] == [row["prompt"] for row in make(options, 1)[:2]]


def test_a_template_of_ones_own(plant):
    _, canaries, _ = plant(template="{name}'s key: {secret}", digits=3)
    assert canaries[0]["prompt"].endswith("'s key:")
    assert canaries[0]["secret"][0] == " "
    assert canaries[0]["secret"][1:].isdigit()


@pytest.mark.parametrize(
    "template", ["no places", "{secret} of {name}", "{name} {secret} {secret}", "{name}"]
)
def test_a_template_without_its_places_is_refused(template):
    with pytest.raises(ValidationError, match="needs"):
        CanariesOptions(template=template)


def test_too_few_documents_are_refused(plant):
    with pytest.raises(DataInvalid, match="has 20 documents and 3 canaries in 7 each need 21"):
        plant(repeats=7)
