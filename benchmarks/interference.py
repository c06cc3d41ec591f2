"""E10: what a long document does to generations that run beside it."""

import asyncio
import math
import time
from collections.abc import Iterator
from itertools import pairwise

from benchmarks.compression import segments_of
from benchmarks.measuring import Row, Spread
from benchmarks.subject import SEGMENT_LENGTH, Subject, random_ids
from server.engine.protocol import Prompt

RUNNING, LONG_TOKENS = 8, 30_000
CHUNK = 64


def run(subject: Subject, *, rounds: int) -> Iterator[Row]:
    segment = segments_of(SEGMENT_LENGTH, 1)
    values, slowest, alone = [], [], []
    for number in range(rounds + 1):
        started = time.perf_counter()
        subject.run(subject.compress(segment))
        seconds = time.perf_counter() - started
        p99 = subject.run(_p99_beside(subject, seed=number))
        if number:
            values.append(p99 / seconds)
            slowest.append(1000 * p99)
            alone.append(1000 * seconds)
    yield Row(
        "E10",
        f"p99 between tokens of {RUNNING} generations while 30k tokens are compressed, over one segment's time",
        Spread.of(values),
        "×",
        2.0,
        is_limit=True,
        sides={"between tokens": Spread.of(slowest), "a segment": Spread.of(alone)},
        side_unit="ms",
    )


async def _p99_beside(subject: Subject, *, seed: int) -> float:
    """Seconds between tokens, of which 99 in 100 are no longer, while a document is compressed."""
    document = asyncio.create_task(subject.compress(segments_of(LONG_TOKENS, 10 + seed)))
    gaps: list[float] = []

    async def generate(index: int) -> None:
        while not document.done():
            prompt = Prompt(subject.random_vectors(50, index), tuple(random_ids(20, index)))
            times = await subject.drain(prompt, CHUNK)
            gaps.extend(later - earlier for earlier, later in pairwise(times))

    await asyncio.gather(*(generate(index) for index in range(RUNNING)))
    await document
    gaps.sort()
    return gaps[math.ceil(0.99 * len(gaps)) - 1]
