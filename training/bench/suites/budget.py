"""How to spend vectors: few of long segments or many of short ones, more or fewer of each."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from training.bench.drawing import described, drawn_by_domain
from training.bench.figure import Line, Panel
from training.bench.options import Options
from training.bench.outcome import Outcome, Table
from training.bench.reader import Reader, joined
from training.bench.suites.perplexity import SCORED
from training.bench.tally import NONE, Scores, as_json, loss, percent, share, tallied
from training.evaluation.intervals import Estimate

CONTEXT = 2  # segments of the model's own length
LENGTHS = (0.25, 0.5, 1, 2)  # of a segment, in the model's own
RATIOS = (0.25, 0.5, 1, 2, 4)  # tokens a vector, in the model's own
FULL = "in full"


@dataclass(frozen=True)
class Budget:
    """Tokens a segment, and vectors that stand for it."""

    segment_length: int
    num_vectors: int

    @property
    def name(self) -> str:
        return f"{self.num_vectors} vectors of {self.segment_length} tokens"


def lengths_of(reader: Reader) -> list[int]:
    """Tokens a segment."""
    return [max(1, round(length * reader.model.segment_length)) for length in LENGTHS]


def budgets_of(reader: Reader, segment_length: int) -> list[Budget | None]:
    """Of a segment length, one for each ratio; None where that is less than a vector."""
    native = reader.model.segment_length / reader.model.summary_length
    wanted = [round(segment_length / (native * ratio), 3) for ratio in RATIOS]
    return [Budget(segment_length, round(count)) if count >= 1 else None for count in wanted]


@dataclass(frozen=True)
class Spent:
    """The context under every budget that the model can keep to, all on the last `SCORED` tokens."""

    reader: Reader

    def __call__(self, tokens: Tensor) -> Iterator[tuple[str, Tensor | None]]:
        reader, tail, context = self.reader, tokens[:, -SCORED - 1 :], tokens[:, : -SCORED - 1]
        yield NONE, reader.losses(tail, SCORED)
        yield FULL, reader.losses(tokens, SCORED)
        for length in lengths_of(reader):
            if not reader.can_summarise(-(-context.shape[1] // length), length):
                continue
            summaries = reader.summaries(context, length)
            made = max(len(one) for one in summaries[0])
            for budget in budgets_of(reader, length):
                if budget is None or budget.num_vectors > made:
                    continue
                prompt = joined(summaries, budget.num_vectors)
                if prompt is not None:
                    yield budget.name, reader.losses(tail, SCORED, prompt)


def run(reader: Reader, options: Options) -> Outcome:
    if reader.model.summary_length == 0:
        raise ValueError("summary_length is 0: a plain language model has no vectors to spend")
    num_context = CONTEXT * reader.model.segment_length
    windows = drawn_by_domain(
        options.documents(reader.tokenizer), num_context + SCORED + 1, options.number, seed=options.seed
    )
    found = tallied(windows, Spent(reader), options.suite)
    notes = [
        f"Share of the gap in the loss of {SCORED} tokens that vectors of the {num_context:,} before them close, by "
        f"tokens a segment and tokens a vector. Fewer vectors than a segment has are the most important ones; summary "
        f"tokens have no such order and stay as many as they are, so that their ratio follows from the segment. An RMT "
        f"keeps the newest segment's vectors alone.",
        described(windows),
    ]
    return Outcome(
        heading="vectors a segment, and tokens a segment",
        counted="windows a domain",
        notes=notes,
        tables=[_table(reader, found)],
        panels=[_panel(reader, domain, scores) for domain, scores in found.items()],
        measured={"windows": {name: each.digest() for name, each in windows.items()}, "documents": as_json(found)},
    )


def _ratio(reader: Reader, multiple: float) -> float:
    return multiple * reader.model.segment_length / reader.model.summary_length


def _table(reader: Reader, found: Mapping[str, Scores]) -> Table:
    rows = [
        [domain, loss(scores, NONE), loss(scores, FULL), f"{length}", *map(percent, _shares(reader, scores, length))]
        for domain, scores in found.items()
        for length in lengths_of(reader)
    ]
    columns = [f"{_ratio(reader, multiple):.3g}x" for multiple in RATIOS]
    header = ["domain", NONE, FULL, "tokens a segment", *columns]
    return Table("Share of the gap closed by tokens a segment and a vector", header, rows)


def _shares(reader: Reader, scores: Scores, length: int) -> list[Estimate | None]:
    return [None if each is None else share(scores, each.name, FULL) for each in budgets_of(reader, length)]


def _panel(reader: Reader, domain: str, scores: Scores) -> Panel:
    ratios = [_ratio(reader, multiple) for multiple in RATIOS]
    lines = [
        Line(f"{length} tokens a segment", list(zip(ratios, _shares(reader, scores, length), strict=True)))
        for length in lengths_of(reader)
    ]
    return Panel(domain, "tokens a vector", "share of the gap closed", lines, is_logarithmic=True)
