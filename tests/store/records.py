"""Records for the tests of the codec: good ones, signed bad ones, and damaged ones."""

import hashlib
import json
import random
from collections.abc import Iterator

import torch
from torch import Tensor

from server.store.codec import Manifest, encode_manifest

MODEL = "model-a"


def make_vectors(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(3, 8, generator=torch.Generator().manual_seed(0)).to(dtype)


def make_manifest() -> Manifest:
    return Manifest(
        fingerprint=MODEL,
        segments=("0a", "1b"),
        segment_tokens=(1024, 17),
        vectors=100,
        created=1753000000.25,
        metadata={"title": 'Größe "2"\n'},
        parent="ff",
    )


def signed_vectors(payload: bytes, dtype: str, shape: list[int]) -> bytes:
    """A record with a right checksum, whatever it holds."""
    version = "autocompressor-vectors-1"
    described = json.dumps([version, MODEL, dtype, shape], separators=(",", ":")).encode()
    metadata = {"format": version, "fingerprint": MODEL, "sha256": hashlib.sha256(described + payload).hexdigest()}
    tensor = {"dtype": dtype, "shape": shape, "data_offsets": [0, len(payload)]}
    header = json.dumps({"__metadata__": metadata, "vectors": tensor}).encode()
    return len(header).to_bytes(8, "little") + header + payload


def signed_manifest(**changes: object) -> bytes:
    body = json.loads(encode_manifest(make_manifest())) | changes
    del body["sha256"]
    unsigned = json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
    signed = body | {"sha256": hashlib.sha256(unsigned).hexdigest()}
    return json.dumps(signed, sort_keys=True, separators=(",", ":")).encode()


def mutations(data: bytes, count: int) -> Iterator[bytes]:
    """Every truncation, a bit flipped in every byte, and `count` rougher changes."""
    generator = random.Random(0)
    for position in range(len(data)):
        yield data[:position]
        yield data[:position] + bytes([data[position] ^ 1 << generator.randrange(8)]) + data[position + 1 :]
    for _ in range(count):
        changed = bytearray(data)
        for _ in range(generator.randrange(1, 6)):
            start, length = generator.randrange(len(changed)), generator.randrange(1, 20)
            other = generator.randrange(len(data))
            changed[start : start + length] = generator.choice(
                [b"", generator.randbytes(length), data[other : other + length], bytes(changed[start : start + 1]) * 2]
            )
        yield bytes(changed)
