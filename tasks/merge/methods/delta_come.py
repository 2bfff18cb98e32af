"""Delta-CoMe: a model as its base plus a compressed difference, the larger singular vectors in more bits.

Ping et al. 2024 (arXiv 2406.08903). The difference of every weight matrix from the base's is decomposed,
U S V^T; the first singular vectors are kept in 8 bits, the next in 3, the next in 2 and the rest dropped, up
to a budget of bits per weight. The result is another model, with a digest of its own: it is judged and
released like any other (a patch version), and its error is measured and reported here.

Different from the paper: the vectors are rounded to the nearest code at the scale with the least error, and
each pair's length is fitted again afterwards; the paper's GPTQ rounding needs calibration data. The
embedding and the head are compressed like the other matrices, not left as they were. What is not a matrix is
kept exactly.

The codes are integers whose product is exact in float64 (tasks/artefacts/factors.py), so base and codes give
the same bits on every machine, and `perennial delta` keeps nothing but the codes of such a model.

Shapes: R rows, C columns, K pairs of singular vectors.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from tasks.artefacts.difference import FLOATS, Tensor, all_tensors, tensors_of
from tasks.artefacts.factors import FILE, applied, product, to_float64, write_factors
from tasks.merge.options import OUTPUTS
from tasks.merge.stream import COPIED
from tasks.recipe.failures import ConfigInvalid, Preempted
from tasks.stage import Estimate, Input, Method, Options, Port, Result, StepContext, one
from tasks.training.models import load_model, model_meta, probe_logits

CLIPS = np.linspace(0.15, 1.0, 18)
"""Where the largest code may lie, as a share of a vector's largest entry; the best is taken."""

PRECISE = 24
"""Bits of the largest pair's length; with codes of 8 bits and ranks below 2^15 the product stays exact."""


class DeltaComeOptions(Options):
    """Options of compressing the difference."""

    bits: float = Field(
        1.0,
        gt=0,
        le=8,
        description="budget of each matrix, the smaller ones' scales included",
        json_schema_extra={"unit": "bits per weight", "source": "arXiv 2406.08903: 1 of 16"},
    )
    pairs_8bit: int = Field(
        2,
        ge=0,
        description="pairs of singular vectors kept in 8 bits, as far as the budget goes",
        json_schema_extra={"unit": "pairs", "source": "arXiv 2406.08903, 8+3+2 bits"},
    )
    pairs_3bit: int = Field(
        32,
        ge=0,
        description="further pairs kept in 3 bits; the rest of the budget goes to 2 bits",
        json_schema_extra={"unit": "pairs", "source": "arXiv 2406.08903, 8+3+2 bits"},
    )
    probe: bool = Field(
        True,
        description="run both models and the base on a probe and compare what they predict; off only for "
        "models larger than memory",
    )


