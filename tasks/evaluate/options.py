"""The suite's options, flat: those that every measure has, then those of one measure each."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from tasks.stage import Options

SHOTS = (0, 1, 2, 3, 4, 5, 8, 10, 16, 25, 32)
"""The numbers of examples that there are figures for."""


class SuiteOptions(Options):
    """Options of the evaluation."""

    batch_size: int = Field(
        default=64,
        ge=1,
        description="most sequences run at once; changes speed and memory, not the scores",
        json_schema_extra={"unit": "sequences", "source": "bounds what short sequences have beside tokens"},
    )
    batch_tokens: int = Field(
        default=2048,
        ge=1,
        description="most tokens run at once, padding included (a longer sequence runs alone); changes speed "
        "and memory, not the scores",
        json_schema_extra={"unit": "tokens", "source": "fits small models into caches of a CPU"},
    )
    max_length: int = Field(
        default=1024,
        ge=2,
        description="longest window; the model's own limit where that is smaller",
        json_schema_extra={
            "unit": "tokens",
            "source": "bounds memory; models with longer context gain little",
        },
    )
    stride: int | None = Field(
        default=None,
        ge=1,
        description="new tokens in each further window of a long document; half a window where not given",
        json_schema_extra={"unit": "tokens", "source": "every token has half a window of context"},
    )
    exam_prompt: str = Field(
        default="Question: {question}\nAnswer:",
        description="text before an option; {question} is replaced, a space joins it to the option",
        json_schema_extra={"source": "Brown et al. 2020, section 2.4"},
    )
    shots: list[int] = Field(
        default=[],
        description="numbers of solved examples before a question, rising, for the curve of few-shot "
        f"accuracy; each one of {', '.join(map(str, SHOTS))}",
        json_schema_extra={
            "unit": "examples",
            "source": "Brown et al. 2020, section 2.4; it takes a forward of all examples per question",
        },
    )
    wordings: list[str] = Field(
        default=[],
        description="exam prompts, each with {question}, whose accuracies are compared: those that the model "
        "was tuned on, or the usual ones",
        json_schema_extra={"source": "Sun et al. 2023, arXiv:2306.11270"},
    )
    wordings_unseen: list[str] = Field(
        default=[],
        description="exam prompts that say the same in words that the model was not tuned on",
        json_schema_extra={"source": "Sun et al. 2023, arXiv:2306.11270"},
    )
    limit: int | None = Field(
        default=None,
        ge=1,
        description="use only the first rows of each set, for a quick look",
        json_schema_extra={"unit": "rows"},
    )
    resamples: int = Field(
        default=2000,
        ge=100,
        description="bootstrap resamples",
        json_schema_extra={"source": "Efron and Tibshirani 1993: 1,000 or more for percentile intervals"},
    )
    confidence: float = Field(
        default=0.95,
        gt=0.5,
        lt=1.0,
        description="coverage of the intervals",
        json_schema_extra={"unit": "share"},
    )

    @model_validator(mode="after")
    def _lists_say_something(self) -> Self:
        if self.shots and (len(self.shots) < 2 or sorted(set(self.shots)) != self.shots):
            raise ValueError("shots: a curve needs two or more different numbers of examples, rising")
        unknown = [shot for shot in self.shots if shot not in SHOTS]
        if unknown:
            raise ValueError(f"shots: {unknown[0]} is none of {', '.join(map(str, SHOTS))}")
        if len(self.wordings) == 1:
            raise ValueError("wordings: one wording has no spread; give two or more")
        if self.wordings_unseen and not self.wordings:
            raise ValueError("wordings_unseen has nothing to be compared with; give wordings too")
        for name in ("wordings", "wordings_unseen"):
            prompts = getattr(self, name)
            if any("{question}" not in prompt for prompt in prompts):
                raise ValueError(f"{name}: every prompt must contain {{question}}")
            if len(set(prompts)) < len(prompts):
                raise ValueError(f"{name}: a prompt stands there twice")
        return self
