"""One model's loss on the last segment of windows, under each condition that fits it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from model import AutoCompressor
from model.base import output_layer
from training.evaluation.results import Evaluation
from training.evaluation.scores import NO_CONTEXT, Condition, DocumentScore, DomainScores, conditions_of
from training.evaluation.windows import DomainWindows, Windows

BATCH = 8


def measure(model: AutoCompressor, windows: Windows, label: str) -> Evaluation:
    """Score the windows under each condition that fits the model.

    Raises:
        ValueError: the model has another segment length, no positions for a segment, or is in training mode.
    """
    if model.segment_length != windows.segment_length:
        raise ValueError(f"{label} has segments of {model.segment_length} tokens; expected {windows.segment_length}")
    scorer = Scorer.of(model)
    if not scorer.fits(NO_CONTEXT):
        raise ValueError(f"{label} has {model.max_positions} positions; a segment has {model.segment_length} tokens")
    if model.training:
        raise ValueError(f"{label} is in training mode; it is measured in evaluation mode")
    conditions = [condition for condition in conditions_of(windows.contexts) if scorer.fits(condition)]
    scores: dict[str, DomainScores] = {}
    total = len(conditions) * sum(len(found) for found in windows.by_domain.values())
    with tqdm(total=total, unit=" windows") as progress:
        for name, found in windows.by_domain.items():
            of_domain = {}
            for condition in conditions:
                progress.set_description(f"{label}: {name}, {condition.name}")
                losses: list[float] = []
                for tokens in found.batches(BATCH):
                    losses += scorer.losses(torch.from_numpy(tokens).to(model.device), condition).tolist()
                    progress.update(len(tokens))
                of_domain[condition] = by_document(losses, found, model.segment_length - 1)
            scores[name] = of_domain
    return replace(windows.unscored(), models={label: scores})


def by_document(losses: Sequence[float], windows: DomainWindows, num_scored: int) -> list[DocumentScore]:
    """Sums over each document's windows, to a tenth of a millinat: finer digits are rounding errors of float32."""
    documents, counts = np.unique(windows.documents, return_counts=True)
    sums = np.bincount(windows.documents, weights=losses)[documents]
    return [
        DocumentScore(int(document), round(float(nll), 4), int(count) * num_scored)
        for document, nll, count in zip(documents, sums, counts, strict=True)
    ]


@dataclass(frozen=True)
class Scorer:
    """A model, and its output layer in float32; the decoder runs in the dtype it was loaded in."""

    model: AutoCompressor
    weight: Tensor
    bias: Tensor | None

    @classmethod
    def of(cls, model: AutoCompressor) -> "Scorer":
        layer = output_layer(model.base)
        bias = getattr(layer, "bias", None)
        weight = layer.get_parameter("weight").detach().float()
        return cls(model, weight, bias.detach().float() if isinstance(bias, Tensor) else None)

    def fits(self, condition: Condition) -> bool:
        """Whether the model has what the condition needs: summary tokens, and positions for every segment."""
        model, count = self.model, condition.num_segments
        if not condition.is_compressed:
            return (count + 1) * model.segment_length <= model.positions.capacity(0, 0)
        if model.summary_length == 0:
            return False
        # RMT keeps the newest segment's vectors alone; the segment before the scored one has its summary tokens besides
        kept = count if model.accumulate_summary else 1
        kept_before = count - 1 if model.accumulate_summary else min(count - 1, 1)
        room = min(
            model.positions.capacity(kept_before * model.summary_length, model.summary_length),
            model.positions.capacity(kept * model.summary_length, 0),
        )
        return model.segment_length <= room

    @torch.inference_mode()
    def losses(self, tokens: Tensor, condition: Condition) -> Tensor:
        """Negative log-likelihood of the last segment but its first token, summed by window.

        Args:
            tokens: (B, L), whole windows; what the condition does not read is passed over.

        Returns:
            (B,), float32.
        """
        hidden = self._last_hidden(tokens, condition)[:, :-1].float()  # (B, segment_length - 1, D)
        targets = tokens[:, tokens.shape[1] - hidden.shape[1] :]
        # a window at a time: float32 logits of a whole batch would be the largest tensor by far
        return torch.stack(
            [
                functional.cross_entropy(functional.linear(row, self.weight, self.bias), target, reduction="sum")
                for row, target in zip(hidden, targets, strict=True)
            ]
        )

    def _last_hidden(self, tokens: Tensor, condition: Condition) -> Tensor:
        """Last hidden states of the last segment, (B, segment_length, D)."""
        model, length = self.model, self.model.segment_length
        first = tokens.shape[1] - (condition.num_segments + 1) * length
        soft_prompt, ids = model.empty_soft_prompt(len(tokens)), tokens[:, first:]
        if condition.is_compressed:
            context, ids = ids[:, :-length], ids[:, -length:]
            soft_prompt = model.compress(context, segment_lengths=length)
            if not model.accumulate_summary:
                soft_prompt = soft_prompt[:, -model.summary_length :]
        hidden, _ = model.run_segment(ids, torch.ones_like(ids), soft_prompt, is_compressed=False)
        return hidden[:, -length:]
