"""The tags of a version: digests and names from which everything that it came from can be walked to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tasks.recipe.fingerprints import canonical
from tasks.release.approvals import APPROVALS
from tasks.release.card import outside, stated_digest
from tasks.release.costs import cost_tags
from tasks.release.gates import GateResult
from tasks.release.records import PARENTS, Pinned, PlanFacts, StepRecord, ancestors
from tasks.release.versions import LineageFacts

PROCESS = "process"
"""`perennial.image` where no step ran in a container."""


@dataclass(frozen=True)
class Origin:
    """Where a version comes from.

    Attributes:
        plan: The run's plan.
        plan_uri: Where it is.
        records: The run's records by step.
        candidate: Facts of the model.
        evidence: Digest of the report.
        gates: The verdicts.
    """

    plan: PlanFacts
    plan_uri: str
    records: Mapping[str, StepRecord]
    candidate: LineageFacts
    evidence: str
    gates: Sequence[GateResult]

    @property
    def made(self) -> list[StepRecord]:
        """The records of the candidate's step and of all that it was made from, in the run's order."""
        step = self.plan.release.candidate.partition(".")[0]
        lineage = {record.step for record in ancestors(self.records, step)}
        return [record for name, record in self.records.items() if name in lineage]


def tags_of(origin: Origin) -> dict[str, str]:
    """Every tag but the number and the card; those that would be empty are left out."""
    plan, records = origin.plan, origin.records
    lineage = origin.candidate.model_dump(mode="json", exclude={"semantic"})
    lineage["trained"] = sorted(lineage["trained"])
    tags = {
        "perennial.candidate": origin.candidate.model,
        "perennial.report": origin.evidence,
        "perennial.stated": stated_digest(plan.effective),
        "perennial.plan": origin.plan_uri,
        "perennial.run": plan.run,
        "perennial.recipe": plan.recipe,
        "perennial.recipe_digest": plan.recipe_digest,
        "perennial.intent": plan.intent,
        "perennial.lineage": json.dumps(lineage, sort_keys=True),
        "perennial.license": plan.stated("license"),
        "perennial.uris": _pins(plan.uris),
        "perennial.bindings": _pins(plan.bindings),
        "perennial.parents": json.dumps(parents(origin)),
        "perennial.base": json.dumps(outside(plan, records, origin.made)),
        "perennial.code": hashlib.sha256(canonical(plan.code)).hexdigest(),
        "perennial.image": ", ".join(sorted({each.image for each in origin.made if each.image})) or PROCESS,
        "perennial.gates": json.dumps({gate.gate: gate.verdict for gate in origin.gates}),
        APPROVALS: str(plan.release.approvals) if plan.release.approvals > 1 else "",
        **{f"perennial.data.{name}": data.digest for name, data in plan.data.items()},
        **{f"perennial.step.{name}": record.main().digest for name, record in records.items()},
        **{
            f"perennial.step.{name}.{output}": made.digest
            for name, record in records.items()
            for output, made in record.outputs.items()
        },
        **cost_tags(plan, records),
    }
    return {name: value for name, value in tags.items() if value}


def parents(origin: Origin) -> list[str]:
    """Digests of the models and adapters that the candidate's step read: what it was made from."""
    step = origin.records[origin.plan.release.candidate.partition(".")[0]]
    read = {digest for many in step.inputs.values() for digest in many}
    models = {
        output.digest
        for record in origin.records.values()
        for output in record.outputs.values()
        if output.kind in PARENTS
    }
    pins = (*origin.plan.uris.values(), *origin.plan.bindings.values())
    models |= {pin.digest for pin in pins if pin is not None and pin.kind in PARENTS}
    return sorted(read & models)


def _pins(pins: Mapping[str, Pinned | None]) -> str:
    """Reference -> digest as JSON; "" if there is none."""
    held = {name: pin.digest for name, pin in pins.items() if pin is not None}
    return json.dumps(held, sort_keys=True) if held else ""
