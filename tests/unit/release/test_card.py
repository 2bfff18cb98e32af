from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.artefacts import Store, commit
from tasks.recipe.catalogue import Catalogue
from tasks.recipe.models import Gate
from tasks.release.card import card, says_the_same, stated_digest
from tasks.release.gates import judge
from tasks.release.records import PlanFacts, Report, StepRecord
from tasks.tracking.sources import source_of


def write(run: Any, source: str = "s3://b/artefacts/x/files") -> str:
    plan = PlanFacts.model_validate(run.plan)
    records = {name: StepRecord.model_validate(record) for name, record in run.records.items()}
    report = Report.model_validate_json(
        run.store.read(f"artefacts/{records['report'].main().digest}/files/report.json")
    )
    gates = judge([Gate.model_validate(gate) for gate in run.plan["release"]["gates"]], report)
    return card(
        plan,
        records,
        report,
        gates,
        semantic="1.2.0",
        change="new weights",
        source=source,
        dates={"news": "2026-03-01"},
        catalogue=Catalogue.load(),
    )


def test_the_card_says_where_the_model_comes_from(make_run: Callable[..., Any]) -> None:
    run = make_run()
    text = write(run)
    assert text.startswith("---\nlicense: Apache-2.0\n")
    for part in (
        "# pydocs 1.2.0",
        "new weights",
        run.candidate,
        "LlamaForCausalLM, 2,600,000 parameters",
        "none: made from scratch by step base",
        f"| news | documents | 1 | CC-BY-4.0 | 2026-03-01 | s3://news | "
        f"`{run.plan['data']['news']['digest']}` |",
        "## Intended use\n\nAnswers about the news.",
        "- merge/slerp: Shoemake 1985",
        "| news | bits per byte (lower is better, 42 items) | 2 [1.9, 2.1] | -0.4 [-0.5, -0.3], -20.0% | - |",
        "## Known regressions\n\nNone that the evidence shows.",
        '| tuned | sft | sft | `{"lr": 0.0001}` | tuned done |',
        "learned-the-news: passed",
        'download_artifacts("models:/pydocs@champion")',
        "s3://b/artefacts/x/files",
        "Owner: ada",
        "## Limitations",
    ):
        assert part in text
    assert "| report |" not in text


def test_a_base_from_outside_is_named(make_run: Callable[..., Any]) -> None:
    run = make_run()
    run.records["base"]["inputs"]["model"] = ["e" * 64]
    assert f"Base model: `{'e' * 64}`" in write(run)


def test_an_unstated_licence_is_not_made_up(make_run: Callable[..., Any]) -> None:
    run = make_run()
    run.plan["effective"] = {}
    text = write(run)
    assert "license:" not in text
    assert "Licence: not stated in the recipe" in text
    assert "| not stated in the recipe | 2026-03-01 |" in text
    assert "## Intended use\n\nnot stated in the recipe: `intended_use`." in text


def test_what_got_worse_is_said(make_run: Callable[..., Any]) -> None:
    text = write(make_run(champion=0.1))
    assert "- news: bits per byte is worse than the champion's: +0.2 bits/byte [+0.1, +0.3]" in text
    assert "worse than the baseline" not in text
    assert "None that the evidence shows" in write(make_run(champion=0.04))  # from -0.01 to 0.09: not sure


def test_an_option_that_is_a_method_has_its_paper(make_run: Callable[..., Any]) -> None:
    run = make_run()
    run.records["tuned"] |= {
        "method": "completion",
        "options": {"trainable": "lora", "lr": 3e-4, "epochs": 1, "attention": "sdpa"},
    }
    lines = [line for line in write(run).splitlines() if line.startswith("- sft/completion")]
    assert lines == [
        "- sft/completion: arXiv 2203.02155",
        "- sft/completion, `trainable: lora`: arXiv 2106.09685",
    ]


def test_what_the_recipe_states_is_what_a_card_says() -> None:
    said = {"description": "d", "license": "MIT", "data": {"news": {"uri": "a", "license": "CC0-1.0"}}}
    same = {**said, "seed": 1, "data": {"news": {"uri": "b", "license": "CC0-1.0"}}}
    assert stated_digest(said) == stated_digest(same)
    for change in ({"license": "GPL-3.0"}, {"intended_use": "chat"}, {"data": {"news": {"uri": "a"}}}):
        assert stated_digest({**said, **change}) != stated_digest(said)
    assert says_the_same({}, said)
    assert says_the_same({"perennial.stated": stated_digest(said)}, same)
    assert not says_the_same({"perennial.stated": stated_digest(said)}, {})


def test_code_of_the_models_own_is_named(make_run: Callable[..., Any]) -> None:
    run = make_run()
    assert "from_pretrained(path)" in write(run)
    assert "Code of its own" not in write(run)
    run.records["merged"]["outputs"]["model"]["meta"]["code"] = "c" * 64
    text = write(run)
    assert f"Code of its own: `{'c' * 64}`" in text
    assert "from_pretrained(path, trust_remote_code=True)" in text
    assert "read them first" in text


def of_an_adapter(run: Any, digest: str, base: str) -> Any:
    """The run with an adapter as its candidate."""
    meta = {**run.records["merged"]["outputs"]["model"]["meta"], "base": base, "trainable": "lora"}
    run.records["merged"]["outputs"]["adapter"] = {"digest": digest, "kind": "adapter", "meta": meta}
    return run


def test_an_adapter_is_loaded_beside_its_base(make_run: Callable[..., Any]) -> None:
    digest, base = "d" * 64, "b" * 64
    text = write(of_an_adapter(make_run(), digest, base), f"s3://b/artefacts/{digest}/files")
    loading = text.partition("## How to load it")[2].partition("\n## ")[0]
    for part in (
        f"This version is an adapter (lora). It goes beside one base model, of the digest `{base}`",
        "perennial export pydocs champion --to huggingface --out DIR",
        'store = open_store("s3://b")',
        f'base = fetch(store, "{base}", Path("cache"))',
        "peft.PeftModel.from_pretrained(model, adapter)",
        f"The adapter lies at `s3://b/artefacts/{digest}/files`, its base at `s3://b/artefacts/{base}/files`.",
    ):
        assert part in loading
    assert "How to load it" in write(make_run())
    assert "adapter" not in write(make_run()).partition("## How to load it")[2]


@pytest.mark.slow
def test_what_the_card_of_an_adapter_says_loads_it(
    make_run: Callable[..., Any], store: Store, tiny_model_dir: Path, tmp_path: Path
) -> None:
    """The lines of its card, run as they stand, on the adapter that a training left."""
    import torch
    from transformers import AutoModelForCausalLM

    from tests.unit.sft.test_adapter import train

    context, _ = train(tiny_model_dir, tmp_path / "training")
    base, adapter = (
        commit(store, folder, kind=kind, parents=[], producer="test", meta={}).digest
        for folder, kind in ((tiny_model_dir, "model"), (context.output("adapter"), "adapter"))
    )
    source = source_of(store, adapter)
    text = write(of_an_adapter(make_run(), adapter, base), source)
    loaded: dict[str, Any] = {}
    exec(text.partition("```python\n")[2].partition("```")[0], loaded)
    ids = loaded["tokenizer"]("the value of a key", return_tensors="pt").input_ids
    whole = AutoModelForCausalLM.from_pretrained(context.output("model"))
    with torch.no_grad():
        torch.testing.assert_close(
            loaded["model"].eval()(ids).logits, whole(ids).logits, rtol=1e-4, atol=1e-4
        )
