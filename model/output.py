"""What a forward call gives, and the loss of its logits."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class CompressorOutput:
    """What one forward call gives.

    Attributes:
        logits: (B, L, V), one row a token; none for soft prompt and summary positions.
        loss: mean cross-entropy over labels other than -100, or None where no labels were given.
        soft_prompt: (B, P, D), what conditions the next segment.
    """

    logits: Tensor
    loss: Tensor | None
    soft_prompt: Tensor


def shifted_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of each label under the logits of the position before it, in float32."""
    if labels.shape != logits.shape[:2]:
        raise ValueError(f"labels are {tuple(labels.shape)}; input_ids are {tuple(logits.shape[:2])}")
    return functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=-100)
