"""The one renderer of conversations: training, evaluation and inference see the same tokens.

What is supervised is found by position, never by token id, so that a pad token equal to the end token cannot
unteach stopping. No `{% generation %}` marks are needed: the conversation is rendered once as it is and once
with a placeholder in the answer's place. What both renderings share is the template's own text; what differs
is the answer. An empty thinking block or a role header is therefore never supervised, whatever the template.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from tasks.recipe.failures import ConfigInvalid, DataInvalid

Message = Mapping[str, Any]
"""A turn of a conversation: {"role": ..., "content": ...}."""

PLACEHOLDER = "\u2042perennial\u2042"
"""Stands for an answer; no whitespace at its ends, so that a template that trims leaves it alone."""


@dataclass(frozen=True)
class Rendered:
    """A conversation as tokens.

    Attributes:
        input_ids: The tokens, special ones included, as `apply_chat_template` would give them.
        mask: Per token, whether it is supervised: the answers and the token that ends each.
        answers: Supervised answers.
        ends: Of those, the answers whose end token is supervised.
    """

    input_ids: list[int]
    mask: list[bool]
    answers: int
    ends: int

    @property
    def supervised(self) -> int:
        """The number of supervised tokens."""
        return sum(self.mask)


def require_template(tokenizer: PreTrainedTokenizerBase, where: str) -> None:
    """Refuses a tokenizer that cannot render conversations.

    Args:
        tokenizer: The model's tokenizer.
        where: The step and the model, for the message.

    Raises:
        ConfigInvalid: There is no chat template, or the tokenizer does not tell where a token came from.
    """
    if not tokenizer.chat_template:
        raise ConfigInvalid(
            f"{where}: the model's tokenizer has no chat template. Add `chat_template.jinja` to the model "
            "directory, or start from a model that has one."
        )
    if not tokenizer.is_fast:
        raise ConfigInvalid(
            f"{where}: the tokenizer has no tokenizer.json; convert it to the fast format first."
        )


def template_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """The sha256 of the chat template and of the special tokens that it is rendered with."""
    facts = [tokenizer.chat_template, sorted((k, str(v)) for k, v in tokenizer.special_tokens_map.items())]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def render_prompt(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], key: str = ""
) -> list[int]:
    """The tokens that an answer to `messages` is generated from, the generation prompt included."""
    text = _text(tokenizer, messages, key, prompt=True)
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    _check_bos(tokenizer, ids, key)
    return ids


def render(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], key: str = "", first: int = 0
) -> Rendered:
    """Renders a conversation and marks what a model learns from it.

    Args:
        tokenizer: A tokenizer with a chat template.
        messages: The conversation.
        key: The row's key, for messages.
        first: Assistant turns from this message on are supervised; 0 means all of them.

    Raises:
        DataInvalid: The template refuses the conversation or rewrites it so that prompt and answer cannot be
            told apart, a token straddles their border, the text holds a special token, the result has more
            than one BOS, or nothing is supervised. The message names the row.
    """
    _check_contents(tokenizer, messages, key)
    text = _text(tokenizer, messages, key)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids: list[int] = encoded["input_ids"]
    offsets: list[tuple[int, int]] = encoded["offset_mapping"]
    _check_bos(tokenizer, ids, key)
    mask = [False] * len(ids)
    answers = ends = 0
    for turn, message in enumerate(messages):
        if turn < first or message["role"] != "assistant":
            continue
        start, stop, ended = _span(tokenizer, messages, turn, text, key)
        prompt = render_prompt(tokenizer, messages[:turn], key)
        if prompt != ids[: len(prompt)] or (start < len(text) and _straddled(offsets, start)):
            raise DataInvalid(
                f"row '{key}', message {turn}: the tokens of its prompt are no prefix of those of the whole "
                "conversation, so the model would be trained on other tokens than it generates from. The "
                "chat template and the tokenizer merge the prompt's end with the answer's beginning."
            )
        for position, (begin, end) in enumerate(offsets):
            mask[position] |= begin < stop and end > start and position >= len(prompt)
        answers += 1
        ends += ended
    if not any(mask):
        raise DataInvalid(
            f"row '{key}': nothing in it is supervised: it has no assistant turn"
            + (f" from message {first} on." if first else ".")
        )
    return Rendered(ids, mask, answers, ends)


def mask_report(
    kept: Sequence[tuple[str, Rendered]], dropped: Mapping[str, Sequence[str]], truncated: Sequence[str] = ()
) -> dict[str, Any]:
    """What a training set supervises, for people and for rules.

    Args:
        kept: Key and rendering of every row that is trained on.
        dropped: Reason -> keys of the rows left out.
        truncated: Keys of the rows that were cut (still trained on).

    Returns:
        JSON-ready counts; `end_share` is the share of supervised answers that teach the model to stop;
        `supervised_per_row` has the supervised tokens of every row by key.
    """
    counts = sorted(row.supervised for _, row in kept)
    tokens = sum(len(row.input_ids) for _, row in kept)
    answers = sum(row.answers for _, row in kept)
    return {
        "rows": len(kept) + sum(len(keys) for keys in dropped.values()),
        "kept": len(kept),
        "dropped": {
            reason: {"rows": len(keys), "first_keys": list(keys[:5])}
            for reason, keys in dropped.items()
            if keys
        },
        "truncated": {"rows": len(truncated), "first_keys": list(truncated[:5])},
        "tokens": tokens,
        "supervised_tokens": sum(counts),
        "supervised_share": sum(counts) / tokens if tokens else 0.0,
        "supervised_least": counts[0] if counts else 0,
        "supervised_median": counts[len(counts) // 2] if counts else 0,
        "supervised_most": counts[-1] if counts else 0,
        "answers": answers,
        "end_share": sum(row.ends for _, row in kept) / answers if answers else 0.0,
        "supervised_per_row": {key: row.supervised for key, row in kept},
    }


def _text(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], key: str, *, prompt: bool = False
) -> str:
    """The conversation as the template writes it."""
    if not messages:
        raise DataInvalid(f"row '{key}': an answer without a question before it.")
    try:
        return str(
            tokenizer.apply_chat_template(
                [dict(message) for message in messages], tokenize=False, add_generation_prompt=prompt
            )
        )
    except (TemplateError, TypeError) as error:
        roles = ", ".join(str(message.get("role")) for message in messages)
        raise DataInvalid(f"row '{key}': the chat template refuses it (roles: {roles}): {error}") from error


def _span(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], turn: int, text: str, key: str
) -> tuple[int, int, bool]:
    """Where the answer of `turn` stands in `text`, its end token included; and whether it has one."""
    blank = [*messages[:turn], {**messages[turn], "content": PLACEHOLDER}, *messages[turn + 1 :]]
    head, found, tail = _text(tokenizer, blank, key).partition(PLACEHOLDER)
    prompt = _text(tokenizer, messages[:turn], key, prompt=True)
    start = len(head)
    if not text.startswith(head):
        # The template wrote the answer's surroundings by its content (reasoning in the answer): all that
        # follows the generation prompt is then the model's to write.
        start = len(prompt)
    stop = len(text) - len(tail)
    if (
        not found
        or not text.startswith(prompt)
        or len(prompt) > start
        or start > stop
        or not text.endswith(tail)
    ):
        raise DataInvalid(
            f"row '{key}', message {turn}: the chat template does not render the conversation as its prompt "
            "followed by the answer, so what to supervise is unknown. Prompt ends with "
            f"{prompt[-40:]!r}; the conversation has there "
            f"{text[max(0, len(prompt) - 40) : len(prompt) + 20]!r}."
        )
    # The end token is what closes this turn as the last one; what only opens the next turn is not.
    closing = _text(tokenizer, blank[: turn + 1], key).partition(PLACEHOLDER)[2]
    end = re.match(rf"\s*(?:{_specials(tokenizer)})", closing)
    if end is None or not tail.startswith(end.group()):
        return start, stop, False
    return start, stop + len(end.group()), True


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token with which the template closes an assistant's turn, or None where it has none."""
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": PLACEHOLDER}]
    closing = _text(tokenizer, turns, "(a turn to see its end)").partition(PLACEHOLDER)[2]
    end = re.match(rf"\s*({_specials(tokenizer)})", closing)
    return tokenizer.convert_tokens_to_ids(end.group(1)) if end else None


