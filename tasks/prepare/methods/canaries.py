"""canaries: made-up secrets planted in documents, to be looked for in the trained model.

Carlini et al. 2019, "The Secret Sharer" (arXiv:1802.08232), section 4: a canary is a random secret in a fixed
format; how far it stands out among secrets of the same format that were never planted tells how much a
training memorises (tasks/evaluate/methods/canaries.py). Train Once, Answer All (P410): such experiments ride
along in the one training there is, their number being far too small to change it.

Different from the papers: a canary stands at the beginning of a document instead of being one, so that the
deduplication of a later step does not undo its repetitions. Some canaries are never planted: where they stand
out too, it is the probe that errs.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from tasks.recipe.failures import DataInvalid
from tasks.stage import Estimate, Method, Options, Port, Result, StepContext, one
from tasks.training.rows import read_rows

SYLLABLES = ("ba", "ku", "ri", "to", "ne", "mi", "sa", "lo", "ve", "da", "pi", "zu", "ga", "ho", "ja", "we")


class CanariesOptions(Options):
    """Options of the canaries."""

    count: int = Field(
        8, ge=1, description="Canaries that are planted.", json_schema_extra={"unit": "canaries"}
    )
    controls: int = Field(
        8, ge=1, description="Canaries that are never planted.", json_schema_extra={"unit": "canaries"}
    )
    repeats: int = Field(
        8,
        ge=1,
        description="Documents that each canary is planted in.",
        json_schema_extra={"unit": "documents", "source": "arXiv:1802.08232, section 6: 1 to 16 and more"},
    )
    twins: int = Field(
        127,
        ge=1,
        description="Other secrets of the same format that each is ranked among; 127 measure up to 7 bits.",
        json_schema_extra={"unit": "secrets", "source": "arXiv:1802.08232, section 4.3, by sampling"},
    )
    digits: int = Field(
        8, ge=2, le=32, description="Length of a secret.", json_schema_extra={"unit": "digits"}
    )
    template: str = Field(
        "The access code of {name} is {secret}.",
        description="A canary's text; {name} is a made-up word, {secret} its digits, which come after it.",
    )

    @field_validator("template")
    @classmethod
    def _has_both(cls, value: str) -> str:
        name, secret = value.find("{name}"), value.find("{secret}")
        if name < 0 or secret < name or value.count("{name}") != 1 or value.count("{secret}") != 1:
            raise ValueError(f"template {value!r} needs {{name}} once and {{secret}} once after it")
        if not value[:secret].rstrip():
            raise ValueError(f"template {value!r} needs a word before {{secret}}")
        return value


def make(options: CanariesOptions, seed: int) -> list[dict[str, Any]]:
    """The canaries: those to plant first, then the controls; a pure function of options and seed.

    Returns:
        Rows of kind canaries: key, planted, prompt (the text up to the secret), secret (the rest of the text)
        and twins (what might as well stand in the secret's place).
    """
    draw = random.Random(f"canaries/{seed}")
    names: list[str] = []
    while len(names) < options.count + options.controls:
        name = "".join(draw.choice(SYLLABLES) for _ in range(4)).capitalize()
        if name not in names:
            names.append(name)
    rows = []
    for number, name in enumerate(names):
        head, _, tail = options.template.partition("{secret}")
        prompt = head.replace("{name}", name).rstrip()
        gap = head[len(head.rstrip()) :]
        secrets: list[str] = []
        while len(secrets) < options.twins + 1:
            secret = "".join(draw.choice("0123456789") for _ in range(options.digits))
            if secret not in secrets:
                secrets.append(secret)
        first, *twins = [f"{gap}{secret}{tail}" for secret in secrets]
        planted = number < options.count
        rows.append(
            {
                "key": f"planted-{number}" if planted else f"control-{number - options.count}",
                "planted": planted,
                "prompt": prompt,
                "secret": first,
                "twins": twins,
            }
        )
    return rows


def run(context: StepContext, options: CanariesOptions) -> Result:
    """Plants the canaries in the documents.

    Raises:
        DataInvalid: There are fewer documents than places for canaries.
    """
    source = one(context, "documents")
    documents = list(read_rows(source.path))
    needed = options.count * options.repeats
    if len(documents) < needed:
        raise DataInvalid(
            f"step '{context.step}': '{source.ref}' has {len(documents)} documents and {options.count} "
            f"canaries in {options.repeats} each need {needed}; lower count or repeats"
        )
    canaries = make(options, context.seed)
    planted = [row for row in canaries if row["planted"]]
    places = random.Random(f"places/{context.seed}").sample(range(len(documents)), needed)
    for number, place in enumerate(places):
        canary = planted[number % len(planted)]
        row = documents[place]
        documents[place] = {**row, "text": f"{canary['prompt']}{canary['secret']}\n\n{row['text']}"}
    characters = _write(context.output("documents"), documents)
    _write(context.output("canaries"), canaries)
    return Result(
        figure=f"{options.count} canaries in {needed} of {len(documents):,} documents",
        metrics={"canaries": float(options.count), "places": float(needed)},
        meta={
            "documents": {"rows": len(documents), "characters": characters},
            "canaries": {"rows": len(canaries)},
        },
    )


def _write(directory: Path, rows: list[dict[str, Any]]) -> int:
    """Writes rows.jsonl; returns the characters of its texts."""

    def lines() -> Iterator[str]:
        for row in rows:
            yield json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n"

    with (directory / "rows.jsonl").open("w", encoding="utf-8") as stream:
        stream.writelines(lines())
    return sum(len(row.get("text", "")) for row in rows)


def estimate(options: CanariesOptions, inputs: Mapping[str, list[Mapping[str, Any]]]) -> Estimate:
    """The documents as they were; the canaries add next to nothing."""
    facts = next(iter(inputs.get("documents", [])), {})
    known = {name: facts[name] for name in ("rows", "characters") if name in facts}
    rows = options.count + options.controls
    return Estimate(meta={"documents": known, "canaries": {"rows": rows}})


METHOD = Method(
    summary="Plant made-up secrets in documents, to see later whether the model memorised them.",
    options=CanariesOptions,
    inputs={"documents": Port(("documents",), "The text to plant them in.")},
    outputs={"documents": "documents", "canaries": "canaries"},
    run=run,
    estimate=estimate,
    paper="Carlini et al. 2019, The Secret Sharer, arXiv:1802.08232",
)
