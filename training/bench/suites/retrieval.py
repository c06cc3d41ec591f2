"""Passages retrieved for a text: their summaries fused, as much of their text, or each alone (REPLUG).

It is Table 5 of arXiv 2305.14788 (section 6), at the scale of the model given.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from model.bm25 import Passages
from training.bench.drawing import described, drawn_by_domain, places
from training.bench.figure import Line, Panel
from training.bench.options import Options
from training.bench.outcome import Cell, Number, Outcome, Table
from training.bench.reader import Reader
from training.bench.tally import NONE, Scores, as_json, gain, loss, with_all
from training.data.documents import TokenisedDocuments
from training.evaluation.intervals import Estimate
from training.evaluation.scorer import by_document
from training.evaluation.windows import DomainWindows

TOPS = (1, 3, 5, 10)
QUERY, SCORED = 128, 128  # tokens that are searched with, and the ones after them
FUSED, SHORT_TOGETHER = "fused summaries", "fused passages of equal positions"
SUMMARIES_ALONE, SHORT_ALONE = "summaries, each alone", "REPLUG of equal positions"
WHOLE_ALONE = "REPLUG, whole passages"
FORMS = (FUSED, SHORT_TOGETHER, SUMMARIES_ALONE, SHORT_ALONE, WHOLE_ALONE)


@dataclass(frozen=True)
class Store:
    """Passages of a domain: (N, segment_length) ids, the places of their first tokens, and BM25 over them."""

    ids: Tensor
    starts: Sequence[int]
    passages: Passages

    @classmethod
    def of(cls, reader: Reader, documents: TokenisedDocuments) -> "Store":
        """All whole segments of all documents."""
        length = reader.model.segment_length
        starts = [int(start) for start in documents.windows(length)]
        ids = torch.from_numpy(np.stack([documents.run(start, length) for start in starts]))
        return cls(ids, starts, Passages([reader.decode(row) for row in ids]))

    def best(self, text: str, own: range, count: int) -> Tensor:
        """The best passages for a text, (count or fewer, L), the best first; none that touches its own places."""
        length = self.ids.shape[1]
        found = self.passages.best(text, count + len(own) // length + 2)
        apart = [n for n in found if self.starts[n] + length <= own.start or self.starts[n] >= own.stop]
        return self.ids[apart[:count]]


@dataclass
class Measured:
    """Losses by condition of the windows of a domain, and seconds by form and number of passages, of all windows."""

    losses: dict[str, list[float]] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, losses: Tensor | None, seconds: float) -> None:
        """Losses of one window's scored tokens, (1, SCORED); nothing where they did not fit."""
        if losses is not None:
            self.losses.setdefault(name, []).append(float(losses.sum()))
            self.seconds.setdefault(name, []).append(seconds)


def named(form: str, top: int) -> str:
    return f"{form}, {top}"


def mixture(losses: Tensor) -> Tensor:
    """Losses of (T,) tokens under the mean of the probabilities that gave the losses (passages, T)."""
    return -(-losses).logsumexp(dim=0) + math.log(len(losses))


def measure(reader: Reader, store: Store, tokens: Tensor, own: range, into: Measured) -> None:
    """Every form of the passages for one window, (QUERY + SCORED,) tokens at their `own` places."""
    text = tokens[None]
    found = store.best(reader.decode(tokens[:QUERY]), own, max(TOPS))
    kept = reader.model.summary_length
    vectors = torch.stack([torch.cat([one.vectors for one in row]) for row in reader.summaries(found)])
    tops = [top for top in TOPS if top <= len(found)]
    into.add(NONE, *_read(reader, text))
    for top in tops:
        fused = vectors[:top].flip(0).flatten(0, 1)[None]  # the best passage next to the text
        short = found[:top, :kept].flip(0).flatten()[None]
        into.add(named(FUSED, top), *_read(reader, text, fused))
        into.add(named(SHORT_TOGETHER, top), *_read(reader, torch.cat([short, text], dim=1)))
    several = text.expand(len(found), -1)
    each_alone = {
        SUMMARIES_ALONE: _read(reader, several, vectors),
        SHORT_ALONE: _read(reader, torch.cat([found[:, :kept], several], dim=1)),
        WHOLE_ALONE: _read(reader, torch.cat([found, several], dim=1)),
    }
    for form, (losses, seconds) in each_alone.items():
        for top in tops:
            mixed = None if losses is None else mixture(losses[:top])[None]
            into.add(named(form, top), mixed, seconds * top / len(found))


