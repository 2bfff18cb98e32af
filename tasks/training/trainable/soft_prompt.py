"""Soft prompts: trained vectors that stand before every conversation; the model's own weights stay.

prompt: Lester et al. 2021 (arXiv 2104.08691): the vectors are trained, from rows of the vocabulary.
p_tuning: Liu et al. 2021 (arXiv 2103.10385): a small network gives the vectors while training, then goes.

Different from the papers: a whole model is given back. The vectors become the input embeddings of added
tokens, `<|soft_0|>` and so on, which the chat template writes first. Packing, evaluation and every program
that loads a model work with it as with any other; text that no template renders meets the start model. The
output layer has for each of these tokens the mean of its rows, so that they take at most a share of
tokens / vocabulary from the others (Hewitt 2021, Initializing New Word Embeddings), and generation leaves
them out.

Shapes: B rows, T tokens, N tokens of the prompt, D width.
"""

from __future__ import annotations

import random

import torch
from peft import PromptEncoder, PromptEncoderConfig
from tokenizers import AddedToken
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tasks.recipe.failures import ConfigInvalid, Infrastructure
from tasks.training.trainable.adapter import TOLERANCE


class SoftPrompt(nn.Module):
    """An input embedding in which some ids have trained vectors instead of their rows."""

    def __init__(self, embedding: nn.Embedding, first: int, prompt: nn.Module, tokens: int) -> None:
        """Wraps `embedding`.

        Args:
            embedding: The model's; its rows for the prompt's ids are not used.
            first: The id of the prompt's first token; the others follow.
            prompt: From positions in the prompt (N) to its vectors (N, D).
            tokens: How many there are.
        """
        super().__init__()
        self.embedding = embedding
        self.prompt = prompt
        self.first = first
        self.tokens = tokens

    @property
    def weight(self) -> Tensor:
        """The rows of the whole vocabulary."""
        return self.embedding.weight

    def vectors(self) -> Tensor:
        """The prompt's vectors, shape (N, D)."""
        vectors_ND: Tensor = self.prompt(torch.arange(self.tokens, device=self.embedding.weight.device))
        return vectors_ND

    def forward(self, ids_BT: Tensor) -> Tensor:
        """The embedded ids, shape (B, T, D)."""
        embedded_BTD: Tensor = self.embedding(ids_BT)
        place_BT = ids_BT - self.first
        soft_BT = (place_BT >= 0) & (place_BT < self.tokens)
        vectors_BTD = functional.embedding(place_BT.clamp(0, self.tokens - 1), self.vectors())
        # Gemma's embedding scales its rows, and will scale these once they are some of them.
        vectors_BTD = vectors_BTD * getattr(self.embedding, "embed_scale", 1.0)
        return torch.where(soft_BT[..., None], vectors_BTD.to(embedded_BTD.dtype), embedded_BTD)


def add_soft_prompt(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, kind: str, tokens: int, seed: int
) -> None:
    """Freezes the model and puts a soft prompt before everything that the chat template renders.

    Args:
        model: The model; changed in place.
        tokenizer: With a chat template; gets the prompt's tokens.
        kind: prompt or p_tuning.
        tokens: N.
        seed: Of the first vectors.

    Raises:
        ConfigInvalid: The model has a soft prompt already.
    """
    names = [f"<|soft_{place}|>" for place in range(tokens)]
    if tokenizer.convert_tokens_to_ids(names[0]) != tokenizer.unk_token_id:
        raise ConfigInvalid(
            f"trainable: {kind}: the model already has a soft prompt ({names[0]}); start from the model "
            "before it, or train this one with trainable: full"
        )
    tokenizer.add_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    first = tokenizer.convert_tokens_to_ids(names[0])
    tokenizer.chat_template = "".join(names) + tokenizer.chat_template
    embedding = _make_room(model, first, tokens)
    model.requires_grad_(False)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        prompt = (_drawn if kind == "prompt" else _encoded)(embedding, first, tokens, seed)
    model.set_input_embeddings(SoftPrompt(embedding, first, prompt.to(embedding.weight.dtype), tokens))


def _drawn(embedding: nn.Embedding, first: int, tokens: int, seed: int) -> nn.Module:
    """Vectors that begin as rows of the vocabulary (the paper's best start where there are no classes)."""
    prompt = nn.Embedding(tokens, embedding.weight.shape[1])
    rows = random.Random(seed).choices(range(first), k=tokens)
    with torch.no_grad():
        prompt.weight.copy_(embedding.weight[rows])
    return prompt


def _encoded(embedding: nn.Embedding, first: int, tokens: int, seed: int) -> nn.Module:
    """The network of peft: three layers over vectors of its own."""
    width = embedding.weight.shape[1]
    config = PromptEncoderConfig(
        num_virtual_tokens=tokens,
        token_dim=width,
        num_transformer_submodules=1,
        encoder_hidden_size=width,
    )
    encoder: nn.Module = PromptEncoder(config)
    return encoder


def _make_room(model: PreTrainedModel, first: int, tokens: int) -> nn.Embedding:
    """Gives both ends of the model rows for the prompt's ids; a tied output layer gets weights of its own."""
    rows = model.get_input_embeddings().weight.shape[0]
    if first + tokens > rows:
        with torch.random.fork_rng():
            model.resize_token_embeddings(first + tokens, mean_resizing=False)
    embedding, output = model.get_input_embeddings(), model.get_output_embeddings()
    assert isinstance(embedding, nn.Embedding)
    assert output is not None
    with torch.no_grad():
        weight = output.weight.detach().clone()
        weight[first : first + tokens] = weight[:first].mean(dim=0)
        embedding.weight[first : first + tokens] = 0.0
    output.weight = nn.Parameter(weight)
    model.config.tie_word_embeddings = False
    assert model.generation_config is not None
    model.generation_config.suppress_tokens = list(range(first, first + tokens))
    return embedding


def merge_soft_prompt(
    trained: PreTrainedModel, untouched: PreTrainedModel, probe_BT: Tensor
) -> PreTrainedModel:
    """Makes the prompt's vectors rows of the embedding, and checks that the model still computes the same.

    Args:
        trained: With its `SoftPrompt`.
        untouched: The start model as it came, in fp32; becomes the result.
        probe_BT: Token ids of real rows to compare the logits on.

    Returns:
        The whole model, in fp32 and eval mode.

    Raises:
        Infrastructure: Its logits differ from the soft prompt's by more than `TOLERANCE`.
    """
    soft = trained.get_input_embeddings()
    assert isinstance(soft, SoftPrompt)
    with torch.no_grad():
        vectors_ND = soft.float().vectors().cpu()
        prompt = nn.Embedding(soft.tokens, vectors_ND.shape[1])
        prompt.weight.copy_(vectors_ND)
        embedding = _make_room(untouched.eval(), soft.first, soft.tokens)
        untouched.set_input_embeddings(SoftPrompt(embedding, soft.first, prompt, soft.tokens))
        before_BTV = untouched(input_ids=probe_BT, use_cache=False).logits
        embedding.weight[soft.first : soft.first + soft.tokens] = prompt.weight
        untouched.set_input_embeddings(embedding)
        after_BTV = untouched(input_ids=probe_BT, use_cache=False).logits
    difference = float((before_BTV - after_BTV).abs().max()) / max(float(before_BTV.abs().max()), 1.0)
    if not difference <= TOLERANCE:
        raise Infrastructure(
            f"the model's logits differ from those with its soft prompt by {difference:.2g} (at most "
            f"{TOLERANCE:g} is rounding); what would be saved is not what was trained"
        )
    return untouched.requires_grad_(True)
