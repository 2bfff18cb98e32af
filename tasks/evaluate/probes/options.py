"""Options that probes share."""

from __future__ import annotations

from pydantic import Field

from tasks.stage import Options

LIMIT = Field(
    200,
    ge=2,
    description="Most rows of a set; the first ones are taken.",
    json_schema_extra={"unit": "rows", "source": "bounds time"},
)
"""The option `limit` of a probe that reads a set."""


class ProbeOptions(Options):
    """Options of a probe whose items are a sample of more: its figures have intervals."""

    resamples: int = Field(
        2000,
        ge=100,
        description="Bootstrap resamples.",
        json_schema_extra={"source": "Efron and Tibshirani 1993: 1,000 or more for percentile intervals"},
    )
    confidence: float = Field(
        0.95, gt=0.5, lt=1.0, description="Coverage of the intervals.", json_schema_extra={"unit": "share"}
    )


class ScoringOptions(ProbeOptions):
    """Options of a probe that scores text."""

    batch_size: int = Field(
        16,
        ge=1,
        description="Most sequences run at once; changes speed and memory, not the scores.",
        json_schema_extra={"unit": "sequences", "source": "fits small models into caches of a CPU"},
    )
    max_length: int = Field(
        256,
        ge=8,
        description="Longest sequence; the model's own limit where that is smaller.",
        json_schema_extra={"unit": "tokens", "source": "bounds memory"},
    )


class TuningOptions(ScoringOptions):
    """Options of a probe that trains for a moment."""

    lr: float = Field(
        1e-3,
        gt=0,
        description="Highest learning rate of the short training, after its warm-up: it falls as a cosine to "
        "a tenth. The same for every model, or their figures do not compare.",
        json_schema_extra={
            "unit": "per step",
            "source": "moves the demo's 2.6M parameters; 1e-5 to 1e-4 for 1B",
        },
    )
    tuning_batch: int = Field(
        8, ge=1, description="Samples of one optimiser step.", json_schema_extra={"unit": "samples"}
    )
    threads: int | None = Field(
        None,
        ge=1,
        description="CPU threads of the short training; all of the machine's by default. Sums depend on it.",
        json_schema_extra={"unit": "threads"},
    )


class SeededOptions(TuningOptions):
    """Options of a probe whose trainings are repeated with other seeds."""

    seeds: int = Field(
        3,
        ge=2,
        description="How often the short training is run, each time with a seed of its own: scores are means "
        "over seeds, and how far they differ is told beside them.",
        json_schema_extra={"unit": "trainings", "source": "the fewest that show an odd one"},
    )
