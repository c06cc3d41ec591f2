"""What vectors keep of names, numbers and quoted strings, planted in real text and chosen among others of a kind."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from model.bm25 import Passages
from training.bench.drawing import described, drawn_by_domain
from training.bench.figure import Line, Panel
from training.bench.options import Options
from training.bench.outcome import Number, Outcome, Table
from training.bench.parts import Part, mixed
from training.bench.planting import KINDS, Fact, facts, planted
from training.bench.prefix import Ending, Prefix
from training.bench.reader import Reader
from training.bench.tally import percent
from training.evaluation.intervals import Estimate
from training.evaluation.intervals import ratio as mean_of
from training.evaluation.windows import DomainWindows

DISTANCES = (1, 2, 4, 8)  # the segment that holds a fact, counted from the end
CHOICES = 8
GAP = 64  # raw tokens between the last segment and the question
NONE, FULL, VECTORS, EXPANDED = "none", "in full", "vectors", "vectors, one segment expanded"
FOUND_ALONE = "the found segment alone"
FORMS = (NONE, FULL, VECTORS, EXPANDED, FOUND_ALONE)


@dataclass(frozen=True)
class Planted:
    """A text with a fact of each kind at each distance.

    Attributes:
        ids: (segments, segment_length). gap: (GAP,), the text after them. facts: each with its distance.
    """

    ids: Tensor
    gap: Tensor
    facts: Sequence[tuple[Fact, int]]


@dataclass(frozen=True)
class Choice:
    """Whether the right end of a fact was the likeliest."""

    document: str
    kind: str
    distance: int
    form: str
    is_right: bool


def distances_for(reader: Reader) -> list[int]:
    """Those whose segments the model can summarise and hold; ValueError where there is none."""
    model = reader.model
    found = [
        each
        for each in DISTANCES
        if reader.can_summarise(each)
        and reader.fits(each * model.summary_length if model.accumulate_summary else model.summary_length, 2 * GAP)
    ]
    if not found:
        raise ValueError(f"no segment of {model.segment_length} tokens fits {model.max_positions} positions as vectors")
    return found


def plant(reader: Reader, tokens: Tensor, distances: Sequence[int], random: Random) -> Planted:
    """Put a fact of each kind into the segments at each distance of a window, (segments * segment_length + GAP,)."""
    length = reader.model.segment_length
    segments = [segment.tolist() for segment in tokens[:-GAP].split(length)]
    by_kind = [facts(kind, len(distances), CHOICES, random) for kind in KINDS]
    held: list[tuple[Fact, int]] = []
    for number, distance in enumerate(distances):
        own = [of_kind[number] for of_kind in by_kind]
        random.shuffle(own)
        segment = segments[-distance]
        pieces = [reader.encode(f" {fact.sentence}") for fact in own]
        segments[-distance] = planted(segment, pieces, _breaks(reader, segment), random)
        held += [(fact, distance) for fact in own]
    return Planted(torch.tensor(segments), tokens[-GAP:], held)


def _breaks(reader: Reader, segment: Sequence[int]) -> list[int]:
    """The places after a token that ends a sentence or a line."""
    ends = (".", "!", "?", "\n", ";", '."')
    return [
        place for place, token in enumerate(segment, start=1) if reader.decode(torch.tensor([token])).endswith(ends)
    ]


def endings(reader: Reader, fact: Fact) -> list[Ending]:
    """The question with each of the ends, the right one first."""
    cue = reader.encode(f"\n\n{fact.cue}")
    ends = [reader.encode(end) for end in (fact.answer, *fact.others)]
    return [Ending([*cue, *end], len(end)) for end in ends]


def is_chosen(losses: Sequence[Tensor]) -> bool:
    """Whether the first end is the likeliest, by mean loss a token, as ends have different numbers of them."""
    means = [float(each.mean()) for each in losses]
    return means[0] < min(means[1:])


def prefixes(reader: Reader, text: Planted) -> Iterator[tuple[str, Prefix, list[tuple[Fact, int]]]]:
    """Every form of the text with the facts that are asked for after it; what does not fit is left out."""
    yield NONE, Prefix.read(reader, text.gap), list(text.facts)
    whole = torch.cat([text.ids.flatten(), text.gap])
    if reader.fits(0, len(whole) + GAP):
        yield FULL, Prefix.read(reader, whole), list(text.facts)
    summaries = reader.summaries(text.ids.flatten()[None])[0]
    vectors = torch.cat([summary.vectors for summary in summaries])
    yield VECTORS, Prefix.read(reader, text.gap, vectors), list(text.facts)
    found = _by_found(reader, text)
    for segment, held in found.items():
        alone = torch.cat([text.ids[segment], text.gap])
        if reader.fits(0, len(alone) + GAP):
            yield FOUND_ALONE, Prefix.read(reader, alone), held
        if reader.can_mix() and len(summaries) == len(text.ids):
            parts = [Part(ids, summary) for ids, summary in zip(text.ids, summaries, strict=True)]
            prompt = mixed(reader, parts, (segment,))
            if reader.fits(len(prompt), 2 * GAP):
                yield EXPANDED, Prefix.read(reader, text.gap, prompt), held


def _by_found(reader: Reader, text: Planted) -> dict[int, list[tuple[Fact, int]]]:
    """The facts by the segment that BM25 finds for their cue."""
    passages = Passages([reader.decode(segment) for segment in text.ids])
    found: dict[int, list[tuple[Fact, int]]] = {}
    for fact, distance in text.facts:
        (segment,) = passages.best(fact.cue, 1)
        found.setdefault(segment, []).append((fact, distance))
    return found


def choices(reader: Reader, text: Planted, document: str) -> Iterator[Choice]:
    for form, prefix, held in prefixes(reader, text):
        losses = prefix.losses([ending for fact, _ in held for ending in endings(reader, fact)])
        if losses is None:
            continue
        for number, (fact, distance) in enumerate(held):
            own = losses[number * CHOICES : (number + 1) * CHOICES]
            yield Choice(document, fact.kind, distance, form, is_chosen(own))


def run(reader: Reader, options: Options) -> Outcome:
    distances = distances_for(reader)
    length = max(distances) * reader.model.segment_length + GAP
    windows = drawn_by_domain(options.documents(reader.tokenizer), length, options.number, seed=options.seed)
    found: list[Choice] = []
    with tqdm(total=sum(map(len, windows.values())), unit=" texts", desc=options.suite) as progress:
        for domain, drawn in windows.items():
            for number, (tokens, document) in enumerate(zip(drawn.tokens, drawn.documents, strict=True)):
                random = Random(f"{options.seed} {domain} {number}")
                text = plant(reader, torch.from_numpy(tokens), distances, random)
                found += choices(reader, text, f"{domain} {document}")
                progress.update()
    return _outcome(reader, found, windows, distances)


def _outcome(
    reader: Reader, found: Sequence[Choice], windows: Mapping[str, DomainWindows], distances: Sequence[int]
) -> Outcome:
    model = reader.model
    notes = [
        f"In real text, {max(distances)} segments of {model.segment_length} tokens ({model.summary_length} vectors "
        f"each) and {GAP} raw tokens after them, a name, a four-digit number and a quoted string are planted in the "
        f"segments at each distance. The sentence is begun again, and the right end is chosen if its tokens are on "
        f"average likelier than those of {CHOICES - 1} others of its kind: the ends planted elsewhere in the text, and "
        f"some that stand nowhere. Chance is {1 / CHOICES:.1%}. Share: accuracy above chance over that of the text in "
        f"full. Expanded: the segment that BM25 finds for the question is text in its place, the rest vectors.",
        described(windows),
    ]
    panels = [
        Panel(
            kind.name,
            "segments back",
            "accuracy",
            [Line(form, [(each, accuracy(found, form, kind.name, each)) for each in distances]) for form in FORMS],
            is_logarithmic=True,
        )
        for kind in KINDS
    ]
    return Outcome(
        heading="names, numbers and quoted strings from vectors",
        counted="texts a domain",
        notes=notes,
        tables=[_table(found, distances)],
        panels=panels,
        measured=_as_json(found, windows),
    )


def accuracy(
    found: Sequence[Choice], form: str, kind: str | None = None, distance: int | None = None
) -> Estimate | None:
    """Of a form, over all kinds or distances where none is named; None where nothing was asked."""
    rights, counts = _sums(found, form, kind, distance)
    return mean_of(rights, counts) if len(counts) else None


def share_of_full(found: Sequence[Choice], form: str, kind: str | None, distance: int | None) -> Estimate | None:
    """(accuracy - chance) / (accuracy in full - chance); None unless the latter is clearly above 0."""
    rights, counts = _sums(found, form, kind, distance)
    full, full_counts = _sums(found, FULL, kind, distance)
    if len(full_counts) == 0 or not np.array_equal(counts, full_counts):
        return None
    above, full_above = rights - counts / CHOICES, full - counts / CHOICES
    if mean_of(full_above, counts).low <= 0:
        return None
    return mean_of(above, full_above)


def _sums(found: Sequence[Choice], form: str, kind: str | None, distance: int | None) -> tuple[Any, Any]:
    """Right choices and all choices, by document."""
    sums: dict[str, list[int]] = {}
    for each in found:
        if each.form == form and kind in (None, each.kind) and distance in (None, each.distance):
            sums.setdefault(each.document, []).append(int(each.is_right))
    rights = np.array([sum(sums[document]) for document in sorted(sums)], dtype=np.float64)
    return rights, np.array([len(sums[document]) for document in sorted(sums)], dtype=np.int64)


def _table(found: Sequence[Choice], distances: Sequence[int]) -> Table:
    rows = []
    for kind in (*(kind.name for kind in KINDS), None):
        for distance in (*distances, None):
            cells = [_cell(accuracy(found, form, kind, distance)) for form in FORMS]
            shares = [percent(share_of_full(found, form, kind, distance)) for form in (VECTORS, EXPANDED)]
            rows.append([kind or "all kinds", str(distance or "all"), *cells, *shares])
    header = ["kind", "segments back", *FORMS, f"share, {VECTORS}", "share, expanded"]
    return Table("Accuracy of forced choices", header, rows, num_text_columns=1)


def _cell(estimate: Estimate | None) -> Number | None:
    return None if estimate is None else Number(estimate, "{:.1%}")


def _as_json(found: Sequence[Choice], windows: Mapping[str, DomainWindows]) -> dict[str, Any]:
    return {
        "windows": {name: each.digest() for name, each in windows.items()},
        "choices": [[each.document, each.kind, each.distance, each.form, each.is_right] for each in found],
    }
