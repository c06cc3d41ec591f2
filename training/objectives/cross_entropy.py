"""Cross-entropy of the next token: of a language model's whole pieces, or of segments after the summaries of others."""

import random
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.objectives.objective import Substep
from training.objectives.segment_lengths import draw_lengths, equal_lengths
from training.recipes.recipe import Compression


class OfSequences:
    """What an objective that takes sequences as they are has in common with others."""

    def prepared(self, tokens: Tensor, *, step: int, first_row: int) -> Tensor:  # noqa: ARG002
        return tokens


class LanguageModelling(OfSequences):
    """Next-token prediction on equal pieces of a sequence, each alone and whole: pretraining, full attention."""

    def __init__(self, num_pieces: int = 1) -> None:
        self.num_substeps = num_pieces

    def substeps(self, model: nn.Module, batch: Tensor, *, step: int) -> Iterator[Substep]:  # noqa: ARG002
        for piece in batch.split(equal_lengths(batch.shape[1], self.num_substeps), dim=1):
            yield _substep(token_losses(model(piece).logits, piece), [piece.shape[1]])


class Segments(OfSequences):
    """Cross-entropy over segments, each conditioned on those before it as the method says (section 3).

    The soft prompt is detached after a substep: gradients cross the compression steps within one, and memory does not
    grow with the length of the sequence (section 3.3). Every process and micro-batch of a step cuts alike.
    """

    def __init__(self, compression: Compression, *, seed: int) -> None:
        self.compression = compression
        self.num_substeps = compression.substeps
        self._seed = seed

    def substeps(self, model: nn.Module, batch: Tensor, *, step: int) -> Iterator[Substep]:
        soft_prompt: Tensor | None = None
        slices = batch.split(equal_lengths(batch.shape[1], self.num_substeps), dim=1)
        for index, piece in enumerate(slices):
            lengths = self.draw(piece.shape[1], step=step, substep=index)
            if not self.compression.has_summaries:
                alone = [token_losses(model(segment).logits, segment) for segment in piece.split(lengths, dim=1)]
                yield _substep(torch.cat(alone, dim=1), [length - 1 for length in lengths])
                continue
            output = model(
                piece,
                segment_lengths=lengths,
                soft_prompt=soft_prompt,
                output_soft_prompt=index + 1 < self.num_substeps,
            )
            soft_prompt = output.soft_prompt.detach()
            losses = token_losses(output.logits, piece)
            del output  # its logits would stay through the next substep's forward pass
            yield _substep(losses, lengths)

    def draw(self, num_tokens: int, *, step: int, substep: int) -> list[int]:
        """The segment lengths of a substep, (segments,); they add up to `num_tokens`."""
        num_segments = self.compression.segments_per_substep
        if not self.compression.is_randomised:
            return equal_lengths(num_tokens, num_segments)
        generator = random.Random(f"{self._seed} {step} {substep}")
        return draw_lengths(
            num_tokens, num_segments, max_length=self.compression.max_segment_tokens, generator=generator
        )


def token_losses(logits: Tensor, tokens: Tensor) -> Tensor:
    """The cross-entropy of each token but the first under the logits of the one before it, (B, L - 1), in float32."""
    losses = functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), tokens[:, 1:].flatten(), reduction="none")
    return losses.view(tokens.shape[0], -1)


def _substep(losses: Tensor, lengths: Sequence[int]) -> Substep:
    """The mean of all losses (B, N), and of each segment's: a segment's first token counts to it, N's first lacks."""
    widths = list(lengths)
    widths[0] -= sum(widths) - losses.shape[1]  # the sequence's first token has no loss
    means = torch.stack([part.mean() for part in losses.detach().split(widths, dim=1)])
    return Substep(losses.mean(), means)
