"""What more segments bring: the gain of 1 to 50 of them as vectors."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from training.bench.drawing import described, drawn_by_domain
from training.bench.figure import Line, Panel
from training.bench.options import Options
from training.bench.outcome import Outcome, Table
from training.bench.reader import Reader, joined
from training.bench.suites.perplexity import SCORED, in_full, vectors
from training.bench.tally import NONE, Scores, as_json, gain, loss, signed, tallied

DEPTHS = (1, 2, 4, 8, 16, 32, 50)


@dataclass(frozen=True)
class Depths:
    """None, each depth as vectors, and in full as far as the positions reach, all on the last `SCORED` tokens."""

    reader: Reader
    depths: Sequence[int]

    def __call__(self, tokens: Tensor) -> Iterator[tuple[str, Tensor | None]]:
        reader, length, tail = self.reader, self.reader.model.segment_length, tokens[:, -SCORED - 1 :]
        yield NONE, reader.losses(tail, SCORED)
        for count, rows in reader.newest(tokens[:, : -SCORED - 1], self.depths).items():
            yield vectors(count), reader.losses(tail, SCORED, joined(rows))
        for count in self.depths:
            yield in_full(count), reader.losses(tokens[:, -SCORED - 1 - count * length :], SCORED)


def fitting(reader: Reader) -> list[int]:
    """The depths that the model has positions for; ValueError where there is none."""
    model = reader.model
    kept = model.summary_length if model.accumulate_summary else 0
    depths = [depth for depth in DEPTHS if reader.can_summarise(depth) and reader.fits(depth * kept, SCORED + 1)]
    if not depths:
        raise ValueError(
            f"no depth fits: a segment of {model.segment_length} tokens and {SCORED + 1} tokens after "
            f"{model.summary_length} vectors need more than {model.max_positions} positions, or it makes no vectors"
        )
    return depths


def run(reader: Reader, options: Options) -> Outcome:
    depths = fitting(reader)
    length = max(depths) * reader.model.segment_length + SCORED + 1
    windows = drawn_by_domain(options.documents(reader.tokenizer), length, options.number, seed=options.seed)
    found = tallied(windows, Depths(reader, depths), options.suite)
    notes = [
        f"Gain: by how much the loss of the next {SCORED} tokens is lower than without context, nats a token. Segments "
        f"of {reader.model.segment_length} tokens, {reader.model.summary_length} vectors each, the newest before the "
        f"scored tokens; the same tokens at every depth.",
        described(windows),
    ]
    return Outcome(
        heading="the gain by the number of segments",
        counted="windows a domain",
        notes=notes,
        tables=[_gains(found, depths), _over_one(found, depths)],
        panels=[
            Panel(
                "gain of vectors over no context",
                "segments",
                "nats a token",
                [
                    Line(domain, [(depth, gain(scores, vectors(depth))) for depth in depths])
                    for domain, scores in found.items()
                ],
                is_logarithmic=True,
            )
        ],
        measured={"windows": {name: each.digest() for name, each in windows.items()}, "documents": as_json(found)},
    )


def _gains(found: Mapping[str, Scores], depths: Sequence[int]) -> Table:
    rows = [
        [domain, form, loss(scores, NONE), *(signed(gain(scores, condition(depth))) for depth in depths)]
        for domain, scores in found.items()
        for form, condition in (("vectors", vectors), ("in full", in_full))
    ]
    header = ["domain", "context", "loss without", *map(str, depths)]
    return Table("Gain by the number of segments", header, rows, num_text_columns=2)


def _over_one(found: Mapping[str, Scores], depths: Sequence[int]) -> Table:
    rows = [
        [domain, *(signed(gain(scores, vectors(depth), vectors(depths[0]))) for depth in depths[1:])]
        for domain, scores in found.items()
    ]
    title = f"Gain of more segments as vectors over {depths[0]}"
    return Table(title, ["domain", *map(str, depths[1:])], rows)
