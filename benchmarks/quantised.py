"""What summary vectors lose for search where they are kept in fewer bytes: reranking of the same candidates with each.

    python -m benchmarks.corpus --corpus FOLDER --keep KEPT
    python -m benchmarks.quantised KEPT

Vectors as they are in the index (bfloat16), as int8 with a scale each, and by product quantisation (faiss, learnt on
the corpus' own vectors, one codebook for all), so many bytes a vector. Questions are those of `benchmarks.corpus`; one
whose passage is not among BM25's 50 candidates is left out. The loss is of the question's tokens after the passage's
summary, in nats a token. Prints Markdown.
"""

import argparse
import asyncio
import importlib
import json
import random
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.corpus import INDEX, PASSAGES
from benchmarks.passages import KINDS, Question, questions
from model.int8 import rounded
from server.core.build import open_core
from server.core.core import Core
from server.core.corpora.corpus import Corpus
from server.core.corpora.passages import Passage
from server.core.receipts import Stopwatch
from server.core.searching import Wanted
from server.settings import Settings

LEARNT_VECTORS = 65_536
CANDIDATES = 50
Change = Callable[[Tensor], Tensor]


class Changed(Corpus):
    """A corpus whose vectors come out as something else keeps them."""

    def __init__(self, corpus: Corpus, change: Change, name: str) -> None:
        self.__dict__.update(corpus.__dict__)
        self._change = change
        # other keys, as of another index: else the engine goes on from what it kept of the vectors before
        self.manifest = replace(corpus.manifest, vectors=name)

    def read(self, numbers: Sequence[int]) -> list[Passage]:
        return [
            Passage(**{**vars(passage), "vectors": self._change(passage.vectors)}) for passage in super().read(numbers)
        ]


@dataclass(frozen=True)
class Way:
    """A way to keep vectors: bytes of each, and what comes of them."""

    name: str
    bytes_a_vector: float
    change: Change


@dataclass(frozen=True)
class Measured:
    """Of a question: its passage's rank among the candidates, and the loss of its tokens after it, in nats a token."""

    rank: int
    loss: float


def ways(corpus: Corpus, rates: Sequence[int]) -> list[Way]:
    width = corpus.manifest.width
    learnt = sample(corpus)
    return [
        Way("bfloat16", 2 * width, lambda vectors: vectors),
        Way("int8", width + 4, rounded),
        *(Way(f"PQ, {width // rate} numbers a byte", rate, by_products(learnt, rate)) for rate in rates),
    ]


def sample(corpus: Corpus) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Vectors of passages that are drawn, (N, D)."""
    total = corpus.manifest
    wanted = min(total.num_passages, LEARNT_VECTORS * total.num_passages // total.num_vectors)
    drawn = sorted(random.Random(0).sample(range(total.num_passages), wanted))
    return torch.cat([passage.vectors.float() for passage in corpus.read(drawn)]).numpy()


def by_products(learnt: np.ndarray[Any, np.dtype[np.float32]], rate: int) -> Change:
    """A product quantiser of so many bytes a vector."""
    faiss = importlib.import_module("faiss")
    quantiser = faiss.ProductQuantizer(learnt.shape[1], rate, 8)
    quantiser.train(learnt)

    def change(vectors: Tensor) -> Tensor:
        codes = quantiser.compute_codes(np.ascontiguousarray(vectors.float().numpy()))
        return torch.from_numpy(quantiser.decode(codes)).to(vectors.dtype)

    return change


async def measured(core: Core, corpus: Corpus, question: Question) -> Measured | None:
    """None where the passage is no candidate."""
    wanted = Wanted(question.text, candidates=CANDIDATES, limit=CANDIDATES)
    searcher = core.models.of(corpus.manifest.fingerprint).searcher
    found = await searcher.search(corpus, wanted, tenant=core.tenant, watch=Stopwatch())
    num_tokens = found.usage.completion_tokens // max(1, found.num_candidates)
    for rank, hit in enumerate(found.hits, start=1):
        if hit.passage.source_id == str(question.passage):
            assert hit.relevance is not None
            return Measured(rank, -hit.relevance / num_tokens)
    return None


def row(way: Way, vectors: float, results: Sequence[Measured], plain: Sequence[Measured]) -> str:
    lost = [one.loss - other.loss for one, other in zip(results, plain, strict=True)]
    interval = 1.96 * statistics.stdev(lost) / len(lost) ** 0.5
    share = [sum(each.rank <= most for each in results) / len(results) for most in (1, 5)]
    reciprocal = statistics.fmean(1 / each.rank for each in results)
    mean = statistics.fmean(each.loss for each in results)
    cells = [way.name, f"{vectors * way.bytes_a_vector:,.0f}", f"{mean:.4f}"]
    cells += [f"{statistics.fmean(lost):+.4f} ± {interval:.4f}", *(f"{each:.3f}" for each in (*share, reciprocal))]
    return " | ".join(cells)


async def run(given: argparse.Namespace) -> None:
    texts = [json.loads(line)["text"] for line in (given.kept / PASSAGES).open()]
    known = questions(texts, given.questions)
    with tempfile.TemporaryDirectory() as scratch:
        settings = Settings(
            model=given.model, store=f"sqlite:{scratch}/store.sqlite3", corpora=f"corpus={given.kept / INDEX}"
        )
        async with open_core(settings) as core:
            corpus = core.corpora.named("corpus")
            vectors = corpus.manifest.num_vectors / corpus.manifest.num_passages
            print(
                "| questions | vectors as | bytes a passage | loss | more than bfloat16 | recall@1 | recall@5 | MRR |"
            )
            print("|---|---|---:|---:|---:|---:|---:|---:|")
            kept = [(way, Changed(corpus, way.change, way.name)) for way in ways(corpus, given.rates)]
            for kind in KINDS:
                own = [question for question in known if question.kind == kind]
                plain: list[Measured] = []
                for way, changed in kept:
                    found = [await measured(core, changed, question) for question in own]
                    results = [each for each in found if each is not None]
                    plain = plain or results
                    print(f"| {kind}, {len(results)} | {row(way, vectors, results, plain)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kept", type=Path, help="what `python -m benchmarks.corpus --keep` left")
    parser.add_argument("--model", default="paper")
    parser.add_argument("--questions", type=int, default=100, help="passages that are asked for, each two ways")
    parser.add_argument("--rates", type=int, nargs="*", default=[96, 48], help="bytes a vector by product quantisation")
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
