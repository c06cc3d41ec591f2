"""How much of what a text brings to the next tokens its summaries bring."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from training.bench.drawing import described, drawn_by_domain
from training.bench.figure import Line, Panel
from training.bench.options import Options
from training.bench.outcome import Outcome, Table
from training.bench.reader import Reader, joined
from training.bench.tally import NONE, Scores, as_json, gain, loss, percent, share, signed, tallied, with_sides

SCORED = 192
SEGMENTS = (1, 2, 4, 8)
RAW = (0, 64, 256)  # raw tokens between the summaries and the scored ones
FEWER = (2, 4)  # parts of the vectors that are kept
UNTOUCHED = "untouched base"
ADAPTED = "adapter on"
BASE = "base"  # its label among `beside`


@dataclass(frozen=True)
class NextTokens:
    """The conditions of one model, all on the last `SCORED` tokens of a window."""

    reader: Reader
    base: Reader | None

    def __call__(self, tokens: Tensor) -> Iterator[tuple[str, Tensor | None]]:
        yield from self._contexts(tokens)
        for raw in RAW[1:]:
            yield from self._after_raw(tokens, raw)
        if self.base is not None:
            yield UNTOUCHED, self.base.losses(tokens[:, -SCORED - 1 :], SCORED)

    def _contexts(self, tokens: Tensor) -> Iterator[tuple[str, Tensor | None]]:
        # the token before the scored ones is read as text under every condition: without context nothing else is
        reader, length, tail = self.reader, self.reader.model.segment_length, tokens[:, -SCORED - 1 :]
        yield NONE, reader.losses(tail, SCORED)
        yield ADAPTED, reader.adapted_losses(tail, SCORED)
        for count, rows in reader.newest(tokens[:, : -SCORED - 1], SEGMENTS).items():
            yield vectors(count), reader.losses(tail, SCORED, joined(rows))
            for part in FEWER:
                prompt = joined(rows, max(1, reader.model.summary_length // part))
                if prompt is not None:
                    yield vectors(count, part), reader.losses(tail, SCORED, prompt)
        for count in SEGMENTS:
            yield in_full(count), reader.losses(tokens[:, -SCORED - 1 - count * length :], SCORED)

    def _after_raw(self, tokens: Tensor, raw: int) -> Iterator[tuple[str, Tensor | None]]:
        reader, length, tail = self.reader, self.reader.model.segment_length, tokens[:, -SCORED - raw :]
        yield after(raw, NONE), reader.losses(tail, SCORED)
        for rows in reader.newest(tokens[:, : -SCORED - raw], (1,)).values():
            yield after(raw, vectors(1)), reader.losses(tail, SCORED, joined(rows))
        yield after(raw, in_full(1)), reader.losses(tokens[:, -SCORED - raw - length :], SCORED)


def vectors(count: int, part: int = 1) -> str:
    return f"{count} as vectors" + (f", 1/{part} kept" if part > 1 else "")


def in_full(count: int) -> str:
    return f"{count} in full"


def after(raw: int, condition: str) -> str:
    return f"{condition}, {raw} raw" if raw else condition


def run(reader: Reader, options: Options) -> Outcome:
    others = [label for label in options.beside if label != BASE]
    if others:
        raise ValueError(f"--beside {others[0]}: beside this suite stands the untouched base alone, labelled {BASE!r}")
    length = max(SEGMENTS) * reader.model.segment_length + max(RAW) + SCORED
    windows = drawn_by_domain(options.documents(reader.tokenizer), length, options.number, seed=options.seed)
    base = Reader.load_base(options.beside[BASE], options.device) if BASE in options.beside else None
    found = tallied(windows, NextTokens(reader, base), options.suite)
    inside = [name for name in windows if options.is_in_domain(name)]
    notes = [
        f"Loss of the next {SCORED} tokens, nats a token, after segments of {reader.model.segment_length} tokens as "
        f"{reader.model.summary_length} vectors each or in full; one more token is read as text under every condition.",
        f"{described(windows)} In domain: {', '.join(inside) or 'none, as far as the folder tells'}.",
    ]
    rows = with_sides(found, inside)
    return Outcome(
        heading="the next tokens after summaries",
        counted="windows a domain",
        notes=notes,
        tables=[_by_segments(rows), _after_raw(rows), _fewer(rows, reader), _without(rows)],
        panels=_panels(rows),
        measured={"windows": {name: each.digest() for name, each in windows.items()}, "documents": as_json(found)},
    )


def _by_segments(found: Mapping[str, Scores]) -> Table:
    rows = [
        [
            domain,
            str(count),
            loss(scores, NONE),
            loss(scores, vectors(count)),
            loss(scores, in_full(count)),
            signed(gain(scores, vectors(count))),
            percent(share(scores, vectors(count), in_full(count))),
        ]
        for domain, scores in found.items()
        for count in SEGMENTS
    ]
    header = ["domain", "segments", NONE, "as vectors", "in full", "gain of vectors", "share of the gap closed"]
    note = "Share: (none - vectors) / (none - in full), where the gap is clearly above 0."
    return Table("Segments before the scored tokens", header, rows, note=note)


def _after_raw(found: Mapping[str, Scores]) -> Table:
    rows = [
        [
            domain,
            str(raw),
            loss(scores, after(raw, NONE)),
            loss(scores, after(raw, vectors(1))),
            loss(scores, after(raw, in_full(1))),
            percent(share(scores, after(raw, vectors(1)), after(raw, in_full(1)), after(raw, NONE))),
        ]
        for domain, scores in found.items()
        for raw in RAW
    ]
    header = ["domain", "raw tokens", "without the segment", "as vectors", "in full", "share of the gap closed"]
    return Table("Raw text between one segment and the scored tokens", header, rows)


def _fewer(found: Mapping[str, Scores], reader: Reader) -> Table:
    parts = (1, *FEWER)
    ratio = reader.model.segment_length / max(1, reader.model.summary_length)
    rows = [
        [domain, str(count), *(percent(share(scores, vectors(count, part), in_full(count))) for part in parts)]
        for domain, scores in found.items()
        for count in SEGMENTS
    ]
    header = ["domain", "segments", *(f"{ratio * part:.3g}x" for part in parts)]
    return Table("Share of the gap closed by fewer vectors, the most important ones", header, rows)


def _without(found: Mapping[str, Scores]) -> Table:
    rows = [
        [
            domain,
            loss(scores, NONE),
            loss(scores, UNTOUCHED),
            signed(gain(scores, NONE, UNTOUCHED)),
            loss(scores, ADAPTED),
            signed(gain(scores, ADAPTED)),
        ]
        for domain, scores in found.items()
    ]
    note = (
        f"The untouched base is given by `--beside {BASE}=DIRECTORY`. A model with an adapter has it off without "
        f"vectors; what it gains by itself, on without any, is no merit of the vectors."
    )
    header = ["domain", "this model", UNTOUCHED, "gain over it", ADAPTED, "gain of the adapter alone"]
    return Table("Loss without a summary, against the untouched base", header, rows, note=note)


def _panels(found: Mapping[str, Scores]) -> list[Panel]:
    def lines(kind: str) -> list[Line]:
        return [
            Line(domain, [(count, share(scores, vectors(count), in_full(count))) for count in SEGMENTS])
            if kind == "segments"
            else Line(
                domain,
                [(raw, share(scores, after(raw, vectors(1)), after(raw, in_full(1)), after(raw, NONE))) for raw in RAW],
            )
            for domain, scores in found.items()
        ]

    return [
        Panel("share of the gap closed", "segments", "share", lines("segments"), is_logarithmic=True),
        Panel("with raw text between", "raw tokens", "share", lines("raw")),
    ]
