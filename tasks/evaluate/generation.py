"""Text generated in batches with a key-value cache: the one place that samples from a model.

What a prompt gives depends on the prompt alone, up to rounding: prompts are padded on the left with the
positions of their own tokens, each draws from a stream of random numbers of its own, named by its key, and
what is finished leaves the batch. Batch size and order change speed and memory only.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from tasks.evaluate.scoring import Subject
from tasks.recipe.failures import ConfigInvalid, DataInvalid
from tasks.training.render import end_of_turn, render_prompt, require_template

Style = Literal["auto", "chat", "plain"]
"""How a prompt is put to a model: through its chat template, as plain text, or as the tokenizer allows."""
CONTEXT = 4
"""Tokens before a continuation that are decoded with it: some decoders drop a space before the first."""


@dataclass(frozen=True)
class Prompt:
    """Tokens to continue; `key` and `sample` name its random numbers."""

    key: str
    tokens: tuple[int, ...]
    sample: int = 0


@dataclass(frozen=True)
class Decoding:
    """How to continue a prompt.

    Attributes:
        new_tokens: Most tokens of a continuation.
        stop_tokens: Tokens that end it; they are not part of it.
        stops: Strings that end it; neither they nor what follows are part of it.
        temperature: 0 takes the likeliest token; else logits are divided by it and a token is drawn.
        top_p: Tokens are drawn from the smallest set whose probability reaches it (Holtzman et al. 2020,
            arXiv:1904.09751); without effect at temperature 0.
        seed: Of the random numbers.
    """

    new_tokens: int
    stop_tokens: frozenset[int]
    stops: tuple[str, ...] = ()
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Continuation:
    """What a model said: its tokens (of the text before any stop string too), the text, and what ended it."""

    tokens: tuple[int, ...]
    text: str
    ended: Literal["stop token", "stop string", "length"]


def speaks_chat(subject: Subject, style: Style) -> bool:
    """Whether prompts go through the chat template.

    Raises:
        ConfigInvalid: The style is `chat` and the tokenizer has no template.
    """
    if style == "chat":
        require_template(subject.tokenizer, f"model '{subject.ref}', prompt_style chat")
    return style == "chat" or (style == "auto" and bool(subject.tokenizer.chat_template))


def prompt_tokens(subject: Subject, key: str, text: str, chat: bool) -> tuple[int, ...]:
    """The tokens that a text is put to a model with: one user turn, or the prefix and the text itself."""
    if chat:
        return tuple(render_prompt(subject.tokenizer, [{"role": "user", "content": text}], key))
    return (*subject.prefix, *subject.encode(text))


def stop_tokens(subject: Subject, chat: bool) -> frozenset[int]:
    """The tokens that end a text: the tokenizer's and the model's end tokens, and what ends a chat's turn."""
    settings = getattr(subject.model, "generation_config", None)
    declared = getattr(settings, "eos_token_id", None)
    found = {subject.tokenizer.eos_token_id, *(declared if isinstance(declared, list) else [declared])}
    if chat:
        found.add(end_of_turn(subject.tokenizer))
    return frozenset(token for token in found if token is not None)


def generate(
    subject: Subject,
    prompts: Sequence[Prompt],
    decoding: Decoding,
    batch_size: int,
    progress: Callable[[float], None] = lambda done: None,
) -> list[Continuation]:
    """Continue every prompt, in the prompts' order.

    Args:
        subject: The model.
        prompts: What to continue.
        decoding: How.
        batch_size: Most prompts that run at once.
        progress: Called with the share done.

    Raises:
        DataInvalid: A prompt is empty or does not fit into the window with its continuation, or the model
            gives values that are not finite; names the prompt.
        ConfigInvalid: The architecture has no key-value cache.
    """
    if "past_key_values" not in inspect.signature(subject.model.forward).parameters:
        raise ConfigInvalid(
            f"model '{subject.ref}' ({type(subject.model).__name__}) has no key-value cache to generate "
            "with; leave out the sets that are measured by generating"
        )
    for prompt in prompts:
        if not prompt.tokens:
            raise DataInvalid(
                f"prompt '{prompt.key}' has no tokens, so that nothing can be predicted from it"
            )
        if len(prompt.tokens) + decoding.new_tokens > subject.window:
            raise DataInvalid(
                f"prompt '{prompt.key}' has {len(prompt.tokens)} tokens, which with {decoding.new_tokens} "
                f"new ones do not fit into the {subject.window} tokens of model '{subject.ref}': shorten it, "
                "ask for fewer new tokens, or raise max_length where the model allows it"
            )
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index].tokens))
    found: dict[int, Continuation] = {}
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        batch = [prompts[index] for index in chosen]
        found.update(zip(chosen, _continue(subject, batch, decoding), strict=True))
        progress(len(found) / len(order))
    return [found[index] for index in range(len(prompts))]