def _read(reader: Reader, ids: Tensor, vectors: Tensor | None = None) -> tuple[Tensor | None, float]:
    """Losses of the scored tokens, (B, SCORED), and the seconds that they took."""
    start = time.perf_counter()
    losses = reader.losses(ids, SCORED, vectors)
    return losses, time.perf_counter() - start


def run(reader: Reader, options: Options) -> Outcome:
    if not reader.can_summarise(1):
        raise ValueError(f"a segment of {reader.model.segment_length} tokens has no summary that fits the model")
    documents, length = options.documents(reader.tokenizer), QUERY + SCORED
    windows = drawn_by_domain(documents, length, options.number, seed=options.seed)
    found, seconds = {}, dict[str, list[float]]()
    with tqdm(total=sum(map(len, windows.values())), unit=" texts", desc=options.suite) as progress:
        for domain, drawn in windows.items():
            store, into = Store.of(reader, documents[domain]), Measured()
            chosen = places(documents[domain], length, options.number, seed=options.seed)
            for tokens, (_, place) in zip(drawn.tokens, chosen, strict=True):
                measure(reader, store, torch.from_numpy(tokens), range(place, place + length), into)
                progress.update()
            found[domain] = _scores(into, drawn)
            for name, each in into.seconds.items():
                seconds.setdefault(name, []).extend(each)
    return _outcome(reader, with_all(found), windows, seconds)


def _scores(into: Measured, drawn: DomainWindows) -> Scores:
    """By document; without what did not fit all windows."""
    return {name: by_document(sums, drawn, SCORED) for name, sums in into.losses.items() if len(sums) == len(drawn)}


def _outcome(
    reader: Reader,
    found: Mapping[str, Scores],
    windows: Mapping[str, DomainWindows],
    seconds: Mapping[str, Sequence[float]],
) -> Outcome:
    model = reader.model
    notes = [
        f"BM25 finds passages of {model.segment_length} tokens for {QUERY} tokens of a text, in the same domain and "
        f"nowhere in these tokens nor in the {SCORED} after them, which are scored. Fused summaries: the passages' "
        f"{model.summary_length} vectors each before the text, the best nearest. Equal positions: the first "
        f"{model.summary_length} tokens of each passage. REPLUG (arXiv 2301.12652): the mean of the probabilities "
        f"after each passage alone, here of equal weight. Gain: by how much perplexity is lower than without passages.",
        f"Texts a second of the reading alone, on {torch.get_num_threads()} CPU threads or the device; what is read "
        f"with each passage alone is in one batch of {max(TOPS)}, of which fewer passages take their part. Summaries "
        f"are made when a passage is stored.",
        described(windows),
    ]
    panels = [
        Panel(domain, "passages", "gain of perplexity", [_line(scores, form) for form in FORMS])
        for domain, scores in found.items()
    ]
    return Outcome(
        heading="retrieved passages, fused or each alone",
        counted="texts a domain",
        notes=notes,
        tables=[_gains(found), _rates(seconds)],
        panels=panels,
        measured={
            "windows": {name: each.digest() for name, each in windows.items()},
            "documents": as_json(found),
            "seconds": {name: float(np.mean(each)) for name, each in seconds.items()},
        },
    )


def perplexity_gain(scores: Scores, name: str) -> Estimate | None:
    """1 - perplexity / perplexity without passages."""
    nats = gain(scores, name)
    return None if nats is None else Estimate(*(1 - math.exp(-each) for each in (nats.value, nats.low, nats.high)))


def _line(scores: Scores, form: str) -> Line:
    return Line(form, [(top, perplexity_gain(scores, named(form, top))) for top in TOPS])


def _gains(found: Mapping[str, Scores]) -> Table:
    rows: list[list[Cell]] = [
        [domain, form, loss(scores, NONE), *(_percent(perplexity_gain(scores, named(form, top))) for top in TOPS)]
        for domain, scores in found.items()
        for form in FORMS
    ]
    header = ["domain", "form", "loss without", *(f"top {top}" for top in TOPS)]
    return Table("Gain of perplexity", header, rows, num_text_columns=2)


def _percent(estimate: Estimate | None) -> Number | None:
    return None if estimate is None else Number(estimate, "{:+.1%}")


def _rates(seconds: Mapping[str, Sequence[float]]) -> Table:
    rows = [
        [form, *(f"{1 / np.mean(seconds[name]):.2f}" if name in seconds else None for name in _names(form))]
        for form in FORMS
    ]
    return Table("Texts a second", ["form", *(f"top {top}" for top in TOPS)], rows)


def _names(form: str) -> list[str]:
    return [named(form, top) for top in TOPS]
