"""Vectors and raw text in the same positions: either alone, both, and a window that slides."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from training.bench.drawing import described, drawn_by_domain
from training.bench.figure import Line, Panel
from training.bench.options import Options
from training.bench.outcome import Outcome, Table
from training.bench.reader import Reader, joined
from training.bench.suites.perplexity import SCORED
from training.bench.tally import NONE, Scores, as_json, gain, loss, signed, tallied

BUDGETS = (2, 4, 8)  # positions, in the vectors of a segment
STRIDE = 32  # tokens that a sliding window is read anew for
VECTORS, RAW, BOTH, SLIDING = "vectors", "raw window", "half vectors, half raw", "sliding window"
FORMS = (VECTORS, RAW, BOTH, SLIDING)


@dataclass(frozen=True)
class Mixed:
    """Every form at every budget, all on the last `SCORED` tokens; the token before those is raw in each."""

    reader: Reader

    def __call__(self, tokens: Tensor) -> Iterator[tuple[str, Tensor | None]]:
        reader, tail, unit = self.reader, tokens[:, -SCORED - 1 :], self.reader.model.summary_length
        before = tokens[:, : -SCORED - 1]
        yield NONE, reader.losses(tail, SCORED)
        for budget, rows in reader.newest(before, BUDGETS).items():
            yield named(VECTORS, budget * unit), reader.losses(tail, SCORED, joined(rows))
        for budget in BUDGETS:
            positions, raw = budget * unit, budget * unit // 2
            yield named(RAW, positions), reader.losses(tokens[:, -SCORED - 1 - positions :], SCORED)
            for rows in reader.newest(before[:, :-raw], (budget // 2,)).values():
                after = tokens[:, -SCORED - 1 - raw :]
                yield named(BOTH, positions), reader.losses(after, SCORED, joined(rows))
            yield named(SLIDING, positions), self._sliding(tokens, positions)

    def _sliding(self, tokens: Tensor, positions: int) -> Tensor | None:
        """Each stride of the scored tokens after the `positions` tokens before it, and no others."""
        found = []
        for start in range(tokens.shape[1] - SCORED, tokens.shape[1], STRIDE):
            losses = self.reader.losses(tokens[:, start - positions : start + STRIDE], STRIDE)
            if losses is None:
                return None
            found.append(losses)
        return torch.cat(found, dim=1)


def named(form: str, positions: int) -> str:
    return f"{form}, {positions}"


def run(reader: Reader, options: Options) -> Outcome:
    model = reader.model
    if model.summary_length == 0 or not model.accumulate_summary:
        raise ValueError("positions are spent on vectors that accumulate, which this model does not have")
    # vectors of the largest budget; the half of it that is raw text stands within
    length = max(BUDGETS) * model.segment_length + SCORED + 1
    windows = drawn_by_domain(options.documents(reader.tokenizer), length, options.number, seed=options.seed)
    found = tallied(windows, Mixed(reader), options.suite)
    notes = [
        f"Loss of {SCORED} tokens with the same positions before them, spent on vectors of the newest segments "
        f"({model.segment_length} tokens as {model.summary_length} vectors), on the newest raw tokens, or on half of "
        f"each, the raw ones last. A sliding window is read anew for every {STRIDE} scored tokens, with as many raw "
        f"tokens before them; the others' windows grow by the scored tokens.",
        described(windows),
    ]
    return Outcome(
        heading="vectors and raw text in the same positions",
        counted="windows a domain",
        notes=notes,
        tables=[_gains(found, model.summary_length), _against_raw(found, model.summary_length)],
        panels=[_panel(domain, scores, model.summary_length) for domain, scores in found.items()],
        measured={"windows": {name: each.digest() for name, each in windows.items()}, "documents": as_json(found)},
    )


def _gains(found: Mapping[str, Scores], unit: int) -> Table:
    rows = [
        [
            domain,
            str(budget * unit),
            loss(scores, NONE),
            *(signed(gain(scores, named(form, budget * unit))) for form in FORMS),
        ]
        for domain, scores in found.items()
        for budget in BUDGETS
    ]
    return Table("Gain over no context", ["domain", "positions", "loss without", *FORMS], rows)


def _against_raw(found: Mapping[str, Scores], unit: int) -> Table:
    rows = [
        [
            domain,
            str(positions),
            *(signed(gain(scores, named(form, positions), named(RAW, positions))) for form in (VECTORS, BOTH, SLIDING)),
        ]
        for domain, scores in found.items()
        for positions in (budget * unit for budget in BUDGETS)
    ]
    note = "Above 0, the form is better than as many raw tokens."
    return Table("Gain over the raw window", ["domain", "positions", VECTORS, BOTH, SLIDING], rows, note=note)


def _panel(domain: str, scores: Scores, unit: int) -> Panel:
    lines = [
        Line(form, [(budget * unit, gain(scores, named(form, budget * unit))) for budget in BUDGETS]) for form in FORMS
    ]
    return Panel(domain, "positions", "gain, nats a token", lines, is_logarithmic=True)
