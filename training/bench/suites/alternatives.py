"""What else could stand in the positions of the vectors, and what each costs: text cut short, or its telling tokens."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
import torch
from torch import Tensor

from training.bench.drawing import described, drawn_by_domain
from training.bench.figure import Line, Panel
from training.bench.options import Options
from training.bench.outcome import Cell, Number, Outcome, Table
from training.bench.prefix import Ending
from training.bench.reader import Reader, joined
from training.bench.rivals.costs import COSTED, HELD, TIMED, Costs, costs_of
from training.bench.rivals.substitutes import FULL, VECTORS, WAYS, forms, selections
from training.bench.tally import NONE, Scores, as_json, gain, loss, percent, share, signed, tallied
from training.data.documents import tokenizer_identity
from training.evaluation.intervals import Estimate, ratio
from training.evaluation.scores import TOGETHER

SCORED = 192
SEGMENTS = 4


@dataclass(frozen=True)
class InPlaceOfVectors:
    """Every form of the tokens before, all on the last `SCORED` tokens of a window.

    Attributes:
        others: checkpoints beside, by label, of which the vectors alone are measured.
    """

    reader: Reader
    others: Mapping[str, Reader] = field(default_factory=dict)

    def __call__(self, tokens: Tensor) -> Iterator[tuple[str, Tensor | None]]:
        context, tail = tokens[:, : -SCORED - 1], tokens[:, -SCORED - 1 :]
        found = forms(self.reader, context)
        for name, form in found.items():
            ids = tail if form.ids is None else torch.cat([form.ids, tail], dim=1)
            yield name, self.reader.losses(ids, SCORED, form.soft_prompt)
        yield from self._selected(context, tail, found[VECTORS].positions)
        for label, other in self.others.items():
            for rows in other.newest(context, (num_segments(other, context.shape[1]),)).values():
                yield label, other.losses(tail, SCORED, joined(rows))

    def _selected(self, context: Tensor, tail: Tensor, kept: int) -> Iterator[tuple[str, Tensor | None]]:
        losses: dict[str, list[Tensor]] = {}
        for ids, own in zip(context, tail, strict=True):
            for name, prefix in selections(self.reader, ids, kept):
                losses.setdefault(name, []).extend(prefix.losses([Ending(own.tolist(), SCORED)]) or [])
        for name, rows in losses.items():
            yield name, torch.stack(rows) if rows else None


def num_segments(reader: Reader, num_tokens: int) -> int:
    return num_tokens // reader.model.segment_length


def readers_beside(reader: Reader, options: Options, num_context: int) -> dict[str, Reader]:
    """The checkpoints beside, by label.

    Raises:
        ValueError: a label that is a form's own, another tokenizer, or no positions for the vectors of the context.
    """
    others: dict[str, Reader] = {}
    for label, path in options.beside.items():
        if label in (NONE, *WAYS, HELD):
            raise ValueError(f"--beside {label}: the name is that of a form; what stands beside it needs another")
        other = others[label] = Reader.load(path, options.device)
        if tokenizer_identity(other.tokenizer) != tokenizer_identity(reader.tokenizer):
            raise ValueError(f"{label} has another tokenizer: its losses cannot be compared")
        if not other.can_summarise(max(1, num_segments(other, num_context))):
            raise ValueError(
                f"{label} has no vectors of {num_context:,} tokens in segments of {other.model.segment_length}, "
                f"or more than fit its {other.model.max_positions} positions"
            )
    return others


def run(reader: Reader, options: Options) -> Outcome:
    model, num_context = reader.model, SEGMENTS * reader.model.segment_length
    if not reader.can_summarise(SEGMENTS):
        raise ValueError(
            f"vectors of {SEGMENTS} segments of {model.segment_length} tokens need more than {model.max_positions} "
            f"positions, or the model makes none"
        )
    windows = drawn_by_domain(
        options.documents(reader.tokenizer), num_context + SCORED + 1, options.number, seed=options.seed
    )
    others = readers_beside(reader, options, num_context)
    found = tallied(windows, InPlaceOfVectors(reader, others), options.suite)
    costs = costs_of(reader, windows, SCORED + 1)
    costs |= {label: costs_of(other, windows, SCORED + 1)[VECTORS] for label, other in others.items()}
    ways = (*WAYS, *others)
    notes = [
        f"Loss of the next {SCORED} tokens, nats a token, after {num_context:,} tokens in full, or in forms with as "
        f"many positions as their vectors have: their last tokens, the tokens that the untouched base predicted worst, "
        f"and those that the vectors stand at, all as raw text in the order of the document; one more token is read as "
        f"text after every form. Keys and values are selected as kvpress does it, by key norm and by the attention of "
        f"the last tokens (SnapKV), as many in each layer and head as there are vectors. Share: (none - form) / "
        f"(none - full text), where the gap is clearly above 0.",
        f"Costs are means over up to {TIMED} documents, one at a time on {torch.get_num_threads()} CPU threads or the "
        f"device: what is stored of a document (UTF-8 of the text, 4 bytes a token id, vectors and keys and values in "
        f"{model.dtype}), and the way from there past a prompt of {SCORED + 1} tokens to the first new one. FLOPs are "
        f"reckoned, seconds measured. What is done when the document is stored is not counted. Keys and values of the "
        f"vectors can be kept too, and then cost what those that are selected cost.",
        described(windows),
    ]
    return Outcome(
        heading="other forms of a text in as many positions",
        counted="windows a domain",
        notes=notes,
        tables=[_shares(found, ways), _losses(found, ways), _costs(costs)],
        panels=[_panel(found, ways), _seconds_panel(costs)],
        measured={
            "windows": {name: each.digest() for name, each in windows.items()},
            "documents": as_json(found),
            "costs": {name: asdict(each) for name, each in costs.items()},
        },
    )


def _shares(found: Mapping[str, Scores], ways: Sequence[str]) -> Table:
    rows = [[domain, *(percent(share(scores, way, FULL)) for way in ways[1:])] for domain, scores in found.items()]
    note = "Of checkpoints beside, their own vectors, in as many positions as those have."
    return Table("Share of the gap closed, of as many positions", ["domain", *ways[1:]], rows, note=note)


def _losses(found: Mapping[str, Scores], ways: Sequence[str]) -> Table:
    rows = [
        [domain, way, loss(scores, way), signed(gain(scores, way))]
        for domain, scores in found.items()
        for way in (NONE, *ways)
        if way in scores
    ]
    return Table("Loss of the next tokens", ["domain", "form", "loss", "gain"], rows, num_text_columns=2)


def _costs(costs: Mapping[str, Costs]) -> Table:
    rows: list[list[Cell]] = [
        [
            way,
            f"{np.mean(costs[way].positions):,.0f}",
            f"{np.mean(costs[way].flops) / 1e9:,.1f}",
            Number(mean(costs[way].seconds), "{:.3f}"),
            f"{np.mean(costs[way].num_bytes):,.0f}",
        ]
        for way in _costed(costs)
    ]
    header = ["form", "positions", "prefill GFLOPs", "seconds to the first token", "bytes a document"]
    return Table("Costs of a document", header, rows)


def _costed(costs: Mapping[str, Costs]) -> list[str]:
    return [way for way in COSTED if way in costs] + [way for way in costs if way not in COSTED]


def mean(values: Sequence[float]) -> Estimate:
    """Of a value for each document."""
    return ratio(np.array(values, np.float64), np.ones(len(values)))


def _panel(found: Mapping[str, Scores], ways: Sequence[str]) -> Panel:
    lines = [
        Line(way, [(domain, share(scores, way, FULL)) for domain, scores in found.items() if domain != TOGETHER])
        for way in ways[1:]
    ]
    return Panel("share of the gap closed", "domain", "share", lines)


def _seconds_panel(costs: Mapping[str, Costs]) -> Panel:
    points = [(way, mean(costs[way].seconds)) for way in COSTED if way in costs]
    return Panel("to the first token", "form", "seconds", [Line("a document", points)])
