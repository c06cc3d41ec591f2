"""Keys and values of what the engine has read: rows of running generations, and strips that stand alone."""

import math
import mmap
from typing import Protocol

import torch
from torch import Tensor


class Line(Protocol):
    """Keys and values of one sequence from its first position on."""

    def layer(self, index: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of a layer, (K, T, d) each; heads, width, dtype and device as of `like`, (T', K, d)."""
        ...


class KvPool:
    """A fixed number of rows, a running generation each, reserved at a layer's first use and never grown.

    No paging: a summary stands for its document, so sequences are short and a row of full length is affordable.
    """

    def __init__(self, *, num_rows: int, max_tokens: int) -> None:
        self.num_rows = num_rows
        self.max_tokens = max_tokens
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    def layer(self, index: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of a layer, (rows, K, T, d) each."""
        if index not in self._layers:
            shape = (self.num_rows, like.shape[1], self.max_tokens, like.shape[2])
            # zeros, not empty: a masked position still enters a product, and 0 x NaN is NaN
            self._layers[index] = (_zeros(shape, like), _zeros(shape, like))
        return self._layers[index]

    @property
    def num_layers(self) -> int:
        """That were used."""
        return len(self._layers)

    @property
    def nbytes(self) -> int:
        """Of all rows, of the layers that were used."""
        return sum(tensor.nbytes for tensors in self._layers.values() for tensor in tensors)

    @property
    def position_bytes(self) -> int:
        """Of one position, here or in a strip, of the layers that were used."""
        return self.nbytes // (self.num_rows * self.max_tokens)

    def row(self, row: int) -> "PoolRow":
        return PoolRow(self, row)

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first positions of a row over another's."""
        for tensors in self._layers.values():
            for tensor in tensors:
                tensor[target, :, :length] = tensor[source, :, :length]

    def clear(self, row: int) -> None:
        for tensors in self._layers.values():
            for tensor in tensors:
                tensor[row].zero_()

    def fill(self, row: int, strip: "KvStrip", length: int) -> None:
        """Begin a row with the first positions of a strip."""
        for index, tensors in strip.layers.items():
            for tensor, other in zip(self.layer(index, other_like(tensors)), tensors, strict=True):
                tensor[row, :, :length] = other[:, :length]


def _zeros(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Zeros of a tensor's dtype on its device; on a CPU pages of their own, taken from the system as they are used, and
    given back to it: what lives long among what lives for a step would leave holes where the latter was.
    """
    if not like.is_cpu:
        return like.new_zeros(shape)
    pages = mmap.mmap(-1, math.prod(shape) * like.element_size())
    if hasattr(mmap, "MADV_NOHUGEPAGE"):  # Linux's huge ones would take 2 MiB for the first positions of each head
        pages.madvise(mmap.MADV_NOHUGEPAGE)
    return torch.frombuffer(pages, dtype=like.dtype).view(shape)


def other_like(tensors: tuple[Tensor, Tensor]) -> Tensor:
    return tensors[0].transpose(0, 1)


class PoolRow:
    """One row of a pool as a `Line`."""

    def __init__(self, pool: KvPool, row: int) -> None:
        self._pool, self._row = pool, row

    def layer(self, index: int, like: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = self._pool.layer(index, like)
        return keys[self._row], values[self._row]


class KvStrip:
    """A `Line` of its own: a document's vectors while it is compressed, a summary that many questions share.

    Attributes:
        capacity: positions it has room for. layers: keys and values, (K, capacity, d) each, views of one block for as
            many layers as there are of one shape.
    """

    def __init__(self, capacity: int, num_layers: int) -> None:
        self.capacity = capacity
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}
        self._num_layers = num_layers
        self._unused: list[Tensor] = []  # of the block, (2, K, capacity, d) each

    def layer(self, index: int, like: Tensor) -> tuple[Tensor, Tensor]:
        if index not in self.layers:
            shape = (2, like.shape[1], self.capacity, like.shape[2])
            if not self._unused or self._unused[-1].shape != shape:
                num_layers = self._num_layers - len(self.layers)
                self._unused = list(_zeros((num_layers, *shape), like).unbind())
            keys, values = self._unused.pop()
            self.layers[index] = (keys, values)
        return self.layers[index]

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensors in self.layers.values() for tensor in tensors)

    def extended(self, length: int, capacity: int) -> "KvStrip":
        """A strip with the first positions of this one, and room for more."""
        strip = KvStrip(capacity, self._num_layers)
        for index, tensors in self.layers.items():
            longer = strip.layer(index, other_like(tensors))
            for tensor, other in zip(longer, tensors, strict=True):
                tensor[:, :length] = other[:, :length]
        return strip
