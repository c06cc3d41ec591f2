"""A base whose weights are no numbers is refused, and the weight named."""

import pytest
import torch

from server.engine.torch.attention import SdpaKernels
from server.engine.torch.finite import require_finite
from server.engine.torch.packed import PackedModel
from tests.tiny import tiny_compressor


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("weight", ["embed_tokens.weight", "layers.1.mlp.up_proj.weight", "norm.weight"])
def test_weights_that_are_no_numbers_are_named(value: str, weight: str) -> None:
    """It said that the engine cannot run the architecture: its logits are nan off the model's own."""
    model = tiny_compressor()
    with torch.no_grad():
        model.base.get_parameter(f"model.{weight}").view(-1)[[3, 5]] = float(value)
    with pytest.raises(ValueError, match=rf"damaged: 2 of the \d+ values of base\.model\.{weight} are NaN or infinite"):
        PackedModel(model, SdpaKernels(), num_rows=2, max_tokens=32)


def test_large_weights_are_numbers() -> None:
    """Whose sum is infinite in a format of few bits."""
    model = tiny_compressor(dtype=torch.float16)
    with torch.no_grad():
        model.base.get_parameter("model.embed_tokens.weight").fill_(60000.0)
    require_finite(model)
