"""The options every training method shares. No torch here: the planner reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from tasks.stage import Options

ALL_LINEAR = "all-linear"
"""Every linear layer of the blocks, not the output head."""

Trainable = Literal[
    "full", "half", "layernorm",
    "lora", "rslora", "dora", "pissa", "eva", "adalora", "loha", "lokr", "vera", "ia3",
    "prompt", "p_tuning",
]  # fmt: skip

_LORA = ("lora_rank", "lora_alpha", "lora_dropout", "lora_targets", "lora_plus")

ADAPTERS: Mapping[str, tuple[str, ...]] = {
    "lora": _LORA,
    "rslora": _LORA,
    "dora": _LORA,
    "pissa": _LORA,
    "eva": _LORA,
    "adalora": ("lora_rank", "lora_alpha", "lora_dropout", "lora_targets"),
    "loha": ("lora_rank", "lora_alpha", "lora_targets"),
    "lokr": ("lora_rank", "lora_alpha", "lora_targets"),
    "vera": ("lora_rank", "lora_dropout", "lora_targets"),
    "ia3": (),
}
"""Adapter -> the options that shape it."""

SOFT_PROMPTS = ("prompt", "p_tuning")
"""Vectors before every conversation; only fine-tuning has them."""

BESIDE = (*ADAPTERS, *SOFT_PROMPTS)
"""What is trained beside a model whose own weights stay."""


class TrainOptions(Options):
    """Options of the training loop; a method's options extend them and may give other defaults."""

    lr: float = Field(
        1e-4,
        gt=0,
        description="Peak learning rate.",
        json_schema_extra={"unit": "per step", "source": "10-30 % of the pretraining peak"},
    )
    epochs: float = Field(
        1.0,
        gt=0,
        description="Passes over the data; a fraction is allowed.",
        json_schema_extra={"unit": "epochs"},
    )
    max_steps: int | None = Field(
        None,
        ge=1,
        description="Stop (and end the schedule) after so many optimiser steps, if that is earlier.",
        json_schema_extra={"unit": "optimiser steps"},
    )
    batch_size: int = Field(
        8, ge=1, description="Samples per micro-batch and process.", json_schema_extra={"unit": "samples"}
    )
    accumulation: int = Field(
        1, ge=1, description="Micro-batches per optimiser step.", json_schema_extra={"unit": "micro-batches"}
    )
    schedule: Literal["cosine", "linear", "wsd", "slanted", "inverse_sqrt", "constant"] = Field(
        "cosine",
        description="Learning rate after the warm-up: cosine or linear to the floor, warmup-stable-decay, "
        "slanted triangular (rises from the floor too), inverse square root, or constant.",
        json_schema_extra={
            "source": "cosine: arXiv 1608.03983; wsd: arXiv 2404.06395; slanted: arXiv 1801.06146; "
            "inverse_sqrt: arXiv 1706.03762"
        },
    )
    warmup: float = Field(
        0.01,
        ge=0,
        le=1,
        description="Share of the training in which the learning rate rises from 0 to its peak.",
        json_schema_extra={"unit": "share of training", "source": "arXiv 2403.08763"},
    )
    min_lr: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Floor of the cosine, linear, slanted and wsd fall, as a share of the peak.",
        json_schema_extra={"unit": "share of lr", "source": "arXiv 2203.15556"},
    )
    decay: float = Field(
        0.2,
        gt=0,
        le=1,
        description="Share of the training in which wsd falls to its floor, at the end.",
        json_schema_extra={"unit": "share of training", "source": "arXiv 2405.18392"},
    )
    weight_decay: float = Field(
        0.1,
        ge=0,
        description="AdamW's weight decay, on matrices only (not on norms and biases).",
        json_schema_extra={"source": "arXiv 2005.14165"},
    )
    beta1: float = Field(
        0.9, ge=0, lt=1, description="AdamW's first beta.", json_schema_extra={"source": "arXiv 2005.14165"}
    )
    beta2: float = Field(
        0.95, ge=0, lt=1, description="AdamW's second beta.", json_schema_extra={"source": "arXiv 2005.14165"}
    )
    clip: float = Field(
        1.0,
        ge=0,
        description="Largest norm of the gradient; 0 turns clipping off.",
        json_schema_extra={"source": "arXiv 2005.14165"},
    )
    zero_stage: int = Field(
        0,
        ge=0,
        le=3,
        description="DeepSpeed ZeRO stage: what is split over the processes (0 nothing, 3 everything).",
        json_schema_extra={"source": "arXiv 1910.02054"},
    )
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        "fp32",
        description="Numbers the model computes with; bf16 and fp16 keep fp32 master weights; fp16 scales "
        "the loss so that small gradients survive.",
        json_schema_extra={"source": "fp16: arXiv 1710.03740"},
    )
    optimiser: Literal["adamw", "adamw_8bit", "muon"] = Field(
        "adamw",
        description="AdamW; AdamW with 8-bit moments (needs bitsandbytes); or Muon for the matrices of the "
        "blocks and AdamW for the rest.",
        json_schema_extra={"source": "arXiv 1711.05101; 8 bit: arXiv 2110.02861; Muon: Jordan et al. 2024"},
    )
    muon_lr: float = Field(
        0.02,
        gt=0,
        description="Muon's peak learning rate; `lr` stays that of what AdamW trains.",
        json_schema_extra={"unit": "per step", "source": "Jordan et al. 2024, Muon"},
    )
    muon_momentum: float = Field(
        0.95,
        ge=0,
        lt=1,
        description="Muon's momentum (Nesterov).",
        json_schema_extra={"source": "Jordan et al. 2024, Muon"},
    )
    offload_optimiser: bool = Field(
        False,
        description="Keep the optimiser's state in the host's memory and update there (ZeRO 1 to 3).",
        json_schema_extra={"source": "arXiv 2101.06840"},
    )
    offload_parameters: bool = Field(
        False,
        description="Keep the weights in the host's memory and fetch each layer when it computes (ZeRO 3).",
        json_schema_extra={"source": "arXiv 2104.07857"},
    )
    attention: Literal["sdpa", "flash", "flex"] = Field(
        "sdpa",
        description="How attention is computed: torch's own; FlashAttention 2 (a package of its own); or "
        "torch's flex attention. The last two need a GPU and skip what packed documents must not see.",
        json_schema_extra={"source": "flash: arXiv 2307.08691; flex: arXiv 2412.05496"},
    )
    activation_checkpointing: bool = Field(
        False,
        description="Keep the blocks' inputs only, compute the rest again: less memory, a third more work.",
        json_schema_extra={"source": "arXiv 1604.06174"},
    )
    compile: bool = Field(False, description="Compile each block with torch.compile before the first step.")
    layer_decay: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Each layer's learning rate as a share of that of the layer above it.",
        json_schema_extra={"unit": "share of lr", "source": "arXiv 1801.06146; arXiv 2003.10555"},
    )
    unfreeze: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of the training over which the layers begin to learn, the top one first; 0: all "
        "from the start.",
        json_schema_extra={"unit": "share of training", "source": "arXiv 1801.06146"},
    )
    kl_weight: float = Field(
        0.0,
        ge=0,
        description="Weight of the divergence from the start model's predictions; 0 turns it off.",
        json_schema_extra={"unit": "per nat and supervised token", "source": "arXiv 1606.09282"},
    )
    l2_start: float = Field(
        0.0,
        ge=0,
        description="Weight of half the squared distance from the start weights (L2-SP); 0 turns it off.",
        json_schema_extra={"source": "arXiv 1802.01483"},
    )
    mixout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Chance of each weight of the blocks to be the start model's in a forward (Mixout).",
        json_schema_extra={"source": "arXiv 1909.11299"},
    )
    ema: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Decay per step of the moving average of the weights that is handed back; 0: the last.",
        json_schema_extra={"unit": "per step", "source": "Polyak and Juditsky 1992; arXiv 1703.01780"},
    )
    on_anomaly: Literal["stop", "skip", "rollback"] = Field(
        "stop",
        description="When the loss is NaN, infinite or exactly 0, the gradient not finite, or the loss jumps "
        "(spike): stop; leave the step out; or go back to the last checkpoint and leave out the data since.",
        json_schema_extra={"source": "rollback and skip: PaLM, arXiv 2204.02311, section 5.1"},
    )
    spike: float = Field(
        0.0,
        ge=0,
        description="A loss so many standard deviations above the last steps' mean is a spike; 0: none is.",
        json_schema_extra={"unit": "standard deviations"},
    )
    anomalies: int = Field(
        10,
        ge=1,
        description="Anomalies after which skip and rollback give up.",
        json_schema_extra={"unit": "anomalies"},
    )
    keep_checkpoints: int = Field(
        2,
        ge=1,
        description="Newest checkpoints kept while training.",
        json_schema_extra={"unit": "checkpoints"},
    )
    keep_best: bool = Field(
        False, description="Also keep the checkpoint with the lowest loss since the one before it."
    )
    loss_chunk: int = Field(
        0,
        ge=0,
        description="Positions whose logits exist at once; 0 holds those of the whole micro-batch.",
        json_schema_extra={"unit": "positions", "source": "arXiv 2410.10989"},
    )
    checkpoint_every: int = Field(
        50,
        ge=1,
        description="Optimiser steps between checkpoints.",
        json_schema_extra={"unit": "optimiser steps"},
    )
    threads: int | None = Field(
        None,
        ge=1,
        description="CPU threads; all of the machine's by default. Sums depend on it, so the log records it.",
        json_schema_extra={"unit": "threads"},
    )
    trainable: Trainable = Field(
        "full",
        description="What changes: all weights, half of each block (drawn by seed), the norms, an adapter "
        "that is merged into the weights at the end, or a soft prompt (only in fine-tuning).",
        json_schema_extra={
            "source": "half: arXiv 2404.18466; layernorm: arXiv 2312.11420; lora: arXiv 2106.09685; rslora: "
            "2312.03732; dora: 2402.09353; pissa: 2404.02948; eva: 2410.07170; adalora: 2303.10512; loha: "
            "2108.06098; lokr: 2309.14859; vera: 2310.11454; ia3: 2205.05638; prompt: 2104.08691; p_tuning: "
            "2103.10385"
        },
    )
    frozen: list[str] = Field(
        [],
        description="Patterns (with * and ?) over the names of parameters that must not change.",
    )
    lora_rank: int = Field(
        16,
        ge=1,
        description="Rank of the adapter.",
        json_schema_extra={"source": "arXiv 2106.09685"},
    )
    lora_alpha: float = Field(
        32.0,
        gt=0,
        description="Scale of the adapter: an update counts alpha / rank times (rslora: / root of rank).",
        json_schema_extra={"source": "twice a rank of 16, the usual choice"},
    )
    lora_dropout: float = Field(
        0.0, ge=0, lt=1, description="Share of an adapter's inputs dropped while training."
    )
    lora_targets: list[str] = Field(
        [ALL_LINEAR],
        min_length=1,
        description="Ends of the names of the layers with an adapter; all-linear: all but the output head.",
        json_schema_extra={"source": "arXiv 2305.14314"},
    )
    lora_plus: float = Field(
        1.0,
        ge=1,
        description="How many times lr the adapter's B matrices learn with (LoRA+); the paper advises 16.",
        json_schema_extra={"unit": "times lr", "source": "arXiv 2402.12354"},
    )

    @field_validator("trainable", mode="before")
    @classmethod
    def _gives_a_whole_model(cls, value: object) -> object:
        if value in ("prefix", "prefix_tuning"):
            raise ValueError(
                f"{value} trains keys and values of every layer, which no whole model can hold; use prompt "
                "or p_tuning, which train vectors before the input, or ia3 or vera"
            )
        if value in SOFT_PROMPTS and "prompt_tokens" not in cls.model_fields:
            raise ValueError(
                f"{value} trains what a chat template writes first, so it is for fine-tuning; use lora, or "
                "ia3 or vera for fewer parameters"
            )
        return value

    @model_validator(mode="after")
    def _no_option_without_effect(self) -> Self:
        for name, works, remedy in self._conditions():
            if not works and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} {remedy}")
        return self

    def _conditions(self) -> list[tuple[str, bool, str]]:
        """Option, whether it has an effect (or can work) beside the others, and what to do where not."""
        adapter = self.trainable in BESIDE
        whole = self.zero_stage < 3
        partitioned = (
            "needs whole parameters in every process, which ZeRO 3 does not have; use zero_stage 0 to 2"
        )
        merged = "is about the model's own weights, which an adapter leaves alone; set trainable: full"
        plain = self.zero_stage == 0 and self.precision == "fp32"
        shaped = (
            "works on whole fp32 matrices and their gradients, which DeepSpeed flattens under ZeRO and in 16 "
            "bit; set zero_stage: 0 and precision: fp32"
        )
        conditions = [
            (name, name in ADAPTERS.get(self.trainable, ()), self._adapter_remedy(name))
            for name in ("lora_rank", "lora_alpha", "lora_dropout", "lora_targets", "lora_plus")
        ]
        conditions += [
            (
                "decay",
                self.schedule == "wsd",
                f"has no effect with schedule {self.schedule}; set schedule: wsd",
            ),
            (
                "min_lr",
                self.schedule not in ("constant", "inverse_sqrt"),
                f"has no effect with schedule {self.schedule}, which has no floor",
            ),
            ("schedule", self.schedule != "inverse_sqrt" or self.warmup > 0, "inverse_sqrt needs a warmup"),
            (
                "frozen",
                not adapter,
                "has no effect with an adapter, which freezes the whole model; leave it out",
            ),
            (
                "kl_weight",
                self.trainable not in SOFT_PROMPTS,
                "would hold to the prompt's first, random vectors; a soft prompt leaves the model as it was",
            ),
            ("l2_start", not adapter, merged),
            ("mixout", not adapter, merged),
            *((name, whole, partitioned) for name in ("kl_weight", "l2_start", "mixout", "ema")),
            (
                "mixout",
                not self.compile,
                "replaces what the layers compute, which compile would not see; drop one",
            ),
            (
                "compile",
                whole,
                "cannot see the weights that ZeRO 3 fetches layer by layer; use zero_stage 0 to 2",
            ),
            (
                "loss_chunk",
                whole,
                "does not work with zero_stage 3, which splits the output layer over the processes; set "
                "zero_stage to 2 or less, or loss_chunk: 0",
            ),
            ("anomalies", self.on_anomaly != "stop", "has no effect while on_anomaly is stop"),
            ("muon_lr", self.optimiser == "muon", "has no effect without optimiser: muon"),
            ("muon_momentum", self.optimiser == "muon", "has no effect without optimiser: muon"),
            ("lora_plus", self.optimiser != "muon", "is a rate of AdamW; set optimiser: adamw"),
            ("optimiser", self.optimiser != "muon" or plain, f"muon {shaped}"),
            ("optimiser", self.optimiser != "adamw_8bit" or plain, f"adamw_8bit {shaped}"),
            ("trainable", self.trainable != "adalora" or plain, f"adalora {shaped}"),
            ("offload_optimiser", self.zero_stage > 0, "is a part of ZeRO; set zero_stage 1, 2 or 3"),
            (
                "offload_optimiser",
                self.optimiser == "adamw",
                f"updates with DeepSpeed's AdamW for the CPU, not {self.optimiser}; set optimiser: adamw",
            ),
            ("offload_parameters", self.zero_stage == 3, "is a part of ZeRO 3; set zero_stage: 3"),
        ]
        return conditions

    def _adapter_remedy(self, name: str) -> str:
        usable = [trainable for trainable, used in ADAPTERS.items() if name in used]
        return f"has no effect while trainable is {self.trainable}; set trainable: {' or '.join(usable)}"
