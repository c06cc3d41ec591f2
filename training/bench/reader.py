"""What a suite asks of a model: summaries of text, losses and answers after them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedTokenizerBase

from model import AutoCompressor
from model.compressors import SegmentSummary
from training.evaluation.checkpoints import loaded
from training.evaluation.scorer import Scorer

Summaries = list[list[SegmentSummary]]
"""Of each row of a batch, the summaries of its segments, oldest first."""

TOGETHER = 8  # segments in one pass


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

    def fits(self, num_vectors: int, num_tokens: int) -> bool:
        """Whether so many tokens have positions after so many vectors."""
        return num_tokens <= self.model.positions.capacity(num_vectors, 0)

    def can_summarise(self, num_segments: int, segment_length: int | None = None) -> bool:
        """Whether the model has summaries, and positions to make those of so many segments."""
        model, length = self.model, segment_length or self.model.segment_length
        if model.summary_length == 0:
            return False
        if self.model.config.reads_alone:
            return self.fits(0, length)
        before = num_segments - 1 if model.accumulate_summary else min(num_segments - 1, 1)
        return length <= model.positions.capacity(before * model.summary_length, model.summary_length)

    # --- summaries

    @torch.inference_mode()
    def summaries(self, ids: Tensor, segment_length: int | None = None) -> Summaries:
        """Of (B, L) ids cut into segments, the last one shorter; of an RMT the newest alone, which is all it keeps."""
        model, length = self.model, segment_length or self.model.segment_length
        ids = ids.to(model.device)
        if model.config.reads_alone:
            parts = [self._written(part) for part in ids.split(length, dim=1)]
            return [list(row) for row in zip(*parts, strict=True)]
        vectors = model.compress(ids, segment_lengths=length)
        if not model.accumulate_summary:
            vectors = vectors[:, -model.summary_length :]
        return [[SegmentSummary(part) for part in row.split(model.summary_length)] for row in vectors]

    def _written(self, segments: Tensor) -> list[SegmentSummary]:
        """Of (B, L) segments that are read alone, a few at a time."""
        model = self.model
        return [one for some in segments.split(TOGETHER) for one in model.write(some, model.plain_states(some)[1])]

    def newest(self, ids: Tensor, counts: Sequence[int], segment_length: int | None = None) -> dict[int, Summaries]:
        """Summaries of the last so many segments of (B, L) ids, made without those before; counts that fit alone."""
        length = segment_length or self.model.segment_length
        counts = [count for count in counts if count * length <= ids.shape[1] and self.can_summarise(count, length)]
        if not counts:
            return {}
        if not self.model.config.reads_alone:
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

    @torch.inference_mode()
    def adapted_losses(self, ids: Tensor, num_scored: int) -> Tensor | None:
        """As `losses` without a soft prompt, but with the adapter on; None for a model without adapter."""
        model, ids = self.model, ids.to(self.model.device)
        if model.adapter is None or not self.fits(0, ids.shape[1]):
            return None
        with model.reads_vectors(has_vectors=True):
            hidden = model.base.base_model(input_ids=ids, use_cache=False).last_hidden_state
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


def joined(rows: Summaries, kept: int | None = None) -> Tensor | None:
    """One soft prompt (B, P, D) of each row's summaries, all of the same lengths.

    Args:
        kept: vectors that are left of each segment; None for all.

    Returns:
        None where fewer are wanted than there are and no order of importance is known.
    """
    if kept is not None and any(one.ranks is None and len(one) > kept for row in rows for one in row):
        return None
    thinned = [[one if kept is None else one.thinned(kept) for one in row] for row in rows]
    return torch.stack([torch.cat([one.vectors for one in row]) for row in thinned])
