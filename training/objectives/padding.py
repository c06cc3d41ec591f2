"""Rows of unequal length through a model in one pass: padding stands behind them, where causal attention looks not."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from model import AutoCompressor


def together(lengths: Sequence[int], positions: int) -> Iterator[list[int]]:
    """Which rows one pass reads, by their places in `lengths`: the longest first, all of one length at least.

    Args:
        positions: what a pass of unequal rows may have, padding counted; 0 keeps to equal ones.
    """
    rows: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if rows and lengths[row] < lengths[rows[-1]] and lengths[rows[0]] * (len(rows) + 1) > positions:
            yield rows
            rows = []
        rows.append(row)
    if rows:
        yield rows


def read_plainly(model: AutoCompressor, rows: Sequence[Tensor]) -> list[Tensor]:
    """Last hidden states (L, D) of each row of tokens, (L,), as the untouched base has them of it alone."""
    last, _ = model.plain_states(pad_sequence(list(rows), batch_first=True))
    return [each[: len(ids)] for each, ids in zip(last, rows, strict=True)]


def read_vectors(model: AutoCompressor, prompts: Sequence[Tensor], rows: Sequence[Tensor]) -> list[Tensor]:
    """Last hidden states (L, D) of each row's tokens, (L,), after its own soft prompt, (P, D), if rows have any."""
    lengths = [len(prompt) + len(ids) for prompt, ids in zip(prompts, rows, strict=True)]
    embedded = [torch.cat([prompt, model.embed(ids)]) for prompt, ids in zip(prompts, rows, strict=True)]
    positions = [
        model.positions.ids(torch.ones_like(ids)[None], len(prompt), 0)[0]
        for prompt, ids in zip(prompts, rows, strict=True)
    ]
    inputs = pad_sequence(embedded, batch_first=True)
    with model.reads_vectors(has_vectors=any(map(len, prompts))):
        hidden = model.base.base_model(
            inputs_embeds=inputs,
            attention_mask=inputs.new_ones(inputs.shape[:2], dtype=torch.long),
            position_ids=pad_sequence(positions, batch_first=True),
            use_cache=False,
        ).last_hidden_state
    return [each[length - len(ids) : length] for each, ids, length in zip(hidden, rows, lengths, strict=True)]
