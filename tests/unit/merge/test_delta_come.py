"""Compressed differences: exact products, the measured error, and codes as all that is kept of a version."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tasks.artefacts import Store, commit, fetch, open_store, problems
from tasks.artefacts.delta import pack
from tasks.artefacts.factors import FILE, from_float64, product, read_factors, to_float64, write_factors
from tasks.merge import METHODS
from tasks.merge.methods.delta_come import DeltaComeOptions, compress, plan_pairs, rounded
from tasks.recipe.failures import ConfigInvalid, DataInvalid
from tasks.stage import Input

METHOD = METHODS["delta_come"]


def difference(rows: int = 60, columns: int = 80, seed: int = 0) -> Any:
    """A difference whose singular values fall off, as a fine-tuning's do."""
    draw = np.random.default_rng(seed)
    u, _ = np.linalg.qr(draw.normal(size=(rows, rows)))
    v, _ = np.linalg.qr(draw.normal(size=(columns, columns)))
    lengths = 0.1 / np.arange(1, rows + 1) ** 1.2
    return (u * lengths) @ v[:, :rows].T


def test_the_product_is_exact_in_any_order() -> None:
    parts = compress(difference(), [8] * 2 + [3] * 20 + [2] * 30)
    whole = product(parts)
    shuffled = np.random.default_rng(1).permutation(parts["U"].shape[1])
    again = product({**parts, **{name: parts[name][..., shuffled] for name in ("U", "V", "scales")}})
    assert np.array_equal(whole, again)
    exact = (parts["U"].astype(object) * parts["scales"].astype(object)) @ parts["V"].T.astype(object)
    assert np.array_equal(np.ldexp(exact.astype(np.float64), -int(parts["shift"][0])), whole)
    with pytest.raises(ValueError, match="not exact"):
        product({**parts, "scales": np.full(52, 2**31 - 1), "U": np.full((60, 52), 2**20)})


@pytest.mark.parametrize(
    ("dtype", "torch_dtype"), [("F32", torch.float32), ("F16", torch.float16), ("BF16", torch.bfloat16)]
)
def test_numbers_round_as_torch_rounds(dtype: str, torch_dtype: torch.dtype) -> None:
    values = torch.randn(999, dtype=torch.float32, generator=torch.Generator().manual_seed(0))
    kind = {torch.float32: torch.int32}.get(torch_dtype, torch.int16)
    expected = values.to(torch_dtype).view(kind).numpy()
    words = from_float64(values.double().numpy(), dtype)
    assert np.array_equal(words.view(expected.dtype), expected)
    assert np.array_equal(to_float64(words, dtype), values.to(torch_dtype).double().numpy())


def test_the_budget_is_kept_and_goes_to_the_largest_first() -> None:
    options = DeltaComeOptions(bits=1.0)
    bits = plan_pairs((512, 512), options)
    assert bits == sorted(bits, reverse=True)
    assert bits[:2] == [8, 8]
    assert set(bits) == {8, 3, 2}
    assert sum(each * 1024 + 32 for each in bits) <= 512 * 512
    assert plan_pairs((512, 512), DeltaComeOptions(bits=0.001)) == []
    assert len(plan_pairs((16, 16), DeltaComeOptions(bits=8.0, pairs_8bit=99))) <= 16


def test_more_bits_lose_less_and_the_vectors_directions_are_kept() -> None:
    whole = difference()
    lost = [
        np.linalg.norm(whole - product(compress(whole, plan_pairs((60, 80), DeltaComeOptions(bits=bits)))))
        for bits in (0.5, 1.0, 2.0, 4.0)
    ]
    assert lost == sorted(lost, reverse=True)
    assert lost[-1] < 0.5 * np.linalg.norm(whole)
    vectors = np.linalg.qr(np.random.default_rng(0).normal(size=(200, 3)))[0]
    codes = rounded(vectors, np.array([127.0, 3.0, 1.0]))
    alike = (codes * vectors).sum(0) / np.linalg.norm(codes, axis=0)
    assert alike[0] > 0.999
    assert alike[1] > 0.95
    assert alike[2] > 0.85
    assert np.abs(codes).max(0).tolist() == [127, 3, 1]


