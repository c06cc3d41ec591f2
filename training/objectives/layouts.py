"""How the rows of a distilled batch are read: what is compressed, what stays raw, and what follows."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Literal

from training.recipes.recipe import Compression, Distillation

Kind = Literal["continuing", "reciting", "asking"]
Side = Literal["before", "after"]
SIDES: tuple[Side, ...] = ("before", "after")


@dataclass(frozen=True)
class Layout:
    """One row: `[segments | window | tail]`, of which a student reads `[vectors | window | tail]`.

    Attributes:
        kind: what the tail is: the text's own, parts of the context again, or questions about it.
        lengths: of the segments, in tokens. window: tokens of the context that stay raw, its last.
        ratio: the share of a segment's vectors that is kept.
        is_unrelated: the student reads another row's vectors, and the teacher none of the context.
        raw: the segment that stays raw, in its place among the vectors of the others.
        among: where the student reads another row's vectors besides its own.
    """

    kind: Kind
    lengths: tuple[int, ...]
    window: int = 0
    ratio: float = 1.0
    is_unrelated: bool = False
    raw: int | None = None
    among: Side | None = None

    @classmethod
    def draw(cls, compression: Compression, distillation: Distillation, generator: random.Random) -> "Layout":
        """One at random, by the shares."""
        is_unrelated = generator.random() < distillation.unrelated
        kind = _kind(distillation, generator.random())
        is_windowed = generator.random() < distillation.windowed and not is_unrelated
        unit = distillation.cut_tokens
        units = distillation.context_tokens // unit
        window = generator.randint(1, max(1, units // 2)) if is_windowed and units > 1 else 0
        is_whole = generator.random() < distillation.whole
        lengths = _cut(units - window, 1 if is_whole else compression.segments_per_substep, generator)
        is_thinned = generator.random() < distillation.thinned
        ratio = generator.choice(distillation.ratios) if is_thinned else 1.0
        is_expanded = generator.random() < distillation.expanded and not is_unrelated and len(lengths) > 1
        raw = generator.choices(range(len(lengths)), lengths)[0] if is_expanded else None
        is_among = generator.random() < distillation.among and not is_unrelated
        among: Side | None = generator.choice(SIDES) if is_among else None
        return cls(kind, tuple(unit * length for length in lengths), unit * window, ratio, is_unrelated, raw, among)

    def on_its_own(self) -> "Layout":
        """The same with no other row's vectors."""
        return replace(self, is_unrelated=False, among=None)

    @property
    def compressed_tokens(self) -> int:
        return sum(self.lengths)

    def pieces(self) -> Iterator[tuple[int, int]]:
        """Where each segment starts and ends."""
        return pairwise(accumulate(self.lengths, initial=0))

    @property
    def told(self) -> tuple[int, int]:
        """Where what a tail is about starts and ends: the raw segment, or all that is compressed."""
        return (0, self.compressed_tokens) if self.raw is None else list(self.pieces())[self.raw]


def _kind(distillation: Distillation, drawn: float) -> Kind:
    if drawn < distillation.reciting:
        return "reciting"
    return "asking" if drawn < distillation.reciting + distillation.asking else "continuing"


def _cut(num_units: int, max_segments: int, generator: random.Random) -> list[int]:
    """One segment, or where more are allowed 2 to so many, of any lengths that add up."""
    num_segments = min(num_units, generator.randint(min(2, max_segments), max_segments))
    breaks = [0, *sorted(generator.sample(range(1, num_units), num_segments - 1)), num_units]
    return [end - start for start, end in pairwise(breaks)]
