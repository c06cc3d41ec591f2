"""A text in parts, each of which a reader is given as vectors or as it is."""

import copy
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from model.bm25 import Passages
from model.compressors import Anchored, SegmentSummary, Vocabulary
from training.bench.reader import Reader

TOLERANCE = 1.25  # how far from a wanted ratio one that was made may be


@dataclass(frozen=True)
class Part:
    """A segment of a text, (L,) ids, and its summary."""

    ids: Tensor
    summary: SegmentSummary


def parts_at(reader: Reader, ids: Tensor, ratio: float, segment_length: int | None = None) -> list[Part] | None:
    """A text, (L,) ids, at about so many tokens a vector; None where the model makes no such vectors.

    Anchored vectors are as many as are wanted, or the most important ones. Summary tokens are as many as they are, so
    that the segments' length follows from the ratio.
    """
    length = segment_length or reader.model.segment_length
    if reader.model.config.compressor == "anchored":
        found = _anchored(reader, ids, ratio, length)
    else:
        count = max(1, round(len(ids) / ratio / max(1, reader.model.summary_length)))
        length = math.ceil(len(ids) / count)
        found = reader.summaries(ids[None], length)[0] if reader.can_summarise(count, length) else []
    parts = ids.split(length)
    made = len(ids) / max(1, sum(map(len, found)))
    if len(found) < len(parts) or not 1 / TOLERANCE <= made / ratio <= TOLERANCE:
        return None
    return [Part(part, one) for part, one in zip(parts, found, strict=True)]


def _anchored(reader: Reader, ids: Tensor, ratio: float, length: int) -> list[SegmentSummary]:
    model = reader.model
    wanted = math.ceil(model.segment_length / ratio)
    if wanted > model.summary_length:
        finer = copy.copy(model)  # the same weights; only what is counted differs
        vocabulary = Vocabulary.of(reader.tokenizer, model.base.config.vocab_size)
        counted = replace(model.config, summary_length=wanted).num_vectors
        finer.writer = Anchored(model.bridge, vocabulary, model.config.layers, counted)
        return Reader.of(finer).summaries(ids[None], length)[0]
    (found,) = reader.summaries(ids[None], length)
    parts = ids.split(length)
    return [one.thinned(math.ceil(len(part) / ratio)) for one, part in zip(found, parts, strict=True)]


def best_parts(reader: Reader, parts: Sequence[Part], questions: Sequence[str], count: int) -> list[tuple[int, ...]]:
    """For each question the numbers of the parts that BM25 finds for it, in the order of the text."""
    passages = Passages([reader.decode(part.ids) for part in parts])
    return [tuple(sorted(passages.best(question, count))) for question in questions]


def mixed(reader: Reader, parts: Sequence[Part], in_full: Collection[int] = ()) -> Tensor:
    """One soft prompt, (P, D), of all parts, those of these numbers as text in their place.

    Raises:
        ValueError: text among the vectors of a model whose soft prompts take no positions.
    """
    if in_full and not reader.can_mix():
        raise ValueError("text among vectors needs positions, and this model's soft prompts have none")
    return torch.cat(
        [reader.embedded(part.ids) if number in in_full else part.summary.vectors for number, part in enumerate(parts)]
    )