def test_factors_come_back_from_their_file(tmp_path: Path) -> None:
    given = {"a.weight": compress(difference(), [8, 3, 2]), "b.weight": compress(difference(20, 30).T, [3])}
    write_factors(tmp_path / FILE, given)
    back = read_factors(tmp_path / FILE)
    for name, parts in given.items():
        for part, values in parts.items():
            assert np.array_equal(back[name][part], values)
    assert read_factors(tmp_path / "none") == {}
    (tmp_path / FILE).write_bytes((tmp_path / FILE).read_bytes()[:-9])
    with pytest.raises(DataInvalid, match="are broken"):
        read_factors(tmp_path / FILE)


@pytest.fixture
def pair(tiny_model_dir: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A base, and a model whose matrices moved in a few directions."""
    tuned = tmp_path / "tuned"
    tuned.mkdir()
    for path in tiny_model_dir.iterdir():
        (tuned / path.name).write_bytes(path.read_bytes())
    tensors = load_file(tuned / "model.safetensors")
    for number, (name, tensor) in enumerate(sorted(tensors.items())):
        if tensor.ndim == 2:
            rows, columns = tensor.shape
            moved = difference(min(rows, columns), max(rows, columns), seed=number)
            step = torch.from_numpy(moved if rows <= columns else moved.T.copy()).float()
            tensors[name] = tensor + 0.3 * step
    save_file(tensors, tuned / "model.safetensors", metadata={"format": "pt"})
    return tiny_model_dir, tuned


def test_the_step_writes_a_model_and_says_what_it_lost(
    pair: tuple[Path, Path], make_context: Any, tmp_path: Path
) -> None:
    base, tuned = pair
    store: Store = open_store(f"file://{tmp_path}/store")
    digest = commit(store, base, kind="model", parents=[], producer="t", meta={}).digest
    given = {"model": Input("tuned", "a" * 64, "model", tuned), "base": Input("base", digest, "model", base)}
    context = make_context(given)
    result = METHOD.run(context, METHOD.options.model_validate({"bits": 3.0}))
    out = context.output("model")
    start, exact, lossy = (load_file(path / "model.safetensors") for path in (base, tuned, out))
    lost = sum(float((lossy[n] - exact[n]).double().square().sum()) for n in exact) ** 0.5
    moved = sum(float((exact[n] - start[n]).double().square().sum()) for n in exact) ** 0.5
    assert result.metrics["relative_error"] == pytest.approx(lost / moved, rel=1e-3)
    assert 0 < result.metrics["relative_error"] < 0.6
    assert result.metrics["bits_per_weight"] <= 3.0
    assert result.metrics["kl"] < 0.5 * result.metrics["kl_base"]
    assert (result.meta["model"]["base"], result.meta["model"]["approximates"]) == (digest, "a" * 64)
    norms = [name for name in exact if exact[name].ndim == 1]
    assert norms
    assert all(torch.equal(lossy[name], exact[name]) for name in norms)

    # Of such a model nothing but the codes is kept, and it comes back bit for bit.
    made = commit(store, out, kind="model", parents=[digest], producer="t", meta={}).digest
    kept = pack(store, made, digest, cache=tmp_path / "cache")
    assert {part["how"] for part in kept.files[0].parts} == {"factors", "same"}
    assert kept.bytes < 0.05 * kept.whole_bytes
    assert problems(store, made) == []
    again = fetch(store, made, tmp_path / "elsewhere")
    assert (again / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()


def test_models_of_two_architectures_are_refused(pair: tuple[Path, Path], make_context: Any) -> None:
    base, tuned = pair

    def run(model: Path, beside: Path) -> None:
        given = {"model": Input("m", "a" * 64, "model", model), "base": Input("b", "b" * 64, "model", beside)}
        METHOD.run(make_context(given), METHOD.options())

    with pytest.raises(ConfigInvalid, match="nothing to compress"):
        run(base, base)
    tensors = load_file(tuned / "model.safetensors")
    name = sorted(tensors)[0]
    save_file({**tensors, name: tensors[name].half()}, tuned / "model.safetensors")
    with pytest.raises(ConfigInvalid, match=rf"the tensor '{name}' is F16"):
        run(tuned, base)
