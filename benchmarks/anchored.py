"""E3 and E17 of the default model: compressing beside a plain pass of its base, and what it costs to read vectors."""

import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.measuring import Row, Spread, ratios, take_turns
from benchmarks.subject import Subject, random_ids
from benchmarks.transformers_peer import Transformers
from server.engine.protocol import Prompt
from training.bases.references import plain_base

NUM_PIECES, PIECE = 4, 512  # tokens that transformers reads in one pass
READ = 256  # positions of a prompt
MAX_TOKENS = 48


def run(checkpoint: Path, folder: Path, *, rounds: int) -> Iterator[Row]:
    base = plain_base(checkpoint)  # BaseUnavailable, before anything is begun
    with Subject(checkpoint, folder / "anchored.sqlite3") as subject:
        with Transformers(base, subject.dtype) as transformers:
            yield from _compression(subject, transformers, rounds)
        yield from _reading(subject, rounds)


def _compression(subject: Subject, transformers: Transformers, rounds: int) -> Iterator[Row]:
    length = subject.services.model.config.segment_length
    ids = random_ids(NUM_PIECES * PIECE, 0)
    segments = [ids[start : start + length] for start in range(0, len(ids), length)]
    embedded = list(subject.services.decoder.embed(ids)[None].split(PIECE, dim=1))

    def ours() -> float:
        started = time.perf_counter()
        subject.run(subject.compress(segments))
        return time.perf_counter() - started

    forms = {"with its logits": True, "without logits": False}
    peers = {name: lambda has=has: transformers.forward(embedded, has_logits=has) for name, has in forms.items()}
    measured = take_turns({"ours": ours, **peers}, rounds)
    for name in forms:
        yield Row(
            "E3",
            f"the default: compress {len(segments)} segments of {length} tokens: speed, ours / plain transformers "
            f"forward of {NUM_PIECES} times {PIECE}, {name}",
            ratios(measured[name], measured["ours"]),
            "×",
            0.95,
            sides={side: Spread.of(measured[side]) for side in ("ours", name)},
            side_unit="s",
        )


def _reading(subject: Subject, rounds: int) -> Iterator[Row]:
    def prompts(count: int, *, has_vectors: bool) -> list[Prompt]:
        ids = [tuple(random_ids(READ + 1, seed)) for seed in range(count)]
        if not has_vectors:
            return [Prompt(None, each) for each in ids]
        return [Prompt(subject.services.decoder.embed(each[:-1]), each[-1:]) for each in ids]

    mixed = [*prompts(4, has_vectors=True), *prompts(4, has_vectors=False)]
    forms = {
        "1 at once": (prompts(1, has_vectors=True), prompts(1, has_vectors=False)),
        "8 at once": (prompts(8, has_vectors=True), prompts(8, has_vectors=False)),
        "8 at once, of which 4 read vectors": (mixed, prompts(8, has_vectors=False)),
    }
    for name, (reading, plain) in forms.items():
        sides = {
            "adapter": lambda reading=reading: subject.generate(reading, MAX_TOKENS),
            "base": lambda plain=plain: subject.generate(plain, MAX_TOKENS),
        }
        measured = take_turns(sides, rounds)
        yield Row(
            "E17",
            f"the default: generate {MAX_TOKENS} tokens after {READ} positions, {name}: speed, read with the adapter / "
            "without",
            ratios(measured["adapter"], measured["base"]),
            "×",
            0.95,
            sides={side: Spread.of(values) for side, values in measured.items()},
            side_unit="tokens/s",
        )
