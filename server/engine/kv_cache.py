"""The keys and values of running generations."""

import torch
from torch import Tensor


class KvCache:
    """A fixed pool of rows, a sequence each, made at a layer's first use and never grown.

    No paging: a summary stands for its document, so sequences are short and a row of full length is affordable.
    """

    def __init__(self, *, num_rows: int, max_tokens: int) -> None:
        self.num_rows = num_rows
        self.max_tokens = max_tokens
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    def layer(self, index: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of a layer, (rows, tokens, heads, width) each; heads and width as in `key` and `value`."""
        if index not in self._layers:
            self._layers[index] = (self._allocate(key), self._allocate(value))
        return self._layers[index]

    def _allocate(self, like: Tensor) -> Tensor:
        # zeros, not empty: a masked position still enters a product, and 0 x NaN is NaN
        return torch.zeros(self.num_rows, self.max_tokens, *like.shape[-2:], dtype=like.dtype, device=like.device)
