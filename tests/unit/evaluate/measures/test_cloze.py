"""Facts that a model was taught are found, and facts that an update overwrote are lost."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy
import pytest
import torch

from tasks.evaluate.measure import Columns
from tasks.evaluate.measures import cloze
from tasks.evaluate.options import SuiteOptions
from tasks.evaluate.rows import Fact
from tasks.evaluate.scoring import Subject, load_subject
from tasks.recipe.failures import DataInvalid
from tasks.stage import Input
from tests.unit.evaluate import taught
from tests.unit.evaluate.taught import Lesson, teach

OPTIONS = SuiteOptions(cloze_k=5)
CAPITALS = {
    "Arda": "Minas",
    "Boria": "Kettle",
    "Cimbria": "Oxen",
    "Dorne": "Spear",
    "Elba": "Port",
    "Fania": "Wool",
}
FACTS = [Fact(land, f"The capital of {land} is", (city,)) for land, city in CAPITALS.items()]


@pytest.fixture(scope="module")
def base(tiny_model_dir: Path) -> Subject:
    return load_subject(Input("m", "d", "model", tiny_model_dir), 1024)


def lessons(subject: Subject, cities: dict[str, str]) -> list[Lesson]:
    return [
        ((*subject.prefix, *subject.encode(f"The capital of {land} is")), f" {city}")
        for land, city in cities.items()
    ]


@pytest.fixture(scope="module")
def old(base: Subject) -> Subject:
    return teach(base, lessons(base, CAPITALS))


def scored(subject: Subject, facts: list[Fact] = FACTS, options: SuiteOptions = OPTIONS) -> Columns:
    return cloze.score(subject, facts, options, 0, lambda done: None)


figure = partial(taught.figure, cloze.MEASURE)


def test_taught_facts_are_known_and_others_are_not(base, old):
    before, after = scored(base), scored(old)
    assert figure("precision_at_1", after) == 1.0 > figure("precision_at_1", before)
    assert figure("answer_nats_per_byte", after) < 0.1 < figure("answer_nats_per_byte", before)
    assert figure("reciprocal_rank", after) == 1.0


def test_an_update_that_overwrites_two_facts_loses_these_two_and_gains_the_new_one(base, old):
    known = {**CAPITALS, "Arda": "Zoo", "Boria": "Yak"}
    del known["Fania"]
    before = teach(base, lessons(base, {land: city for land, city in CAPITALS.items() if land != "Elba"}))
    update = teach(base, lessons(base, known))
    one, two = scored(update), scored(before)
    lost = [FACTS[i].key for i in range(6) if two["at_1"][i] == 1 and one["at_1"][i] == 0]
    assert {"Arda", "Boria"} <= set(lost)
    assert figure("lost", one, two) == pytest.approx(len(lost) / 6)
    assert figure("gained", one, two) == pytest.approx(sum((one["at_1"] == 1) & (two["at_1"] == 0)) / 6)
    assert figure("gained", one, two) > 0
    assert figure("kept", one, two) == pytest.approx(1 - len(lost) / two["at_1"].sum())


def test_the_rank_counts_all_words_and_the_cost_all_tokens(base):
    columns = scored(base)
    for at, fact in enumerate(FACTS):
        whole = [*base.prefix, *base.encode(f"{fact.prompt} {fact.right[0]}")]
        start = len(base.prefix) + len(base.encode(fact.prompt))
        with torch.no_grad():
            logits_TV = base.model(input_ids=torch.tensor([whole])).logits[0].double()
        orders = [logits_TV[t - 1].argsort(descending=True).tolist() for t in range(start, len(whole))]
        worst = max(order.index(token) for order, token in zip(orders, whole[start:], strict=True))
        assert columns["rank"][at] == worst + 1
        logprobs_TV = torch.log_softmax(logits_TV, dim=1)
        nats = -sum(float(logprobs_TV[t - 1, whole[t]]) for t in range(start, len(whole)))
        assert columns["nats"][at] == pytest.approx(nats, abs=1e-4)
    assert columns["bytes"].tolist() == [len(f" {fact.right[0]}") for fact in FACTS]


def test_an_alias_is_as_right_as_the_answer(old):
    wrong = [Fact(fact.key, fact.prompt, ("qqq",)) for fact in FACTS]
    aliased = [Fact(fact.key, fact.prompt, ("qqq", *fact.right)) for fact in FACTS]
    assert figure("precision_at_1", scored(old, wrong)) == 0.0
    assert figure("precision_at_1", scored(old, aliased)) == 1.0


def test_scores_are_the_same_for_every_batch_size(base):
    found = [scored(base, options=SuiteOptions(batch_size=size)) for size in (1, 7, 64)]
    for other in found[1:]:
        assert other["rank"].tolist() == found[0]["rank"].tolist()
        numpy.testing.assert_allclose(other["nats"], found[0]["nats"], atol=1e-4)


def test_precision_at_k_follows_the_option(base):
    assert figure("precision_at_k", scored(base, options=SuiteOptions(cloze_k=300))) == 1.0


def test_a_fact_that_does_not_fit_is_named(base):
    with pytest.raises(DataInvalid, match="fact 'long'"):
        scored(base, [Fact("long", "z" * 300, ("a",))])
