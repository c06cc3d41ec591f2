"""Keys and values of what is being read are bounded in bytes, and whoever finds no room has it in his turn."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any
from weakref import WeakSet

import pytest
import torch

from model import AutoCompressor
from server.engine.protocol import Prompt
from server.engine.torch.attention import SdpaKernels
from server.engine.torch.engine import TorchEngine
from server.engine.torch.kv_cache import KvStrip
from server.engine.torch.packed import PackedModel
from server.engine.torch.requests import Compression, Request
from server.engine.torch.runner import Runner
from server.engine.torch.scheduler import Limits, Scheduler
from server.errors import TooLong
from tests.engine.test_engine import LIMITS, TOLERANCE, compressed, document, generated, running, token_ids
from tests.tiny import tiny_anchored, tiny_compressor


def ignore(result: object) -> None:
    """Take a result that the test does not look at."""


def waiting(num_segments: int, *, is_bulk: bool = False) -> Compression:
    """A document whose segments have 4 vectors each."""
    return Compression(ignore, None, 0, [[1] * 5] * num_segments, strip_length=4 * (num_segments - 1), is_bulk=is_bulk)


class Line:
    """A scheduler that runs documents until they end, and who began in each step."""

    def __init__(self, max_document_positions: int, *documents: Compression) -> None:
        limits = Limits(2, 100, 1000, max_document_positions=max_document_positions, max_prompt_positions=100)
        self.scheduler = Scheduler(limits, num_appended=4)
        self.documents = documents
        for each in documents:
            self.scheduler.submit(each)

    def step(self) -> list[int]:
        begun = {request for request in self.documents if request.is_started}
        for piece in self.scheduler.schedule():
            self.scheduler.complete(piece)
            request = piece.request
            assert isinstance(request, Compression)
            request.soft_prompt_length += 4
            if request.next_segment == len(request.segments):
                self.scheduler.remove(request)
        return [place for place, each in enumerate(self.documents) if each.is_started and each not in begun]


def test_documents_over_the_budget_wait_in_order() -> None:
    line = Line(16, waiting(3), waiting(3), waiting(3), waiting(2), waiting(1))
    # of 8 positions each two fit; the fourth, which would fit, waits behind the third; the last needs none
    assert [line.step() for _ in range(6)] == [[0, 1, 4], [], [], [2, 3], [], []]
    assert not line.scheduler.requests


def test_a_large_document_is_not_passed_for_ever() -> None:
    line = Line(16, waiting(3), waiting(5), *[waiting(2) for _ in range(8)])
    assert [line.step() for _ in range(4)] == [[0], [], [], [1]]


def test_documents_in_no_hurry_leave_a_part_to_others() -> None:
    bulk = [waiting(4, is_bulk=True) for _ in range(6)]  # 12 positions each
    line = Line(40, *bulk, waiting(3), waiting(2))
    assert [line.step() for _ in range(4)] == [[0, 1, 6, 7], [], [], []]  # 24 of 30, and beside them 8 and 4 of 40
    assert line.step() == [2, 3]


def test_one_in_no_hurry_that_needs_all_has_it_alone() -> None:
    line = Line(16, waiting(3, is_bulk=True), waiting(5, is_bulk=True), waiting(2, is_bulk=True))
    assert [line.step() for _ in range(4)] == [[0], [], [], [1]]
    assert [line.step() for _ in range(5)] == [[], [], [], [], [2]]


def test_one_that_leaves_frees_its_positions_at_the_next_step() -> None:
    line = Line(16, waiting(5), waiting(5))
    assert line.step() == [0]
    line.documents[0].is_cancelled = True
    assert line.step() == [1]


class Weighed:
    """A runner that counts the bytes of all strips in memory at each step."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._strips: WeakSet[KvStrip] = WeakSet()
        self.most_bytes = 0
        self.begun: list[Request] = []

    def prepare(self, request: Request) -> None:
        self.begun.append(request)
        self._runner.prepare(request)
        if request.line is not None:
            self._strips.add(request.line)

    def run(self, pieces: Sequence[Any]) -> list[Any]:
        results = self._runner.run(pieces)
        self.most_bytes = max(self.most_bytes, self.num_bytes)
        return results

    @property
    def num_bytes(self) -> int:
        return sum(strip.nbytes for strip in self._strips)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)


@asynccontextmanager
async def weighed(model: AutoCompressor, **limits: Any) -> AsyncIterator[tuple[TorchEngine, Weighed, int]]:
    """An engine, its runner, and the bytes of a position."""
    packed = PackedModel(model, SdpaKernels(), num_rows=LIMITS.max_running, max_tokens=128)
    runner = Weighed(Runner(packed))
    async with running(model, limits=replace(LIMITS, **limits), runner=runner) as engine:
        yield engine, runner, packed.pool.position_bytes


