"""Completion-only fine-tuning: cross-entropy on the answers, none on what was asked.

Ouyang et al. 2022 (arXiv 2203.02155), section 3.5. Different from the paper, and usual since: only the
assistant's tokens and the token that ends each answer are supervised, not the prompt. The mask comes from
the model's own chat template and is verified against it for every row (tasks/training/render.py).

Options change the loss of a token (label smoothing, arXiv 1512.00567; dynamic fine-tuning, arXiv 2508.05629)
and the input (NEFTune's noise, arXiv 2310.05914); see tasks/training/objectives/causal_lm.py and neftune.py.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, Self

from peft import PeftModel
from pydantic import Field, model_validator

from tasks.recipe.failures import DataInvalid
from tasks.stage import Estimate, Method, Port, Result, StepContext, one
from tasks.training.chats import ChatSamples, render_chats
from tasks.training.estimate import training_estimate
from tasks.training.fit import fit
from tasks.training.guess import guess_tokens
from tasks.training.isolation import check_isolation
from tasks.training.models import load_model, model_meta, save_model
from tasks.training.objectives.causal_lm import causal_lm
from tasks.training.options import SOFT_PROMPTS, TrainOptions
from tasks.training.render import require_template
from tasks.training.rows import fill_token, longest_sample, read_rows
from tasks.training.trainable.soft_prompt import add_soft_prompt


class CompletionOptions(TrainOptions):
    """Options of completion-only fine-tuning."""

    lr: float = Field(
        2e-5,
        gt=0,
        description="Peak learning rate; an adapter (trainable: lora) takes about ten times as much.",
        json_schema_extra={"unit": "per step", "source": "open-instruct's finetune.py; TRL's SFT default"},
    )
    epochs: float = Field(
        2.0,
        gt=0,
        description="Passes over the data; a fraction is allowed.",
        json_schema_extra={"unit": "epochs", "source": "open-instruct's finetune.py"},
    )
    warmup: float = Field(
        0.03,
        ge=0,
        le=1,
        description="Share of the training in which the learning rate rises from 0 to its peak.",
        json_schema_extra={"unit": "share of training", "source": "open-instruct's finetune.py"},
    )
    weight_decay: float = Field(
        0.0,
        ge=0,
        description="AdamW's weight decay, on matrices only (not on norms and biases).",
        json_schema_extra={"source": "open-instruct's finetune.py"},
    )
    token_loss: Literal["nll", "dft"] = Field(
        "nll",
        description="Loss of a supervised token: its cross-entropy, or that times its probability (dynamic"
        " fine-tuning, which takes smaller steps on tokens the model finds unlikely).",
        json_schema_extra={"source": "dft: arXiv 2508.05629"},
    )
    label_smoothing: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of each target that is spread evenly over the vocabulary.",
        json_schema_extra={"unit": "share", "source": "arXiv 1512.00567"},
    )
    neftune: float = Field(
        0.0,
        ge=0,
        description="Strength of the noise on the input embeddings in training; 5 to 15 are usual, 0 is off.",
        json_schema_extra={"unit": "alpha", "source": "arXiv 2310.05914"},
    )
    turns: Literal["all", "last"] = Field(
        "all", description="Which of a conversation's answers are supervised."
    )
    max_length: int = Field(
        1024,
        ge=8,
        description="Longest sample; never more than the model has positions.",
        json_schema_extra={"unit": "tokens", "source": "TRL's SFT default"},
    )
    too_long: Literal["drop", "truncate"] = Field(
        "drop",
        description="Longer conversations are left out, or cut at the end; the mask report counts them.",
    )
    packing: bool = Field(
        True,
        description="Put several short conversations into one sample; they do not see each other.",
        json_schema_extra={"source": "arXiv 2107.02027"},
    )
    end_share: float = Field(
        0.9,
        ge=0,
        le=1,
        description="Least share of answers whose end is supervised; below it no model learns to stop.",
        json_schema_extra={"unit": "share"},
    )

    prompt_tokens: int = Field(
        20,
        ge=1,
        description="Tokens of a soft prompt (trainable: prompt or p_tuning); each conversation is so much "
        "longer.",
        json_schema_extra={"unit": "tokens", "source": "arXiv 2104.08691, section 3.2"},
    )

    @model_validator(mode="after")
    def _a_prompt_to_shape(self) -> Self:
        if self.trainable not in SOFT_PROMPTS and self.prompt_tokens != 20:
            raise ValueError(
                f"prompt_tokens has no effect while trainable is {self.trainable}; set trainable: "
                f"{' or '.join(SOFT_PROMPTS)}"
            )
        return self

    @model_validator(mode="after")
    def _one_change_of_the_targets(self) -> Self:
        if self.label_smoothing and self.token_loss == "dft":
            raise ValueError(
                "label_smoothing has no meaning with token_loss: dft, which weighs the loss by the one right"
                " token's probability; set one of the two"
            )
        return self


def run(context: StepContext, options: CompletionOptions) -> Result:
    """Fine-tunes the input model on the input conversations; raises what `tune` does."""
    return tune(context, options)


def tune(
    context: StepContext,
    options: CompletionOptions,
    keep_adapter: Callable[[PeftModel], None] | None = None,
) -> Result:
    """Fine-tunes the input model on the input conversations into the outputs `model` and `log`.

    Args:
        context: The step.
        options: Options.
        keep_adapter: See `tasks.training.fit.fit`.

    Raises:
        ConfigInvalid: The model has no chat template, or an option does not fit it.
        DataInvalid: A conversation cannot be rendered or has no answer, or too few answers end.
    """
    source, data = one(context, "model"), one(context, "data")
    model, tokenizer = load_model(source.path, options.precision)
    require_template(tokenizer, f"step '{context.step}', model '{source.ref}'")
    if options.trainable in SOFT_PROMPTS:
        add_soft_prompt(model, tokenizer, options.trainable, options.prompt_tokens, context.seed)
    max_length = longest_sample(source.path, options.max_length)
    chats = render_chats(
        read_rows(data.path),
        tokenizer,
        max_length=max_length,
        too_long=options.too_long,
        turns=options.turns,
    )
    report = chats.report
    (context.output("log") / "mask_report.json").write_text(
        json.dumps({"max_length": max_length, **report}, indent=1, ensure_ascii=False), encoding="utf-8"
    )
    if report["end_share"] < options.end_share:
        raise DataInvalid(
            f"only {report['end_share']:.0%} of answers in '{data.ref}' have their end token supervised "
            f"({report['truncated']['rows']} of {report['kept']} rows are cut); a model trained so would not "
            "stop. Raise max_length, set too_long: drop, or end the chat template's answers with a token."
        )
    samples = ChatSamples(
        [row for _, row in chats.rows],
        fill_token(tokenizer),
        capacity=max_length if options.packing else None,
    )
    objective = causal_lm(
        loss_chunk=options.loss_chunk,
        token_loss=options.token_loss,
        label_smoothing=options.label_smoothing,
        neftune=options.neftune,
    )
    tuned, done = fit(
        context,
        source.path,
        model,
        samples,
        objective,
        options,
        log_path=context.output("log") / "training.jsonl",
        check_first_batch=check_isolation if options.packing else None,
        keep_adapter=keep_adapter,
    )
    save_model(tuned, tokenizer, context.output("model"))
    facts = {
        "rows": report["kept"],
        "dropped": report["rows"] - report["kept"],
        "supervised_tokens": report["supervised_tokens"],
        "end_share": report["end_share"],
    }
    return Result(
        figure=f"loss {done.final_loss:.2f}",
        metrics={"loss": done.final_loss, "first_loss": done.first_loss, **facts},
        meta={
            "model": model_meta(context.output("model")),
            "log": {"steps": done.steps, "samples": done.samples, "tokens": done.tokens, **facts},
        },
    )


def estimate(options: CompletionOptions, inputs: Mapping[str, list[Mapping[str, Any]]]) -> Estimate:
    """What the training will need, from the number of rows and characters; tokens are a guess."""
    model, data = (next(iter(inputs.get(port, [])), {}) for port in ("model", "data"))
    rows = data.get("rows")
    tokens = guess_tokens(rows, data.get("characters"))
    samples = rows
    if options.packing and tokens is not None:
        samples = math.ceil(tokens / options.max_length)
    return training_estimate(
        options, model, samples=samples, tokens=tokens, sequence_length=options.max_length
    )


METHOD = Method(
    summary="Cross-entropy on the answers of conversations.",
    options=CompletionOptions,
    inputs={
        "model": Port(("model",), "the model to tune"),
        "data": Port(("chats",), "the conversations"),
    },
    outputs={"model": "model", "log": "training_log"},
    run=run,
    estimate=estimate,
    paper="arXiv 2203.02155",
)