def plan_pairs(shape: tuple[int, int], options: DeltaComeOptions) -> list[int]:
    """Bits of each pair of singular vectors that the budget pays for, the largest first."""
    rows, columns = shape
    left = options.bits * rows * columns
    found: list[int] = []
    for bits, most in ((8, options.pairs_8bit), (3, options.pairs_3bit), (2, min(shape))):
        price = bits * (rows + columns) + 32
        count = min(most, min(shape) - len(found), int(left // price))
        found += [bits] * max(count, 0)
        left -= price * max(count, 0)
    return found


def compress(difference_RC: NDArray[np.float64], bits: list[int]) -> dict[str, NDArray[Any]]:
    """The factors of a difference: codes of its first singular vectors, and the pairs' lengths.

    Args:
        difference_RC: The difference of two matrices.
        bits: Of each pair that is kept.
    """
    u_RK, lengths_K, vt_KC = np.linalg.svd(difference_RC, full_matrices=False)
    count = len(bits)
    u_RK, v_CK, lengths_K = u_RK[:, :count], vt_KC[:count].T, lengths_K[:count]
    largest = np.array([2 ** (each - 1) - 1 for each in bits], dtype=np.float64)
    codes_u, codes_v = rounded(u_RK, largest), rounded(v_CK, largest)
    # The length that fits best: the pairs are orthogonal, so each is fitted by itself.
    along = (codes_u * u_RK).sum(0) * (codes_v * v_CK).sum(0)
    norms = np.maximum((codes_u**2).sum(0) * (codes_v**2).sum(0), 1.0)
    fitted_K = lengths_K * along / norms
    top = float(np.abs(fitted_K).max(initial=0.0))
    shift = PRECISE - math.frexp(top)[1] if top > 0 else 0
    return {
        "U": codes_u.astype(np.int8),
        "V": codes_v.astype(np.int8),
        "scales": np.rint(np.ldexp(fitted_K, shift)).astype(np.int32),
        "shift": np.array([shift], dtype=np.int32),
    }


def rounded(vectors_NK: NDArray[np.float64], largest_K: NDArray[np.float64]) -> NDArray[np.float64]:
    """Codes of vectors, each at the scale with which it has the least error; shape as given (N, K).

    Args:
        vectors_NK: Vectors in columns.
        largest_K: The largest code of each.
    """
    tops_K = np.maximum(np.abs(vectors_NK).max(0), 1e-300)
    best_NK, least_K = np.zeros_like(vectors_NK), np.full(vectors_NK.shape[1], np.inf)
    for clip in CLIPS:
        step_K = clip * tops_K / largest_K
        codes_NK = np.clip(np.rint(vectors_NK / step_K), -largest_K, largest_K)
        # Only the direction counts, since the length is fitted afterwards.
        norms_K = np.maximum((codes_NK**2).sum(0), 1e-300)
        error_K = (vectors_NK**2).sum(0) - (codes_NK * vectors_NK).sum(0) ** 2 / norms_K
        better_K = error_K < least_K
        best_NK[:, better_K], least_K[better_K] = codes_NK[:, better_K], error_K[better_K]
    return best_NK


def run(context: StepContext, options: DeltaComeOptions) -> Result:
    """Write the base with the compressed difference as output `model`, and measure what it lost.

    Raises:
        ConfigInvalid: The two are not of one architecture, or no matrix differs.
        Preempted: The step was asked to stop.
    """
    source, base = one(context, "model"), one(context, "base")
    out = context.output("model")
    beside = all_tensors(base.path)
    own = all_tensors(source.path)
    _check_same(source, own, base, beside)
    factors: dict[str, dict[str, NDArray[Any]]] = {}
    lost = total = spent = weights = 0.0
    worst = ("", 0.0)
    done = 0
    for file in sorted(source.path.glob("*.safetensors")):
        head, tensors = tensors_of(file)
        with (out / file.name).open("wb") as stream:
            stream.write(head)
            for tensor in tensors:
                if context.stopping():
                    raise Preempted(f"step '{context.step}': stopped while compressing; a retry starts again")
                words = tensor.words(0, tensor.size // tensor.width)
                there = beside[tensor.name].words(0, len(words))
                if (
                    len(tensor.shape) == 2
                    and tensor.dtype in FLOATS - {"F64"}
                    and not np.array_equal(words, there)
                ):
                    exact = to_float64(words, tensor.dtype) - to_float64(there, tensor.dtype)
                    rows, columns = tensor.shape
                    bits = plan_pairs((rows, columns), options)
                    parts = compress(exact.reshape(rows, columns), bits)
                    factors[tensor.name] = parts
                    words = applied(there, tensor.dtype, parts)
                    error = float(((exact.reshape(rows, columns) - product(parts)) ** 2).sum())
                    norm = float((exact**2).sum())
                    lost, total = lost + error, total + norm
                    spent += sum((rows + columns) * each + 32 for each in bits)
                    weights += rows * columns
                    worst = max(worst, (tensor.name, math.sqrt(error / norm)), key=lambda each: each[1])
                stream.write(words.tobytes())
                done += 1
                context.progress(0.9 * done / len(own), f"{done} of {len(own)} tensors")
    if not factors:
        raise ConfigInvalid(
            f"no matrix of '{source.ref}' differs from '{base.ref}': there is nothing to compress"
        )
    write_factors(out / FILE, factors)
    for path in sorted(source.path.iterdir()):
        if path.is_file() and any(path.match(pattern) for pattern in (*COPIED, "*.py")):
            shutil.copyfile(path, out / path.name)
    metrics = {
        "relative_error": math.sqrt(lost / total),
        "relative_error_worst": worst[1],
        "bits_per_weight": spent / weights,
        "factors_bytes": float((out / FILE).stat().st_size),
        **(compared(source.path, base.path, out) if options.probe else {}),
    }
    meta = {**model_meta(out), "base": base.digest, "approximates": source.digest, "error": metrics}
    lost_share, bits_spent = f"{metrics['relative_error']:.1%}", f"{metrics['bits_per_weight']:.2g}"
    return Result(
        figure=f"{lost_share} of the difference lost at {bits_spent} bits, most in {worst[0]}",
        metrics=metrics,
        meta={"model": meta},
    )


def compared(exact: Path, base: Path, out: Path) -> dict[str, float]:
    """How the compressed model's predictions differ from the exact one's on the probe, beside the base's.

    Returns:
        kl: Mean divergence from the exact model's predictions, in nats; kl_base: the base's; agreement: the
        share of positions with the same likeliest token; agreement_base.
    """
    import torch
    from torch.nn.functional import kl_div, log_softmax

    said = [log_softmax(probe_logits(load_model(path)[0])[0], -1) for path in (exact, out, base)]
    found = {}
    for name, predicted_TV in (("", said[1]), ("_base", said[2])):
        divergence = kl_div(predicted_TV, said[0], log_target=True, reduction="none").sum(-1).mean()
        found[f"kl{name}"] = float(torch.clamp(divergence, min=0.0))
        found[f"agreement{name}"] = float((predicted_TV.argmax(-1) == said[0].argmax(-1)).float().mean())
    return found


def _check_same(source: Input, own: Mapping[str, Tensor], base: Input, beside: Mapping[str, Tensor]) -> None:
    for name in sorted(own.keys() | beside.keys()):
        ours, theirs = own.get(name), beside.get(name)
        if ours is None or theirs is None or (ours.dtype, ours.shape) != (theirs.dtype, theirs.shape):
            said = [f"{each.dtype} {list(each.shape)}" if each else "not there" for each in (ours, theirs)]
            raise ConfigInvalid(
                f"'{source.ref}' is no difference from '{base.ref}': the tensor '{name}' is {said[0]} in the "
                f"first and {said[1]} in the second; the two must be of one architecture and precision"
            )


def estimate(options: DeltaComeOptions, metas: Mapping[str, list[Mapping[str, Any]]]) -> Estimate:
    """A few copies of the largest matrix in float64; the probe needs the model once in fp32 at a time."""
    model = next(iter(metas.get("model", [])), {})
    embedding = 8 * int(model.get("vocab_size", 0)) * int(model.get("hidden", 0))
    whole = 4 * int(model.get("parameters", 0)) if options.probe else 0
    return Estimate(
        memory_bytes=max(6 * embedding, 2 * whole),
        disk_bytes=int(model.get("bytes", 0)),
        meta={"model": dict(model)},
    )


METHOD = Method(
    summary="The difference from a base in about 1 bit a weight, lossy, with its error measured.",
    options=DeltaComeOptions,
    inputs={
        "model": Port(("model",), "the model to compress"),
        "base": Port(("model",), "the model it was tuned from, which stays as it is"),
    },
    outputs=OUTPUTS,
    run=run,
    estimate=estimate,
    paper="Ping et al. 2024, Delta-CoMe, arXiv:2406.08903",
)