def documents(number: int) -> list[list[list[int]]]:
    sizes = random.Random(0)
    return [[document(5, seed=10 * seed + place) for place in range(sizes.randint(1, 10))] for seed in range(number)]


async def test_many_documents_at_once_stay_within_their_bytes_and_are_as_alone() -> None:
    """Beside generations and scores, which have strips of their own; a strip that ends is let go."""
    many = documents(24)
    prompts = [Prompt(torch.randn(20, 32, generator=torch.Generator().manual_seed(n)), (1, 2)) for n in range(8)]
    async with running(tiny_compressor()) as plain:
        alone = [await compressed(plain, segments) for segments in many]
        texts = [token_ids(await generated(plain, prompt)) for prompt in prompts]
    async with weighed(tiny_compressor(), max_document_positions=40, max_prompt_positions=130) as parts:
        engine, runner, position_bytes = parts
        results = await asyncio.gather(
            *(compressed(engine, segments) for segments in many),
            *(generated(engine, prompt) for prompt in prompts),
            *(engine.score(prompt, [[3, 4], [5]]) for prompt in prompts),
        )
        assert 0 < runner.most_bytes <= (40 + 130) * position_bytes
        assert runner.num_bytes == 0
        runner.most_bytes = 0
        await asyncio.gather(*(compressed(engine, segments) for segments in many))
        assert 30 * position_bytes < runner.most_bytes <= 40 * position_bytes
    for one, other in zip(alone, results[:24], strict=True):
        torch.testing.assert_close(one, other, **TOLERANCE)
    assert texts == [token_ids(events) for events in results[24:32]]


async def test_a_strip_is_let_go_before_its_last_result_is_taken() -> None:
    """A caller that stores each segment before it asks for the next kept the strip of a document that had ended."""
    whole = [document(5, seed=seed) for seed in range(4)]
    async with weighed(tiny_compressor()) as (engine, runner, _), aclosing(engine.compress(whole)) as made:
        await anext(made)
        async with asyncio.timeout(10):
            while runner.num_bytes or not all(request.is_ended for request in runner.begun):
                await asyncio.sleep(0.01)


async def test_a_client_that_leaves_makes_room() -> None:
    whole = [document(5, seed=seed) for seed in range(10)]  # 36 positions
    async with weighed(tiny_compressor(), max_document_positions=40) as (engine, _, _):
        first = engine.compress(whole)
        await anext(first)
        others = [asyncio.create_task(compressed(engine, whole)) for _ in range(3)]
        await asyncio.sleep(0)
        await first.aclose()
        others[0].cancel()
        async with asyncio.timeout(10):
            assert [len(await other) for other in others[1:]] == [40, 40]


async def test_an_answer_does_not_wait_for_documents_in_no_hurry() -> None:
    whole = [document(5, seed=seed) for seed in range(8)]  # 28 positions
    short = whole[:3]
    async with weighed(tiny_compressor(), max_document_positions=40, max_prompt_positions=128) as (engine, runner, _):
        prompt = Prompt(torch.randn(20, 32), (1, 2))

        async def bulk() -> int:
            async with aclosing(engine.compress(whole, waits=True)) as made:
                return len([summary async for summary in made])

        tasks = [asyncio.create_task(bulk()) for _ in range(12)]
        await asyncio.sleep(0)
        async with asyncio.timeout(20):
            assert len(await compressed(engine, short)) == 12
            assert len(await generated(engine, prompt)) == 12
            num_begun = sum(isinstance(request, Compression) for request in runner.begun)
            assert num_begun < 6, "it came after most of them"
            assert await asyncio.gather(*tasks) == [8] * 12


async def test_what_can_never_fit_is_refused_with_the_numbers() -> None:
    whole = [document(5, seed=seed) for seed in range(12)]
    async with weighed(tiny_compressor(), max_document_positions=40) as (engine, _, _):
        assert engine.max_document_vectors == 40
        with pytest.raises(TooLong, match="44 vectors before the last segment exceed the 40 there is memory for"):
            await compressed(engine, whole)
        assert len(await compressed(engine, whole[:11])) == 44
        with pytest.raises(TooLong, match="44 vectors"):
            await compressed(engine, whole[:11], torch.randn(4, 32))


async def test_documents_without_a_strip_need_no_room() -> None:
    """Those of which one segment's vectors stand for all, and those whose segments are read alone."""
    whole = [document(5, seed=seed) for seed in range(12)]
    for model in (tiny_compressor(accumulate_summary=False), tiny_anchored()):
        async with weighed(model, max_document_positions=4) as (engine, runner, _):
            assert engine.max_document_vectors is None
            assert len(await compressed(engine, whole)) in (48, 24)
            assert runner.most_bytes == 0
