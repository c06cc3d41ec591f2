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
from server.engine.torch.prefix_cache import PrefixCache, parts_of, running_hashes
from server.engine.torch.runner import Runner
from server.metrics import Metrics
from tests.engine.test_engine import GREEDY, LIMITS, TOLERANCE, compressed, document, generated, token_ids
from tests.tiny import FAMILIES, random_base, tiny_compressor, tiny_config

BLOCK = 8  # tokens


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
            replace(LIMITS, max_batch_tokens=256, block_tokens=BLOCK, max_kept_positions=cache_bytes and 128),
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


async def test_a_soft_prompt_that_grew_is_answered_from_as_one_that_is_new() -> None:
    """To the bit: read on from what was kept of its beginning, bfloat16 rounds otherwise than of the whole."""
    model, fresh = (tiny_compressor().to(torch.bfloat16) for _ in range(2))
    async with Counted(model) as counted, Counted(fresh) as other:
        for trial in range(4):
            keys = keys_of(f"trial {trial}", 6)
            vectors = await vectors_of(counted.engine, segments_of(trial, count=6))
            tokens = tuple(document(9, seed=trial))
            await generated(counted.engine, Prompt(vectors[:12], tokens, keys[:3]))
            grown = Prompt(vectors, tokens, keys)
            assert await said(counted, grown) == await said(other, grown)
            assert await counted.engine.score(grown, [[3, 4]]) == await other.engine.score(grown, [[3, 4]])


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


# --- blocks of tokens


def of_scope(prompt: Prompt, more: Sequence[int] = (), scope: str | None = "me") -> Prompt:
    return replace(prompt, token_ids=(*prompt.token_ids, *more), scope=scope)


async def said(counted: Counted, prompt: Prompt) -> list[tuple[int, float]]:
    return [(event.token_id, event.logprob) for event in await generated(counted.engine, prompt)]


def test_a_prompt_has_a_part_for_each_segment_and_each_whole_block() -> None:
    vectors = torch.zeros(6, 32)
    prompt = Prompt(vectors, tuple(range(17)), ("a", "b"), (4, 2), scope="me")
    names, lengths = parts_of(prompt, BLOCK, 1_000)
    assert (names[:2], lengths) == (["a", "b"], [4, 2, 8, 8])
    assert parts_of(replace(prompt, token_ids=tuple(range(16))), BLOCK, 1_000)[1] == [4, 2, 8]  # the last is drawn from
    assert parts_of(prompt, BLOCK, 21)[1] == [4, 2, 8]
    assert parts_of(prompt, BLOCK, 13)[1] == [4, 2]
    assert parts_of(replace(prompt, scope=None), BLOCK, 1_000)[1] == [4, 2]
    assert parts_of(replace(prompt, keys=()), BLOCK, 1_000) == ([], [])
    assert parts_of(Prompt(None, tuple(range(17)), scope="me"), BLOCK, 1_000)[1] == [8, 8]
    assert parts_of(Prompt(vectors, (), ("a", "b")), BLOCK, 1_000)[1] == [3, 3]


@pytest.mark.parametrize("has_vectors", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
async def test_a_prompt_that_grew_is_answered_as_one_that_is_new(dtype: torch.dtype, has_vectors: bool) -> None:
    """To the bit; what it had before is not read again, but for the block that it left unfinished."""
    model = tiny_compressor(max_positions=256).to(dtype)
    async with Counted(model) as counted, Counted(tiny_compressor(max_positions=256).to(dtype)) as other:
        keys = keys_of("a", 3) if has_vectors else ()
        vectors = await vectors_of(counted.engine, segments_of(0), keys) if has_vectors else None
        prompt = of_scope(Prompt(vectors, tuple(document(30)), keys))
        first = await said(counted, prompt)
        assert first == await said(counted, prompt)
        assert (counted.num_positions("block"), counted.num_positions("prefill")) == (24, 6 + 6)
        grown = of_scope(prompt, [each for each, _ in first] + document(13, seed=2))
        assert await said(counted, grown) == await said(other, grown)
        assert counted.num_positions("block") == 24 + 24  # 55 tokens: six blocks, three of them known
        assert counted.num_positions("prefill") == 12 + 7
        assert other.num_positions("block") == 48


@pytest.mark.parametrize("family", FAMILIES)
async def test_a_prompt_in_blocks_is_answered_as_one_in_a_piece(family: str) -> None:
    model = tiny_compressor(family)
    async with Counted(model) as counted, Counted(tiny_compressor(family), cache_bytes=0) as plain:
        keys = keys_of("a", 3)
        vectors = await vectors_of(plain.engine, segments_of(0))
        for soft_prompt, own in ((None, ()), (vectors, keys)):
            prompt = of_scope(Prompt(soft_prompt, tuple(document(45)), own))
            for (token, logprob), (expected, its) in zip(
                await said(counted, prompt), await said(plain, prompt), strict=True
            ):
                assert token == expected
                assert logprob == pytest.approx(its, abs=1e-4)
    assert counted.num_positions("block") == 2 * 40
    assert plain.num_positions("block") == 0


async def test_blocks_are_of_their_scope_and_of_what_stands_before_them() -> None:
    async with Counted(tiny_compressor()) as counted:
        tokens = tuple(document(20))
        vectors = torch.randn(12, 32, generator=torch.Generator().manual_seed(0))
        asked = [
            Prompt(None, tokens, scope="me"),
            Prompt(None, tokens, scope="another"),
            Prompt(vectors, tokens, keys_of("a", 3), scope="me"),
            Prompt(None, (tokens[0] + 1, *tokens[1:]), scope="me"),
            Prompt(None, tokens),
        ]
        for prompt in asked:
            await said(counted, prompt)
        assert counted.num_positions("block") == 4 * 16
        await said(counted, Prompt(None, (*tokens[:9], *document(9, seed=3)), scope="me"))
        assert counted.num_positions("block") == 4 * 16 + 8  # one block is the same


async def test_prompts_that_come_together_read_what_they_share_once() -> None:
    async with Counted(tiny_compressor()) as counted:
        begin = tuple(document(40))
        asked = [of_scope(Prompt(None, begin), document(5 + index, seed=index)) for index in range(4)]
        together = await asyncio.gather(*(said(counted, prompt) for prompt in asked))
        assert counted.num_positions("block") == 40
        for prompt, answer in zip(asked, together, strict=True):
            assert await said(counted, prompt) == answer


async def test_a_long_prompt_leaves_others_their_turns() -> None:
    """Its blocks are read a few a step, beside whoever decodes."""
    async with Counted(tiny_compressor(max_positions=256)) as counted:
        decoding = asyncio.create_task(said(counted, Prompt(None, tuple(document(3)))))
        await said(counted, of_scope(Prompt(None, tuple(document(100)))))
        await decoding
    (steps,) = (
        sample.value
        for metric in counted.metrics.step_tokens.collect()
        for sample in metric.samples
        if sample.name.endswith("_bucket") and sample.labels["le"] == "50.0"
    )
    (all_steps,) = (
        sample.value
        for metric in counted.metrics.step_tokens.collect()
        for sample in metric.samples
        if sample.name.endswith("_count")
    )
    assert steps == all_steps  # four blocks of eight and what decodes
