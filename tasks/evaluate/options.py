"""The suite's options, flat: those that every measure has, then those of one measure each."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from tasks.evaluate.phrases import ANSWER_OPENINGS, REFUSAL_OPENINGS, REFUSALS, TOXIC
from tasks.stage import Options

SHOTS = (0, 1, 2, 3, 4, 5, 8, 10, 16, 25, 32)
"""The numbers of examples that there are figures for."""

TEMPLATES = ("exam_prompt", "wordings", "wordings_unseen", "question_prompt")
"""The options that are prompt templates: the manifest has the digest of each that a measure uses."""


class SuiteOptions(Options):
    """Options of the evaluation."""

    batch_size: int = Field(
        default=64,
        ge=1,
        description="most sequences run at once; changes speed and memory, not the scores",
        json_schema_extra={"unit": "sequences", "source": "bounds what short sequences have beside tokens"},
    )
    batch_tokens: int = Field(
        default=1024,
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
    prompt_style: Literal["auto", "chat", "plain"] = Field(
        default="auto",
        description="how questions, programs and requests are put to a model: by its chat template, as plain "
        "text, or by the template where the tokenizer has one",
        json_schema_extra={"source": "the form that a model was tuned on; base models need plain"},
    )
    question_prompt: str = Field(
        default="Question: {question}\nAnswer:",
        description="plain text of a question or request; {question} is replaced; chats take it bare",
        json_schema_extra={"source": "Brown et al. 2020, section 2.4"},
    )
    cloze_k: int = Field(
        default=10,
        ge=2,
        description="k of precision at k of facts",
        json_schema_extra={"unit": "words", "source": "Petroni et al. 2019, table 2: 1, 10 and 100"},
    )
    answer_tokens: int = Field(
        default=32,
        ge=1,
        description="most tokens of a closed-book answer",
        json_schema_extra={"unit": "tokens", "source": "names and dates; longer answers match no reference"},
    )
    program_samples: int = Field(
        default=10,
        ge=1,
        description="programs sampled for each prompt",
        json_schema_extra={
            "unit": "samples",
            "source": "Chen et al. 2021 take 200; 10 is what a CPU affords",
        },
    )
    pass_k: int = Field(
        default=5,
        ge=1,
        description="k of pass at k; at most program_samples",
        json_schema_extra={"unit": "samples", "source": "half of the samples"},
    )
    program_tokens: int = Field(
        default=256,
        ge=1,
        description="most tokens of a program",
        json_schema_extra={"unit": "tokens", "source": "functions of a few dozen lines"},
    )
    program_temperature: float = Field(
        default=0.8,
        ge=0,
        le=5,
        description="temperature of the samples; 0 takes the likeliest token, and then one sample is enough",
        json_schema_extra={"source": "Chen et al. 2021, section 3.3: 0.8 for many samples, 0.2 for one"},
    )
    program_top_p: float = Field(
        default=0.95,
        gt=0,
        le=1,
        description="probability of the tokens drawn from",
        json_schema_extra={"unit": "share", "source": "Chen et al. 2021, section 3.3"},
    )
    program_seconds: int = Field(
        default=5,
        ge=1,
        le=600,
        description="processor time of a program; it may wait three times as long",
        json_schema_extra={"unit": "s", "source": "Chen et al. 2021's code: 3 s of wall time"},
    )
    program_memory_mib: int = Field(
        default=1024,
        ge=64,
        description="address space of a program",
        json_schema_extra={"unit": "MiB", "source": "the standard library needs about 50"},
    )
    reply_tokens: int = Field(
        default=48,
        ge=1,
        description="most tokens of a reply that is judged as refusal or answer",
        json_schema_extra={"unit": "tokens", "source": "refusals open a reply (Zou et al. 2023)"},
    )
    refusal_judge: Literal["phrases", "likelihood"] = Field(
        default="phrases",
        description="what makes a refusal: phrases in the generated reply, or openings of a refusal that are "
        "likelier than those of an answer",
        json_schema_extra={"source": "Zou et al. 2023, section 3.1"},
    )
    refusal_phrases: list[str] = Field(
        default=list(REFUSALS),
        min_length=1,
        description="phrases of a refusal, any case; other languages need their own",
        json_schema_extra={"source": "Zou et al. 2023, appendix"},
    )
    refusal_openings: list[str] = Field(
        default=list(REFUSAL_OPENINGS),
        min_length=1,
        description="how refusals begin, for the judge likelihood",
        json_schema_extra={"source": "Zou et al. 2023, section 2: openings decide"},
    )
    compliance_openings: list[str] = Field(
        default=list(ANSWER_OPENINGS),
        min_length=1,
        description="how answers begin, for the judge likelihood",
        json_schema_extra={"source": "Zou et al. 2023, section 2.1: 'Sure, here is'"},
    )
    continuation_samples: int = Field(
        default=25,
        ge=1,
        description="continuations sampled for each prompt that is looked at for toxicity",
        json_schema_extra={"unit": "samples", "source": "Gehman et al. 2020, section 4"},
    )
    continuation_tokens: int = Field(
        default=20,
        ge=1,
        description="tokens of a continuation",
        json_schema_extra={"unit": "tokens", "source": "Gehman et al. 2020, section 3"},
    )
    continuation_temperature: float = Field(
        default=1.0,
        gt=0,
        le=5,
        description="temperature of the continuations",
        json_schema_extra={"source": "Gehman et al. 2020, section 3"},
    )
    continuation_top_p: float = Field(
        default=0.9,
        gt=0,
        le=1,
        description="probability of the tokens drawn from",
        json_schema_extra={"unit": "share", "source": "Gehman et al. 2020, section 3"},
    )
    toxic_words: list[str] = Field(
        default=list(TOXIC),
        min_length=1,
        description="words and phrases that make a continuation toxic, any case; add slurs of your own",
        json_schema_extra={"source": "insults and curses of English"},
    )
    haystack_characters: int = Field(
        default=2000,
        ge=200,
        description="longest text in which a sentence is looked for; a quarter and a half of it are used too",
        json_schema_extra={"unit": "characters", "source": "fits into 1,024 tokens of most tokenizers"},
    )
    latency_tokens: int = Field(
        default=0,
        ge=0,
        description="new tokens that each model generates to be timed (metric latency_ms); 0 times none",
        json_schema_extra={"unit": "tokens", "source": "32 take some tenths of a second for small models"},
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

    @model_validator(mode="after")
    def _generation_fits(self) -> Self:
        if "{question}" not in self.question_prompt:
            raise ValueError("question_prompt must contain {question}")
        if self.pass_k > self.program_samples:
            raise ValueError(f"pass_k {self.pass_k} is above program_samples {self.program_samples}")
        if self.program_temperature == 0 and self.program_samples > 1:
            raise ValueError(
                "program_temperature 0 gives the same program each time: set program_samples to 1"
            )
        if self.program_temperature == 0 and self._changed("program_top_p"):
            raise ValueError("program_top_p has no effect at program_temperature 0: leave it out")
        of_the_other = _JUDGED["likelihood" if self.refusal_judge == "phrases" else "phrases"]
        idle = [name for name in of_the_other if self._changed(name)]
        if idle:
            raise ValueError(f"{', '.join(idle)}: no effect with refusal_judge {self.refusal_judge}")
        if not all(word.strip() for word in (*self.toxic_words, *self.refusal_phrases)):
            raise ValueError("toxic_words and refusal_phrases must have visible text")
        return self

    def _changed(self, name: str) -> bool:
        """Whether an option is another than its default."""
        return bool(getattr(self, name) != type(self).model_fields[name].default)


_JUDGED = {
    "phrases": ("refusal_phrases", "reply_tokens"),
    "likelihood": ("refusal_openings", "compliance_openings"),
}
"""Judge of refusals -> the options that it alone reads."""
