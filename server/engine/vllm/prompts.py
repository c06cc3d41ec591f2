"""Vectors and tokens as one prompt of vLLM's."""

import uuid
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from vllm.inputs.engine import embeds_input, tokens_input

from server.errors import EngineFailed


def to_vllm(before: Tensor | None, token_ids: Sequence[int], after: Tensor | None = None, *, salt: str | None) -> Any:
    """`[before | tokens | after]`, in vLLM's terms; it embeds the tokens itself.

    Args:
        before, after: (P, D) and (S, D) on the CPU; None for none.
        salt: prompts of equal salt share what is computed of equal beginnings; None for none at all.

    Raises:
        EngineFailed: vectors that are not finite, which would stay in a cache that others read.
    """
    salt = uuid.uuid4().hex if salt is None else salt
    parts = [part for part in (before, after) if part is not None and len(part)]
    if not parts:
        return tokens_input(list(token_ids), cache_salt=salt)
    if not all(bool(part.isfinite().all()) for part in parts):
        raise EngineFailed("the model's states are not finite")
    num_before, num_after = (0 if part is None else len(part) for part in (before, after))
    length = num_before + len(token_ids) + num_after
    embeds = torch.zeros(length, parts[0].shape[1], dtype=parts[0].dtype)
    if before is not None:
        embeds[:num_before] = before
    if after is not None:
        embeds[length - num_after :] = after
    # penalties look at all ids of a prompt: where vectors stand, one that is there anyway
    filler = token_ids[0] if token_ids else 0
    ids = [filler] * num_before + list(token_ids) + [filler] * num_after
    is_token = [False] * num_before + [True] * len(token_ids) + [False] * num_after
    return embeds_input(embeds, prompt_token_ids=ids, is_token_ids=is_token, cache_salt=salt)