def next_tokens(
    logits_BV: torch.Tensor, temperature: float, top_p: float, uniforms_B: torch.Tensor
) -> torch.Tensor:
    """The next token of each row: the likeliest, or the one at which its uniform number falls.

    Args:
        logits_BV: The model's output.
        temperature: 0 for the likeliest.
        top_p: Probability of the set to draw from.
        uniforms_B: A number in [0, 1) for each row, float64.
    """
    if temperature == 0:
        return logits_BV.argmax(dim=1)
    probabilities_BV = torch.softmax(logits_BV.double() / temperature, dim=1)
    if top_p < 1:
        sorted_BV, order_BV = probabilities_BV.sort(dim=1, descending=True, stable=True)
        before_BV = sorted_BV.cumsum(dim=1) - sorted_BV
        sorted_BV = sorted_BV.masked_fill(before_BV >= top_p, 0.0)
        probabilities_BV = torch.zeros_like(sorted_BV).scatter(1, order_BV, sorted_BV)
    cumulative_BV = probabilities_BV.cumsum(dim=1)
    at_B1 = uniforms_B[:, None] * cumulative_BV[:, -1:]
    return torch.searchsorted(cumulative_BV, at_B1, right=True)[:, 0].clamp(max=logits_BV.shape[1] - 1)


def _uniforms(prompts: Sequence[Prompt], decoding: Decoding) -> torch.Tensor:
    """Random numbers for every prompt and position, from the seed and the prompt's own name alone: (B, T)."""
    drawn = []
    for prompt in prompts:
        name = f"{decoding.seed}/{prompt.sample}/{prompt.key}"
        generator = torch.Generator().manual_seed(
            int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little", signed=True)
        )
        drawn.append(torch.rand(decoding.new_tokens, generator=generator, dtype=torch.float64))
    return torch.stack(drawn)


@torch.inference_mode()
def _continue(subject: Subject, prompts: Sequence[Prompt], decoding: Decoding) -> list[Continuation]:
    accepted = inspect.signature(subject.model.forward).parameters
    longest = max(len(prompt.tokens) for prompt in prompts)
    feed_BT = torch.zeros(len(prompts), longest, dtype=torch.long)
    mask_BT = torch.zeros(len(prompts), longest, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        feed_BT[row, longest - len(prompt.tokens) :] = torch.tensor(prompt.tokens)
        mask_BT[row, longest - len(prompt.tokens) :] = 1
    positions_BT = (mask_BT.cumsum(dim=1) - 1).clamp(min=0)
    uniforms_BT = _uniforms(prompts, decoding) if decoding.temperature > 0 else torch.zeros(len(prompts), 1)
    said: list[list[int]] = [[] for _ in prompts]
    found: dict[int, Continuation] = {}
    running = list(range(len(prompts)))
    cache: Any = None
    for step in range(decoding.new_tokens):
        more: dict[str, Any] = {"position_ids": positions_BT} if "position_ids" in accepted else {}
        if "logits_to_keep" in accepted:
            more["logits_to_keep"] = 1
        given = subject.model(
            input_ids=feed_BT, attention_mask=mask_BT, past_key_values=cache, use_cache=True, **more
        )
        logits_BV, cache = given.logits[:, -1].float(), given.past_key_values
        finite_B = torch.isfinite(logits_BV).all(dim=1)
        if not finite_B.all():
            key = prompts[running[int(finite_B.logical_not().nonzero()[0, 0])]].key
            raise DataInvalid(f"model '{subject.ref}' gives logits that are not finite after prompt '{key}'")
        drawn_B = uniforms_BT[running, step] if decoding.temperature > 0 else uniforms_BT[running, 0]
        picked_B = next_tokens(logits_BV, decoding.temperature, decoding.top_p, drawn_B)
        stay = []
        for at, row in enumerate(running):
            ended = _take(subject, prompts[row], said[row], int(picked_B[at]), decoding)
            if ended is None:
                stay.append(at)
            else:
                found[row] = ended
        if not stay:
            break
        if len(stay) < len(running):
            cache.batch_select_indices(torch.tensor(stay))
            running = [running[at] for at in stay]
        feed_BT = picked_B[stay, None]
        mask_BT = torch.cat([mask_BT[stay], torch.ones(len(stay), 1, dtype=torch.long)], dim=1)
        positions_BT = positions_BT[stay, -1:] + 1
    return [found[row] for row in range(len(prompts))]


def _take(
    subject: Subject, prompt: Prompt, said: list[int], token: int, decoding: Decoding
) -> Continuation | None:
    """Add a token to what was said; the whole where that ends it."""
    if token in decoding.stop_tokens:
        return Continuation(tuple(said), _text(subject, prompt, said), "stop token")
    said.append(token)
    if decoding.stops:
        text = _text(subject, prompt, said)
        cuts = [place for place in (text.find(stop) for stop in decoding.stops) if place >= 0]
        if cuts:
            return Continuation(tuple(said), text[: min(cuts)], "stop string")
    if len(said) == decoding.new_tokens:
        return Continuation(tuple(said), _text(subject, prompt, said), "length")
    return None


def _text(subject: Subject, prompt: Prompt, said: Sequence[int]) -> str:
    """The text of a continuation, as it stands behind its prompt, without control tokens."""

    def decode(tokens: Sequence[int]) -> str:
        return str(
            subject.tokenizer.decode(
                list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        )

    context = prompt.tokens[-CONTEXT:]
    before = decode(context).rstrip("\ufffd")  # a character that only the continuation completes
    return decode([*context, *said])[len(before) :]
