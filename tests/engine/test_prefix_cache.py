"""Soft prompts that were read are found again, and what is computed from them is what it was."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from model import AutoCompressor
from server.engine.protocol import Prompt
from server.engine.torch.attention import SdpaKernels
from server.engine.torch.engine import TorchEngine
from server.engine.torch.packed import PackedModel
from server.engine.torch.prefix_cache import PrefixCache, running_hashes
from server.engine.torch.runner import Runner
from server.metrics import Metrics
from tests.engine.test_engine import GREEDY, LIMITS, TOLERANCE, compressed, document, generated, token_ids
from tests.tiny import FAMILIES, random_base, tiny_compressor, tiny_config


@dataclass(frozen=True)
class Strip:
    nbytes: int = 10


def hashes(text: str) -> list[str]:
    return running_hashes(list(text))


def ends(text: str, length: int = 4) -> list[int]:
    return [length * (index + 1) for index in range(len(text))]


def filled(*texts: str, max_bytes: int = 100) -> PrefixCache:
    cache = PrefixCache(max_bytes)
    for text in texts:
        cache.put(hashes(text), ends(text), Strip())
    return cache


def found(cache: PrefixCache, text: str) -> int | None:
    """How many positions of a soft prompt are there."""
    match = cache.find(hashes(text))
    return None if match is None else match[1]


def test_the_longest_leading_part_is_found() -> None:
    cache = filled("abc")
    assert [found(cache, text) for text in ("abc", "ab", "a", "abd", "abcd")] == [12, 8, 4, 8, 12]
    assert [found(cache, text) for text in ("b", "bc", "")] == [None, None, None]


def test_order_and_borders_of_ids_tell_prefixes_apart() -> None:
    assert found(filled("ab"), "ba") is None
    assert running_hashes(["ab", "c"])[1] != running_hashes(["a", "bc"])[1]


def test_the_prefix_used_longest_ago_goes_first() -> None:
    cache = filled("a", "b", "c", max_bytes=30)
    assert found(cache, "a") == 4
    cache.put(hashes("d"), ends("d"), Strip())
    assert [found(cache, text) for text in "abcd"] == [4, None, 4, 4]
    assert cache.num_bytes == 30


def test_a_longer_prefix_takes_the_place_of_what_it_begins_with() -> None:
    cache = filled("ab", "abc")
    assert cache.num_bytes == 10
    assert found(cache, "ab") == 8


def test_what_is_there_is_not_kept_twice() -> None:
    cache = filled("abc", "ab", "abc")
    assert cache.num_bytes == 10


def test_what_is_larger_than_the_cache_is_not_kept() -> None:
    cache = filled("a", max_bytes=9)
    assert (found(cache, "a"), cache.num_bytes) == (None, 0)


def test_a_part_of_two_prefixes_outlives_the_older() -> None:
    cache = filled("ab", "ac", max_bytes=20)
    cache.put(hashes("d"), ends("d"), Strip())
    assert [found(cache, text) for text in ("a", "ab", "ac")] == [4, 4, 8]


class Counted:
    """An engine with a prefix cache, and how many positions it has run."""

    def __init__(self, model: AutoCompressor, *, cache_bytes: int = 2**20) -> None:
        self.metrics = Metrics()
        self.engine = TorchEngine(
            Runner(PackedModel(model, SdpaKernels(), num_rows=LIMITS.max_running, max_tokens=128)),
            replace(LIMITS, max_batch_tokens=256),
            max_requests=64,
            num_appended=model.summary_length,
            accumulate_summary=model.accumulate_summary,
            end_of_text=frozenset(),
            tokenizer=model.tokenizer,
            metrics=self.metrics,
            prefix_cache_bytes=cache_bytes,
        )

    async def __aenter__(self) -> "Counted":
        self.engine.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.engine.stop)

    def num_positions(self, phase: str) -> int:
        return int(self.metrics.tokens.labels(phase=phase)._value.get())


def segments_of(seed: int, *, count: int = 3) -> list[list[int]]:
    return [document(11, seed=10 * seed + index) for index in range(count)]


def keys_of(name: str, count: int) -> tuple[str, ...]:
    return tuple(f"{name}{index}" for index in range(count))


async def vectors_of(engine: TorchEngine, segments: Sequence[Sequence[int]], keys: Sequence[str] = ()) -> Tensor:
    made = [summary.vectors async for summary in engine.compress(segments, keys=keys)]
    return torch.cat(made)


@pytest.mark.parametrize("family", FAMILIES)
async def test_what_is_known_of_a_soft_prompt_changes_nothing(family: str) -> None:
    async with Counted(tiny_compressor(family), cache_bytes=0) as plain:
        vectors = await vectors_of(plain.engine, segments_of(0))
        prompt = Prompt(vectors, tuple(document(9)))
        expected = token_ids(await generated(plain.engine, prompt))
        scores = await plain.engine.score(prompt, [[3, 4, 5], [6]])
        single = await plain.engine.score(prompt, [[7, 8]])
        appended = await compressed(plain.engine, segments_of(1), vectors)
    keys = keys_of("a", 3)
    prompt = replace(prompt, keys=keys)
    async with Counted(tiny_compressor(family)) as cached:
        for _ in range(2):  # the second time from what the first left
            torch.testing.assert_close(await vectors_of(cached.engine, segments_of(0), keys), vectors, **TOLERANCE)
            assert token_ids(await generated(cached.engine, prompt)) == expected
            for own, other in zip(await cached.engine.score(prompt, [[3, 4, 5], [6]]), scores, strict=True):
                assert own.logprobs == pytest.approx(other.logprobs, abs=1e-4)
            assert (await cached.engine.score(prompt, [[7, 8]]))[0].logprobs == pytest.approx(
                single[0].logprobs, abs=1e-4
            )
            more = cached.engine.compress(segments_of(1), soft_prompt=vectors, keys=(*keys, *keys_of("b", 3)))
            torch.testing.assert_close(torch.cat([made.vectors async for made in more]), appended, **TOLERANCE)


async def test_a_sliding_window_reaches_into_what_is_known() -> None:
    outcomes = []
    for cache_bytes in (0, 2**20):
        config = tiny_config("mistral")
        config.sliding_window = 6
        model = AutoCompressor.from_base(random_base(config), 4, tokenizer=tiny_compressor().tokenizer)
        async with Counted(model, cache_bytes=cache_bytes) as counted:
            vectors = await vectors_of(counted.engine, segments_of(0), keys_of("a", 3))
            prompt = Prompt(vectors, tuple(document(9)), keys_of("a", 3))
            outcomes.append([token_ids(await generated(counted.engine, prompt)) for _ in range(2)])
    assert outcomes[0][0] == outcomes[0][1] == outcomes[1][0] == outcomes[1][1]


async def test_each_vector_of_a_document_is_read_once() -> None:
    async with Counted(tiny_compressor()) as counted:
        await vectors_of(counted.engine, segments_of(0, count=5))
        assert counted.num_positions("segment") == 5 * (11 + 4) + 4 * 4


async def test_a_document_reads_on_from_what_its_parent_left() -> None:
    async with Counted(tiny_compressor()) as counted:
        keys = keys_of("a", 3)
        vectors = await vectors_of(counted.engine, segments_of(0), keys)
        before = counted.num_positions("segment")
        more = counted.engine.compress(segments_of(1, count=1), soft_prompt=vectors, keys=(*keys, "b"))
        assert [len(made) async for made in more] == [4]
        assert counted.num_positions("segment") - before == 4 + 11 + 4  # the last vectors alone were not read yet


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
async def test_the_first_answer_is_the_next_ones_to_the_bit(dtype: torch.dtype) -> None:
    """Whether vectors were read for this prompt, for one before it, or while their document was compressed."""
    async with Counted(tiny_compressor().to(dtype)) as counted:
        for trial in range(4):
            keys = keys_of(f"trial {trial}", 3)
            vectors = await vectors_of(counted.engine, segments_of(trial), keys)
            prompt = Prompt(vectors, tuple(document(9, seed=trial)), keys)
            read = counted.num_positions("vectors")
            answers = [
                [(event.token_id, event.logprob) for event in await generated(counted.engine, prompt)] for _ in range(3)
            ]
            assert answers[0] == answers[1] == answers[2]
            assert counted.num_positions("vectors") - read == 12
            scores = [await counted.engine.score(prompt, [[3, 4, 5]]) for _ in range(2)]
            other = replace(prompt, keys=())  # of no known origin: read anew
            assert scores[0] == scores[1] == await counted.engine.score(other, [[3, 4, 5]])
            together = await asyncio.gather(*(counted.engine.score(prompt, [[3, 4, 5]]) for _ in range(3)))
            assert together[0] == together[1] == together[2]


async def test_questions_that_come_together_read_a_soft_prompt_once() -> None:
    async with Counted(tiny_compressor()) as counted:
        vectors = torch.randn(12, 32, generator=torch.Generator().manual_seed(0))
        asked = [Prompt(vectors, tuple(document(5 + index, seed=index)), keys_of("a", 3)) for index in range(4)]
        together = await asyncio.gather(*(generated(counted.engine, prompt) for prompt in asked))
        assert counted.num_positions("vectors") == 12
        assert counted.num_positions("prefill") == sum(len(prompt.token_ids) for prompt in asked)
    async with Counted(tiny_compressor(), cache_bytes=0) as plain:
        for prompt, events in zip(asked, together, strict=True):
            assert token_ids(await generated(plain.engine, prompt, GREEDY)) == token_ids(events)


async def test_a_prompt_of_several_continuations_is_read_once() -> None:
    async with Counted(tiny_compressor()) as counted:
        prompt = Prompt(torch.randn(8, 32), tuple(document(10)))
        await counted.engine.score(prompt, [[1, 2], [3], [4, 5, 6]])
        assert counted.num_positions("vectors") == 8
        assert counted.num_positions("prompt") == 9
        assert counted.num_positions("score") == 2 + 1 + 3
