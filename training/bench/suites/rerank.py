"""Passages that BM25 finds, put in order by how well a question follows from each: from its vectors or its text."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from model.bm25 import Passages
from training.bench.figure import Line, Panel
from training.bench.options import Options
from training.bench.outcome import Cell, Number, Outcome, Table
from training.bench.parts import mixed, parts_at
from training.bench.prefix import Ending
from training.bench.questions import Paragraph, read_paragraphs
from training.bench.reader import Reader
from training.evaluation.intervals import Estimate
from training.evaluation.intervals import ratio as mean_of

CANDIDATES = 40
DEPTHS = (1, 5, 20)
ASKING = "\n\nPlease write a question based on this passage.\n"  # as arXiv 2305.14788, section 7
BM25, TEXT, VECTORS, FEWER = "BM25", "text", "vectors", "half the vectors"


@dataclass(frozen=True)
class Query:
    """A question, and the number of the paragraph that it was asked of."""

    text: str
    paragraph: int


@dataclass
class Ranking:
    """Of one method: places of the right paragraphs by question, from 1, None where it was no candidate.

    Attributes:
        seconds: of all questions. num_bytes: of what is stored of each passage.
    """

    places: list[int | None] = field(default_factory=list)
    seconds: float = 0.0
    num_bytes: list[int] = field(default_factory=list)


Scorer = Callable[[int, Ending], float]
"""The mean loss of a question after the passage of a number."""


def queries_of(paragraphs: Sequence[Paragraph], count: int, seed: int) -> list[Query]:
    """One question of each paragraph in an order of their own, then a second one of each, and so on."""
    random = np.random.default_rng(seed)
    orders = [random.permutation(len(paragraph.questions)) for paragraph in paragraphs]
    turns = range(max(map(len, orders)))
    found = [
        Query(paragraphs[number].questions[orders[number][turn]].text, number)
        for turn in turns
        for number in random.permutation(len(paragraphs)).tolist()
        if turn < len(orders[number])
    ]
    return found[:count]


def run(reader: Reader, options: Options) -> Outcome:
    paragraphs = read_paragraphs(options.questions or options.data, least=2)
    queries = queries_of(paragraphs, options.number, options.seed)
    passages = Passages([paragraph.text for paragraph in paragraphs])
    scorers, rankings = _scorers(reader, paragraphs)
    rankings[BM25] = Ranking(num_bytes=rankings[TEXT].num_bytes)
    for query in tqdm(queries, unit=" questions", desc=options.suite):
        start = time.perf_counter()
        candidates = passages.best(query.text, CANDIDATES)
        rankings[BM25].seconds += time.perf_counter() - start
        rankings[BM25].places.append(_place(candidates, query.paragraph))
        ending = _ending(reader, query)
        for name, score in scorers.items():
            start = time.perf_counter()
            losses = [score(candidate, ending) for candidate in candidates]
            rankings[name].seconds += time.perf_counter() - start
            order = [candidates[number] for number in np.argsort(losses, kind="stable")]
            rankings[name].places.append(_place(order, query.paragraph))
    found = {name: rankings[name] for name in (BM25, *scorers)}
    notes = [
        f"{len(queries)} questions, each to find its own of {len(paragraphs)} paragraphs. BM25's best {CANDIDATES} are "
        f"put in order by the loss of the question after the paragraph and the request to write a question, one "
        f"candidate at a time with {torch.get_num_threads()} CPU threads or the device. Bytes are of what is stored of "
        f"a passage beside BM25's index; vectors are made when it is stored, which is not counted.",
    ]
    return Outcome(
        heading="passages in order by a question",
        counted="questions",
        notes=notes,
        tables=[_table(found, queries)],
        panels=[_panel(found, queries)],
        measured={
            "queries": [[query.paragraph, query.text] for query in queries],
            "places": {name: ranking.places for name, ranking in found.items()},
            "seconds": {name: ranking.seconds for name, ranking in found.items()},
        },
    )


def _scorers(reader: Reader, paragraphs: Sequence[Paragraph]) -> tuple[dict[str, Scorer], dict[str, Ranking]]:
    """How each method scores, of those that the model has, and rankings that hold the bytes."""
    texts = [torch.tensor(reader.encode(paragraph.text)) for paragraph in paragraphs]
    rankings = {TEXT: Ranking(num_bytes=[len(paragraph.text.encode()) for paragraph in paragraphs])}
    scorers: dict[str, Scorer] = {TEXT: lambda number, ending: _loss(reader, ending, ids=texts[number])}
    native = reader.model.segment_length / max(1, reader.model.summary_length)
    for name, ratio in ((VECTORS, native), (FEWER, 2 * native)):
        stored = _vectors(reader, texts, ratio)
        if stored is not None:
            scorers[name] = _vector_scorer(reader, stored)
            rankings[name] = Ranking(num_bytes=[each.numel() * each.element_size() for each in stored])
    return scorers, rankings


def _vector_scorer(reader: Reader, stored: Sequence[Tensor]) -> Scorer:
    return lambda number, ending: _loss(reader, ending, vectors=stored[number])


def _vectors(reader: Reader, texts: Sequence[Tensor], ratio: float) -> list[Tensor] | None:
    """Of each text the vectors, (P, D): at the ratio where there is an order of importance, else those of the text."""
    model, found = reader.model, []
    if model.config.compressor != "anchored" and ratio > model.segment_length / max(1, model.summary_length):
        return None
    for ids in texts:
        parts = parts_at(reader, ids, ratio) if model.config.compressor == "anchored" else None
        if parts is not None:
            found.append(mixed(reader, parts))
        elif reader.can_summarise(-(-len(ids) // model.segment_length)):
            found.append(torch.cat([one.vectors for one in reader.summaries(ids[None])[0]]))
        else:
            return None
    return found


def _ending(reader: Reader, query: Query) -> Ending:
    ids = reader.encode(query.text)
    return Ending([*reader.encode(ASKING), *ids], len(ids))


def _loss(reader: Reader, ending: Ending, *, ids: Tensor | None = None, vectors: Tensor | None = None) -> float:
    """Mean loss of a question after a passage; a passage that does not fit comes last."""
    given = torch.tensor(ending.ids) if ids is None else torch.cat([ids, torch.tensor(ending.ids)])
    losses = reader.losses(given[None], ending.num_scored, None if vectors is None else vectors[None])
    return float("inf") if losses is None else float(losses.mean())


def _place(order: Sequence[int], paragraph: int) -> int | None:
    return order.index(paragraph) + 1 if paragraph in order else None


# --- what is told


def recall(places: Sequence[int | None], queries: Sequence[Query], depth: int) -> Estimate:
    """The share of questions whose paragraph stands among the first so many."""
    return _mean([float(place is not None and place <= depth) for place in places], queries)


def reciprocal_rank(places: Sequence[int | None], queries: Sequence[Query]) -> Estimate:
    """The mean of 1 / place, 0 for what was no candidate."""
    return _mean([0.0 if place is None else 1 / place for place in places], queries)


def _mean(values: Sequence[float], queries: Sequence[Query]) -> Estimate:
    """With intervals over paragraphs."""
    paragraphs = np.unique([query.paragraph for query in queries], return_inverse=True)[1]
    sums = np.bincount(paragraphs, weights=np.array(values, np.float64)).astype(np.float64)
    return mean_of(sums, np.bincount(paragraphs).astype(np.int64))


def _table(found: Mapping[str, Ranking], queries: Sequence[Query]) -> Table:
    rows: list[list[Cell]] = [
        [
            name,
            *(Number(recall(ranking.places, queries, depth), "{:.1%}") for depth in DEPTHS),
            Number(reciprocal_rank(ranking.places, queries)),
            f"{len(queries) / ranking.seconds:,.2f}",
            f"{np.mean(ranking.num_bytes):,.0f}",
        ]
        for name, ranking in found.items()
    ]
    header = ["order by", *(f"R@{depth}" for depth in DEPTHS), "MRR", "questions/s", "bytes a passage"]
    return Table("The right paragraph", header, rows)


def _panel(found: Mapping[str, Ranking], queries: Sequence[Query]) -> Panel:
    lines = [
        Line(name, [(depth, recall(ranking.places, queries, depth)) for depth in DEPTHS])
        for name, ranking in found.items()
    ]
    return Panel("recall", "paragraphs", "share of questions", lines, is_logarithmic=True)
