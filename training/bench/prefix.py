"""A context that is read once, and the endings whose losses are taken after it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from training.bench.reader import Reader

PACKED_TOKENS = 1024  # of endings in one pass: the mask is a square of them


class Ending(NamedTuple):
    """Tokens that follow a prefix, the last `num_scored` of which count; at least one stands before those."""

    ids: Sequence[int]
    num_scored: int


@dataclass(frozen=True)
class Prefix:
    """The keys and values of a soft prompt and the raw tokens after it.

    Attributes:
        num_cached: positions that the cache holds; None for all of the vectors and tokens.
    """

    reader: Reader
    cache: Any
    num_vectors: int
    num_tokens: int
    num_cached: int | None = None

    @classmethod
    @torch.inference_mode()
    def read(cls, reader: Reader, ids: Sequence[int] | Tensor = (), soft_prompt: Tensor | None = None) -> "Prefix":
        """Read a soft prompt, (P, D), and raw tokens after it; both may be empty."""
        model = reader.model
        tokens = torch.as_tensor(ids, dtype=torch.long, device=model.device)[None]
        vectors = model.empty_soft_prompt()[0] if soft_prompt is None else soft_prompt
        num_vectors, num_tokens = len(vectors), tokens.shape[1]
        cache = None
        if num_vectors + num_tokens:
            mask = torch.ones_like(tokens)
            with model.reads_vectors(has_vectors=num_vectors > 0):
                cache = model.base.base_model(
                    inputs_embeds=torch.cat([vectors[None].to(model.dtype), model.embed(tokens)], dim=1),
                    attention_mask=mask.new_ones(1, num_vectors + num_tokens),
                    position_ids=model.positions.ids(mask, num_vectors, 0),
                    use_cache=True,
                ).past_key_values
        return cls(reader, cache, num_vectors, num_tokens)

    @torch.inference_mode()
    def losses(self, endings: Sequence[Ending]) -> list[Tensor] | None:
        """Losses of each ending's scored tokens, none of which sees another ending; None where one does not fit."""
        room = self.reader.model.positions.capacity(self.num_vectors, 0) - self.num_tokens
        if any(len(ending.ids) > room for ending in endings):
            return None
        found: list[Tensor] = []
        packed: list[Ending] = []
        for ending in endings:
            if packed and sum(len(each.ids) for each in [*packed, ending]) > PACKED_TOKENS:
                found += self._packed(packed)
                packed = []
            packed.append(ending)
        return found + (self._packed(packed) if packed else [])

    def _packed(self, endings: Sequence[Ending]) -> list[Tensor]:
        """In one pass, end to end, under a mask that keeps them apart; each has the positions after the prefix."""
        reader, model = self.reader, self.reader.model
        ids = torch.tensor([token for ending in endings for token in ending.ids], device=model.device)
        lengths = [len(ending.ids) for ending in endings]
        places = torch.cat([torch.arange(length) for length in lengths]) + self.num_tokens
        positions = [model.positions.of_token(place, self.num_vectors) for place in places.tolist()]
        before = self.num_vectors + self.num_tokens if self.num_cached is None else self.num_cached
        with model.reads_vectors(has_vectors=self.num_vectors > 0):
            hidden = model.base.base_model(
                inputs_embeds=model.embed(ids[None]),
                attention_mask=_apart(lengths, before, model.dtype).to(model.device),
                position_ids=torch.tensor([positions], device=model.device),
                past_key_values=self.cache,
                use_cache=self.cache is not None,
            ).last_hidden_state[0]
        if self.cache is not None:
            self.cache.crop(-len(ids))
        losses, start = [], 0
        for ending in endings:
            end = start + len(ending.ids)
            scored = slice(end - ending.num_scored, end)
            of_scored = hidden[scored.start - 1 : scored.stop - 1]
            losses.append(reader.of_targets(of_scored[None], ids[None, scored])[0])
            start = end
        return losses


def _apart(lengths: Sequence[int], before: int, dtype: torch.dtype) -> Tensor:
    """(1, 1, T, before + T): every token sees the prefix, and of its own ending itself and what is before it."""
    owner = torch.cat([torch.full((length,), number) for number, length in enumerate(lengths)])
    own = (owner[:, None] == owner[None]).tril()
    seen = torch.cat([own.new_ones(len(owner), before), own], dim=1)
    return torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)[None, None]
