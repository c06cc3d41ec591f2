"""Weights are numbers: what is not is named at the start, where later every logit is NaN."""

from torch import Tensor, nn


def require_finite(model: nn.Module) -> None:
    """Refuse weights with NaN or infinity among them.

    Raises:
        ValueError: the first such weight, and how many of its values.
    """
    for name, weight in model.named_parameters():
        if not _is_finite(weight):
            count = int((~weight.isfinite()).sum())
            raise ValueError(
                f"the model's weights are damaged: {count} of the {weight.numel()} values of {name} are NaN or infinite"
            )


def _is_finite(weight: Tensor) -> bool:
    # a sum is NaN or infinite where a value is, and reads the weight once; one that overflows is looked at again
    return bool(weight.sum().isfinite()) or bool(weight.isfinite().all())
