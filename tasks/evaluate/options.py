"""The options of the suite: flat, one block a measure."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from tasks.evaluate.phrases import ANSWER_OPENINGS, REFUSAL_OPENINGS, REFUSALS, TOXIC
from tasks.stage import Options


class SuiteOptions(Options):
    """Options of the evaluation."""

    batch_size: int = Field(
        default=16,
        ge=1,
        description="most sequences run at once; changes speed and memory, not the scores",
        json_schema_extra={"unit": "sequences", "source": "fits small models into caches of a CPU"},
    )
    # --- generated text (closed_book, pass_at_k, refusal, toxicity) and cloze, retrieval
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

    @model_validator(mode="after")
    def _generation_fits(self) -> SuiteOptions:
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
