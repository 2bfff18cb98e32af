from __future__ import annotations

import re
from typing import Any

from tasks.release.mixture import fed, mixture
from tasks.release.records import Output, Pinned, PlanFacts, ReleaseRules, StepRecord

PLAN = PlanFacts(
    run="r",
    recipe="p",
    model="p",
    intent="i",
    data={"chats": Pinned(digest="chats", kind="chats")},
    release=ReleaseRules(candidate="merged", report="report"),
)


def step(name: str, stage: str, kind: str, inputs: dict[str, list[str]], **meta: Any) -> StepRecord:
    outputs = {kind: Output(digest=name, kind=kind, meta=meta if kind == "tokens" else {})}
    if kind == "model" and meta:
        outputs["log"] = Output(digest=f"{name}.log", kind="training_log", meta=meta)
    return StepRecord(fingerprint="f", step=name, stage=stage, method="m", inputs=inputs, outputs=outputs)


RECORDS = {
    each.step: each
    for each in (
        step("shards", "prepare", "tokens", {}, tokens=100, replay_share=0.25),
        step("whole", "prepare", "tokens", {}, tokens=100, replay_share=0.0),
        step("base", "pretrain", "model", {"data": ["whole"]}, tokens=300, samples=3),
        step("adapted<", "pretrain", "model", {"model": ["base"], "data": ["shards"]}, tokens=600, samples=6),
        step("tuned", "sft", "model", {"model": ["adapted<"], "data": ["chats"]}, tokens=100, samples=1),
        step("aside", "sft", "model", {"model": ["adapted<"], "data": ["chats"]}, tokens=9, samples=1),
        step("merged", "merge", "model", {"models": ["tuned", "adapted<"]}),
    )
}


def test_the_trainings_of_the_candidate_in_their_order() -> None:
    assert [(each.step, each.tokens, each.shares) for each in fed(PLAN, RECORDS)] == [
        ("base", 300, {"new": 1.0, "replay": 0.0}),
        ("adapted<", 600, {"new": 0.75, "replay": 0.25}),
        ("tuned", 100, {"other": 1.0}),
    ]


def test_the_curve_is_in_proportion_and_says_that_it_is_constant() -> None:
    page = mixture(PLAN, RECORDS)
    sizes = r'x="([\d.]+)" y="[\d.]+" width="([\d.]+)" height="([\d.]+)"'
    found = re.findall(rf'<rect class="(\w+)" {sizes}', page)
    assert [kind for kind, *_ in found] == ["new", "new", "replay", "other"]
    starts, widths, heights = ([float(each[place]) for each in found] for place in (1, 2, 3))
    assert starts == sorted(starts)
    assert abs(widths[1] / widths[0] - 2) < 0.01
    assert widths[1] == widths[2]
    assert abs(heights[1] / heights[2] - 3) < 0.02
    assert "constant by construction" in page
    assert "<b>adapted&lt;</b>: 75% documents, 25% replay, from shards, 600 tokens" in page
    assert "<b>tuned</b>: chats from data.chats, 100 tokens" in page


def test_a_merge_alone_was_fed_nothing() -> None:
    assert mixture(PLAN, {"merged": step("merged", "merge", "model", {"models": ["x"]})}) == ""
