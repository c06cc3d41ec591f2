"""What a suite asks of a model: summaries of text, losses and answers after them."""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedTokenizerBase

from model import AutoCompressor
from training.evaluate import loaded
from training.scorer import Scorer


@dataclass(frozen=True)
class Summary:
    """The vectors of one segment, (S, D), in the order of the text; `ranks` (S,), the most important vector's is 0."""

    vectors: Tensor
    ranks: Tensor | None = None

    def __len__(self) -> int:
        return self.vectors.shape[0]

    def thinned(self, count: int) -> "Summary | None":
        """The `count` most important vectors; all, where there are no more; None where no order is known."""
        if count >= len(self):
            return self
        if self.ranks is None:
            return None
        kept = self.ranks < count
        return Summary(self.vectors[kept], self.ranks[kept])


Summaries = list[list[Summary]]
"""Of each row of a batch, the summaries of its segments, oldest first."""


@dataclass(frozen=True)
class Reader:
    """A model in evaluation mode with its tokenizer. Losses are in nats, in float32 from the last hidden states on."""

    model: AutoCompressor
    tokenizer: PreTrainedTokenizerBase
    scorer: Scorer

    @classmethod
    def of(cls, model: AutoCompressor, name: str = "the model") -> "Reader":
        """ValueError without a tokenizer: the suites read text."""
        if model.tokenizer is None:
            raise ValueError(f"{name} has no tokenizer; the suites read text")
        return cls(model.eval(), model.tokenizer, Scorer.of(model))

    @classmethod
    def load(cls, path: Path, device: torch.device | None) -> "Reader":
        return cls.of(loaded(path, device), str(path))

    @classmethod
    def load_base(cls, path: Path, device: torch.device | None) -> "Reader":
        """A plain language model, which makes no summaries."""
        return cls.of(AutoCompressor.from_base(path, 0, device=device), str(path))

    # --- what fits

    @property
    def reads_alone(self) -> bool:
        """Whether a segment's vectors are the same whatever stands before it."""
        return bool(getattr(self.model.config, "reads_alone", False))

    def fits(self, num_vectors: int, num_tokens: int) -> bool:
        """Whether so many tokens have positions after so many vectors."""
        return num_tokens <= self.model.positions.capacity(num_vectors, 0)

    def can_summarise(self, num_segments: int, segment_length: int | None = None) -> bool:
        """Whether the model has summaries, and positions to make those of so many segments."""
        model, length = self.model, segment_length or self.model.segment_length
        if model.summary_length == 0:
            return False
        if self.reads_alone:
            return self.fits(0, length)
        before = num_segments - 1 if model.accumulate_summary else min(num_segments - 1, 1)
        return length <= model.positions.capacity(before * model.summary_length, model.summary_length)

    # --- summaries

    @torch.inference_mode()
    def summaries(self, ids: Tensor, segment_length: int | None = None) -> Summaries:
        """Of (B, L) ids cut into segments, the last one shorter; of an RMT the newest alone, which is all it keeps."""
        model, length = self.model, segment_length or self.model.segment_length
        ids = ids.to(model.device)
        if self.reads_alone:
            summarise: Any = model.summarise
            return [[Summary(one.vectors, one.ranks) for one in summarise(row, segment_length=length)] for row in ids]
        vectors = model.compress(ids, segment_lengths=length)
        if not model.accumulate_summary:
            vectors = vectors[:, -model.summary_length :]
        return [[Summary(part) for part in row.split(model.summary_length)] for row in vectors]

    def newest(self, ids: Tensor, counts: Sequence[int], segment_length: int | None = None) -> dict[int, Summaries]:
        """Summaries of the last so many segments of (B, L) ids, made without those before; counts that fit alone."""
        length = segment_length or self.model.segment_length
        counts = [count for count in counts if count * length <= ids.shape[1] and self.can_summarise(count, length)]
        if not counts:
            return {}
        if not self.reads_alone:
            return {count: self.summaries(ids[:, -count * length :], length) for count in counts}
        rows = self.summaries(ids[:, -max(counts) * length :], length)
        return {count: [row[-count:] for row in rows] for count in counts}

    # --- losses

    @torch.inference_mode()
    def losses(self, ids: Tensor, num_scored: int, soft_prompt: Tensor | None = None) -> Tensor | None:
        """Losses of the last tokens of (B, L) ids, (B, num_scored); None where they do not fit."""
        ids = ids.to(self.model.device)
        soft_prompt = self.model.empty_soft_prompt(len(ids)) if soft_prompt is None else soft_prompt
        if not self.fits(soft_prompt.shape[1], ids.shape[1]):
            return None
        hidden, _ = self.model.run_segment(ids, torch.ones_like(ids), soft_prompt, is_compressed=False)
        return self.of_targets(hidden[:, -num_scored - 1 : -1], ids[:, -num_scored:])

    def of_targets(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Losses (B, T) of targets (B, T) under the hidden states (B, T, D) before them, a row at a time for memory."""
        scorer = self.scorer
        rows = zip(hidden.float(), targets, strict=True)
        return torch.stack(
            [
                functional.cross_entropy(functional.linear(row, scorer.weight, scorer.bias), target, reduction="none")
                for row, target in rows
            ]
        )

    # --- answers

    def answer(self, ids: Sequence[int], soft_prompt: Tensor | None, max_new_tokens: int) -> str:
        """What the model goes on with, greedily, up to its end-of-text token; soft prompt (P, D)."""
        given = torch.tensor([list(ids)], device=self.model.device)
        made = self.model.generate(
            given,
            soft_prompt=None if soft_prompt is None or len(soft_prompt) == 0 else soft_prompt[None],
            max_new_tokens=max_new_tokens,
            eos_token_id=self.tokenizer.eos_token_id,
        )
        text: str = self.tokenizer.decode(made[0, len(ids) :].tolist(), skip_special_tokens=True)
        return text.strip()

    # --- text

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return ids

    def decode(self, ids: Tensor) -> str:
        text: str = self.tokenizer.decode(ids.tolist())
        return text

    @torch.inference_mode()
    def embedded(self, ids: Tensor) -> Tensor:
        """Raw text as a part of a soft prompt: (L,) ids to (L, D)."""
        return self.model.embed(ids.to(self.model.device))

    def can_mix(self) -> bool:
        """Whether raw text may stand within a soft prompt: where soft prompts take no positions it would have none."""
        return self.model.positions.counts_soft_prompt

    def reading(self, *, has_vectors: bool) -> AbstractContextManager[None]:
        """Within it the base reads as it does after vectors, or without any."""
        switch = getattr(self.model, "reads_vectors", None)
        return nullcontext() if switch is None else switch(has_vectors)


def joined(rows: Summaries, kept: int | None = None) -> Tensor | None:
    """One soft prompt (B, P, D) of each row's summaries, all of the same lengths.

    Args:
        kept: vectors that are left of each segment; None for all.

    Returns:
        None where fewer are wanted than there are and no order of importance is known.
    """
    prompts = []
    for row in rows:
        parts = [one if kept is None else one.thinned(kept) for one in row]
        if any(part is None for part in parts):
            return None
        prompts.append(torch.cat([part.vectors for part in parts if part is not None]))
    return torch.stack(prompts)


def at_ratio(reader: Reader, ids: Tensor, ratio: float) -> list[Summary] | None:
    """Summaries of a text, (L,) ids, at about so many tokens a vector; None where the model makes none (within 1.25).

    Where vectors have no order of importance, by segments of another length.
    """
    model, num_tokens = reader.model, len(ids)
    if reader.reads_alone:
        (row,) = reader.summaries(ids[None])
        lengths = [len(part) for part in ids.split(model.segment_length)]
        found = [one.thinned(math.ceil(length / ratio)) for one, length in zip(row, lengths, strict=True)]
    else:
        count = max(1, round(num_tokens / ratio / max(1, model.summary_length)))
        length = math.ceil(num_tokens / count)
        if not reader.can_summarise(count, length):
            return None
        found = list(reader.summaries(ids[None], length)[0])
    kept = [one for one in found if one is not None]
    made = num_tokens / max(1, sum(map(len, kept)))
    return kept if len(kept) == len(found) and 1 / 1.25 <= made / ratio <= 1.25 else None
