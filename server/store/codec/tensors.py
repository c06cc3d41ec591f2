"""The tensors of a record, as a safetensors file has them; what it says of them is checked before any is made."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from server.store.codec.record import digest, integer, require, text

MAX_HEADER_BYTES = 2**20  # an export's has its manifest: metadata, and some 60 bytes a segment

# the names of https://github.com/huggingface/safetensors#format
DTYPES = MappingProxyType({"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32})
VECTORS, SCALES, MARKS = "vectors", "scales", ("ranks", "anchors")
INT8, SCALE_DTYPE, MARK_DTYPE = "I8", "F32", "I32"
TENSOR_DTYPES = MappingProxyType({**DTYPES, INT8: torch.int8, MARK_DTYPE: torch.int32})
NAMES = MappingProxyType({dtype: name for name, dtype in TENSOR_DTYPES.items()})


@dataclass(frozen=True)
class Part:
    """A tensor of a record as the file describes it."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    payload: bytes

    @classmethod
    def of(cls, name: str, tensor: Tensor) -> "Part":
        return cls(name, NAMES[tensor.dtype], tuple(tensor.shape), tensor.view(torch.uint8).numpy().tobytes())

    def tensor(self) -> Tensor:
        dtype = TENSOR_DTYPES[self.dtype]
        require(all(size > 0 for size in self.shape), "the shape is empty")
        require(math.prod(self.shape) * dtype.itemsize == len(self.payload), "the shape does not fit the length")
        # a bytearray, because a tensor over bytes would be one that must not be written to
        return torch.frombuffer(bytearray(self.payload), dtype=dtype).reshape(self.shape)


def opened(data: bytes) -> tuple[Any, bytes]:
    """The header and the tensors' bytes of a safetensors file, its length bounded before anything of it is parsed.

    It is read here: safetensors.torch.load leaves out the metadata, and raises errors of many kinds.
    """
    # 8 bytes of length and a JSON text; the tensors fill the rest
    length = int.from_bytes(data[:8], "little")
    require(length <= MAX_HEADER_BYTES, f"the header has {length} bytes; the limit is {MAX_HEADER_BYTES}")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def parts_of(header: Any, payload: bytes) -> list[Part]:
    """The tensors that a header describes, in the order of the checksum; together they are the whole payload."""
    names = [name for name in (VECTORS, SCALES, *MARKS) if name in header]
    require(names[:1] == [VECTORS] and len(names) == len(header), "the tensors are not those of a summary")
    parts: list[Part] = []
    spans = []
    for name in names:
        tensor = header[name]
        dtype, shape = text(tensor["dtype"]), tuple(integer(size) for size in tensor["shape"])
        if name == VECTORS:
            require(dtype == INT8 if SCALES in names else dtype in DTYPES, "the dtype is none of summary vectors'")
            require(len(shape) == 2, "the shape is not of two sizes")
        elif name == SCALES:
            require(dtype == SCALE_DTYPE and shape == parts[0].shape[:1], "the scales are not a float32 of each vector")
        else:
            require(dtype == MARK_DTYPE and len(shape) == 1, "a mark is not a row of int32")
        first, last = (integer(offset) for offset in tensor["data_offsets"])
        spans.append((first, last))
        parts.append(Part(name, dtype, shape, payload[first:last]))
    spans.sort()
    ends = [0, *(last for _, last in spans)]
    require([*(first for first, _ in spans), len(payload)] == ends, "the length is wrong")
    return parts


def checksum(parts: Sequence[Part], *about: str) -> str:
    """Over what the bytes are read as and the bytes; of vectors alone as it was before there were marks."""
    payload = b"".join(part.payload for part in parts)
    if len(parts) == 1:
        return digest([*about, parts[0].dtype, list(parts[0].shape)], payload)
    return digest([*about, [[part.name, part.dtype, list(part.shape)] for part in parts]], payload)
