"""What stores take for 1,000 tokens of documents, by the shape of the model that made their vectors.

    python -m benchmarks.store_bytes            # where redis-server is on the PATH, for Redis too

Vectors are random and everything else is as served: records with checksums, manifests, index, log. Prints Markdown.
"""

import asyncio
import hashlib
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import redis
import torch

from model.compressors import SegmentSummary
from server.core.documents.segments import segment_key, text_key
from server.store import Entry, SummaryStore, open_store
from server.store.codec import Manifest, encode_manifest, encode_segment, encode_text
from tests.redis_server import running_redis

SEGMENTS = 8  # of a document
FINGERPRINT = "0" * 64


@dataclass(frozen=True)
class Shape:
    """A model's segments as they are stored; `layers` and `kv_width` are what keys and values are made of."""

    name: str
    width: int
    vectors: int
    tokens: int
    layers: int
    kv_width: int
    row_tokens: int
    dtype: torch.dtype = torch.bfloat16
    is_ranked: bool = False
    documents: int = 100

    @property
    def vector_bytes(self) -> int:
        """Of 1,000 tokens."""
        return 1000 * self.vectors * self.width * self.dtype.itemsize // self.tokens

    @property
    def position_bytes(self) -> int:
        """Keys and values of one position."""
        return 2 * self.layers * self.kv_width * self.dtype.itemsize


SHAPES = (
    Shape("default", 576, 16, 128, layers=30, kv_width=192, row_tokens=8192, is_ranked=True),
    Shape("paper, float32", 384, 16, 256, layers=4, kv_width=128, row_tokens=1024, dtype=torch.float32),
    Shape("OPT-2.7B", 2560, 50, 1536, layers=32, kv_width=2560, row_tokens=4096, documents=20),
    Shape("Llama-2-7B", 4096, 50, 1536, layers=32, kv_width=4096, row_tokens=4096, documents=20),
)


async def fill(store: SummaryStore, shape: Shape, *, keep_text: bool = False) -> float:
    """Store documents of this shape; thousands of tokens that they have."""
    generator = torch.Generator().manual_seed(1)
    ranks = torch.arange(shape.vectors) if shape.is_ranked else None
    for document in range(shape.documents):
        keys = [hashlib.sha256(f"{document}/{index}".encode()).hexdigest()[:40] for index in range(SEGMENTS)]
        entries = []
        for key in keys:
            vectors = torch.randn(shape.vectors, shape.width, generator=generator).to(shape.dtype)
            summary = SegmentSummary(vectors, ranks=ranks, anchors=ranks)
            entries.append(Entry(segment_key(key), encode_segment(summary, fingerprint=FINGERPRINT)))
            if keep_text:
                ids = torch.randint(0, 50_000, (shape.tokens,), generator=generator).tolist()
                entries.append(Entry(text_key(key), encode_text(ids, fingerprint=FINGERPRINT)))
        manifest = Manifest(
            FINGERPRINT, tuple(keys), (shape.tokens,) * SEGMENTS, SEGMENTS * shape.vectors, 0.0, has_text=keep_text
        )
        named = tuple(entry.key for entry in entries)
        await store.put_many([*entries, Entry(f"summary:{keys[-1]}", encode_manifest(manifest), named)])
    return shape.documents * SEGMENTS * shape.tokens / 1000


async def sqlite_bytes(shape: Shape, *, keep_text: bool = False) -> int:
    """Of the file, for 1,000 tokens; what SQLite keeps beside it does not grow with documents."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "summaries.sqlite3"
        store = await open_store(f"sqlite:{path}")
        thousands = await fill(store, shape, keep_text=keep_text)
        await store.close()
        return round(path.stat().st_size / thousands)


async def redis_bytes(shape: Shape) -> tuple[int, int]:
    """Of memory, and of the append-only file, for 1,000 tokens."""
    with tempfile.TemporaryDirectory() as folder, running_redis(Path(folder)) as url:
        client = redis.Redis.from_url(url)
        empty = client.info("memory")["used_memory"]
        store = await open_store(url)
        thousands = await fill(store, shape)
        used = client.info("memory")["used_memory"] - empty
        await store.close()
        written = sum(file.stat().st_size for file in Path(folder, "appendonlydir").iterdir())
        return round(used / thousands), round(written / thousands)


def kilobytes(number: int) -> str:
    return f"{number / 1000:,.0f} kB"


async def main() -> None:
    print("| model | vectors | SQLite | with text | Redis, memory | Redis, file | a position | a row |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for shape in SHAPES:
        in_sqlite = [kilobytes(await sqlite_bytes(shape, keep_text=keep)) for keep in (False, True)]
        has_redis = shutil.which("redis-server") is not None
        in_redis = [kilobytes(each) for each in await redis_bytes(shape)] if has_redis else ["", ""]
        row = f"{shape.row_tokens * shape.position_bytes / 1e6:,.0f} MB of {shape.row_tokens:,}"
        cells = [shape.name, kilobytes(shape.vector_bytes), *in_sqlite, *in_redis, kilobytes(shape.position_bytes), row]
        print("|", " | ".join(cells), "|")


if __name__ == "__main__":
    asyncio.run(main())
