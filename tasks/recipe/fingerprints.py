"""Fingerprints: the digest of everything that a step's result depends on, and why two of them differ."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tasks.recipe.plan import PlannedStep

FORMAT = 1


def canonical(value: Any) -> bytes:
    """JSON in its one form: keys sorted, no spaces, UTF-8, finite numbers only.

    Raises:
        ValueError: A number is infinite or NaN.
        TypeError: Something is not JSON.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def digest(value: Any) -> str:
    """The sha256 (hex) of a value's canonical JSON."""
    return hashlib.sha256(canonical(value)).hexdigest()


def ingredients(
    step: PlannedStep, inputs: Mapping[str, list[str]], code: Mapping[str, Any]
) -> dict[str, Any]:
    """Everything that a step's result depends on.

    The step's own name and its resources do not count: the same work under another name is the same work.

    Args:
        step: The step of a plan.
        inputs: The digests of each port's artefacts, as they are now.
        code: Digests by folder, and `versions` of libraries.

    Raises:
        ValueError: The digests are not one for each of the step's inputs.
    """
    if {port: len(many) for port, many in inputs.items()} != {
        p: len(many) for p, many in step.inputs.items()
    }:
        raise ValueError(f"step '{step.name}': one digest is needed for each of its inputs")
    return {
        "format": FORMAT,
        "stage": step.stage,
        "method": step.method,
        "options": dict(step.options),
        "seed": step.seed,
        "inputs": {
            port: [
                {"label": given.label, "digest": each}
                for given, each in zip(step.inputs[port], many, strict=True)
            ]
            for port, many in inputs.items()
        },
        "code": dict(code),
    }


def fingerprint(ingredients: Mapping[str, Any]) -> str:
    """The digest (sha256, hex) that names a step's result before it exists."""
    return digest(dict(ingredients))


def explain(old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> list[str]:
    """Why a step cannot reuse its last result, each reason a line for people; empty if nothing differs."""
    if old is None:
        return ["never run before"]
    reasons: list[str] = []
    before, after = (f"{each['stage']}/{each['method']}" for each in (old, new))
    if before != after:
        reasons.append(f"method changed: {before} -> {after}")
    reasons += _changes("options.{} changed", old["options"], new["options"])
    if old["seed"] != new["seed"]:
        reasons.append(f"seed changed: {old['seed']} -> {new['seed']}")
    for port in sorted({*old["inputs"], *new["inputs"]}):
        reasons += _input_changes(port, old["inputs"].get(port, []), new["inputs"].get(port, []))
    old_code, new_code = dict(old["code"]), dict(new["code"])
    versions = old_code.pop("versions", {}), new_code.pop("versions", {})
    reasons += [
        f"code of {group} changed"
        for group in sorted({*old_code, *new_code})
        if old_code.get(group) != new_code.get(group)
    ]
    reasons += _changes("{} changed", *versions)
    if old["format"] != new["format"]:
        reasons.append(f"the format of fingerprints changed: {old['format']} -> {new['format']}")
    return reasons


def _changes(words: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    return [
        f"{words.format(key)}: {_show(old, key)} -> {_show(new, key)}"
        for key in sorted({*old, *new})
        if key not in old or key not in new or canonical(old[key]) != canonical(new[key])
    ]


def _input_changes(port: str, old: list[dict[str, str]], new: list[dict[str, str]]) -> list[str]:
    reasons: list[str] = []
    if not old or not new:
        verb, given = ("is new", new) if new else ("is gone", old)
        return [f"input {port} {verb} ({', '.join(each['label'] for each in given)})"] if given else []
    if len(old) != len(new):
        before, after = (", ".join(each["label"] for each in many) for many in (old, new))
        return [f"input {port} changed: [{before}] -> [{after}]"]
    for before_one, after_one in zip(old, new, strict=True):
        if before_one["digest"] != after_one["digest"]:
            short = f"{before_one['digest'][:6]} -> {after_one['digest'][:6]}"
            reasons.append(f"input {port} changed ({after_one['label']}): {short}")
        elif before_one["label"] != after_one["label"]:
            reasons.append(f"input {port} is called otherwise: {before_one['label']} -> {after_one['label']}")
    return reasons


def _show(values: Mapping[str, Any], key: str) -> str:
    """A value as people write it: 1e-4, not 0.0001; `unset` where there is none."""
    if key not in values:
        return "unset"
    value = values[key]
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value and not 1e-3 <= abs(value) < 1e6:
        sign, digits, shift = Decimal(repr(value)).normalize().as_tuple()
        first, rest = str(digits[0]), "".join(str(digit) for digit in digits[1:])
        mantissa = f"{first}.{rest}" if rest else first
        return f"{'-' if sign else ''}{mantissa}e{int(shift) + len(digits) - 1}"
    return json.dumps(value)