def _straddled(offsets: Sequence[tuple[int, int]], border: int) -> bool:
    """Whether a token begins before `border` and ends after it."""
    return any(begin < border < end for begin, end in offsets)


def _specials(tokenizer: PreTrainedTokenizerBase) -> str:
    """A pattern of the tokenizer's control tokens."""
    contents = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    ordered = sorted(contents, key=lambda content: (-len(content), content))
    return "|".join(re.escape(content) for content in ordered) or "(?!)"


def _check_contents(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], key: str) -> None:
    """Refuses text that would be read as a control token: a turn could fake another role."""
    pattern = re.compile(_specials(tokenizer))
    for turn, message in enumerate(messages):
        content = message.get("content")
        found = pattern.search(content) if isinstance(content, str) else None
        if found:
            raise DataInvalid(
                f"row '{key}', message {turn}: the text holds the special token {found.group()!r}, which the "
                "model would read as a control token. Remove or escape it."
            )


def _check_bos(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], key: str) -> None:
    """Refuses a double beginning-of-sequence token; where BOS also ends turns, only the start is judged."""
    bos = tokenizer.bos_token_id
    if bos is None:
        return
    several = ids[:2] == [bos, bos] if bos == tokenizer.eos_token_id else list(ids).count(bos) > 1
    if several:
        raise DataInvalid(
            f"row '{key}': the rendered conversation has more than one {tokenizer.bos_token!r}; the chat "
            "template writes it more than once."
        )
