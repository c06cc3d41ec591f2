"""Summaries that no prompt follows: what comes next is drawn from the last vector's state, as the model itself does."""

import asyncio
from dataclasses import replace

import pytest
import torch

from model import AutoCompressor
from server.engine.protocol import Prompt, SamplingParams
from server.errors import InvalidRequest
from tests.engine.test_engine import GREEDY, document, generated, running, token_ids
from tests.engine.test_prefix_cache import Counted, keys_of, segments_of, vectors_of
from tests.tiny import FAMILIES, tiny_anchored, tiny_compressor

NO_TOKENS = torch.empty(1, 0, dtype=torch.long)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["summary tokens", "anchored"])
async def test_goes_on_as_the_model_itself_does(family: str, kind: str) -> None:
    def made() -> AutoCompressor:
        return tiny_anchored(family) if kind == "anchored" else tiny_compressor(family)

    model = made()
    vectors = torch.randn(12, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = model.generate(NO_TOKENS, soft_prompt=vectors[None], max_new_tokens=12, eos_token_id=-1)[0].tolist()
    bare = Prompt(vectors, ())
    async with running(made()) as engine:
        events = await generated(engine, bare)
        one, several = await engine.score(bare, [expected[:3]]), await engine.score(bare, [[5], expected[:3]])
    assert token_ids(events) == expected
    logprobs = [event.logprob for event in events[:3]]
    assert one[0].logprobs == pytest.approx(logprobs, abs=1e-4)
    assert several[1].logprobs == pytest.approx(logprobs, abs=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
async def test_the_first_answer_is_the_next_ones_to_the_bit(dtype: torch.dtype) -> None:
    """Whoever read the vectors before: this call, one with a prompt, or one that scored."""
    async with Counted(tiny_compressor().to(dtype)) as counted:
        engine = counted.engine
        for trial in range(3):
            keys = keys_of(f"trial {trial}", 3)
            vectors = await vectors_of(engine, segments_of(trial), keys)
            bare = Prompt(vectors, (), keys)
            first = await generated(engine, bare)
            assert await generated(engine, bare) == first
            assert await generated(engine, replace(bare, keys=())) == first
            assert await generated(engine, replace(bare, keys=keys_of(f"other {trial}", 3))) == first
            asked = replace(bare, token_ids=tuple(document(5)), keys=keys_of(f"asked {trial}", 3))
            answer = await generated(engine, asked)
            assert await generated(engine, replace(bare, keys=asked.keys)) == first
            scores = await engine.score(bare, [[3, 4, 5]])
            assert scores == await engine.score(replace(bare, keys=()), [[3, 4, 5]])
            assert await generated(engine, bare) == first
            assert await generated(engine, asked) == answer


async def test_batched_equals_alone() -> None:
    vectors = [torch.randn(4 * n, 32, generator=torch.Generator().manual_seed(n)) for n in range(1, 6)]
    prompts = [Prompt(each, ()) for each in vectors] + [Prompt(vectors[0], (1, 2, 3)), Prompt(None, (4, 5))]
    async with running(tiny_compressor()) as engine:
        alone = [token_ids(await generated(engine, prompt)) for prompt in prompts]
        together = await asyncio.gather(*(generated(engine, prompt) for prompt in prompts))
        penalised = SamplingParams(max_tokens=6, temperature=0, repetition_penalty=5.0)
        assert len(set(token_ids(await generated(engine, prompts[0], penalised)))) == 6
    assert [token_ids(events) for events in together] == alone


async def test_vectors_are_read_once_for_all_who_go_on_from_them() -> None:
    async with Counted(tiny_compressor()) as counted:
        vectors = await vectors_of(counted.engine, segments_of(0), keys_of("a", 3))
        bare = Prompt(vectors, (), keys_of("a", 3))
        answers = await asyncio.gather(*(generated(counted.engine, bare) for _ in range(4)))
        assert answers == [answers[0]] * 4
        assert counted.num_positions("vectors") == 12
        assert counted.num_positions("prefill") == 4


async def test_a_single_vector_is_enough_and_nothing_is_not() -> None:
    async with running(tiny_compressor()) as engine:
        assert len(await generated(engine, Prompt(torch.randn(1, 32), ()))) == GREEDY.max_tokens
        for nothing in (Prompt(None, ()), Prompt(torch.empty(0, 32), ())):
            with pytest.raises(InvalidRequest, match="at least 1 token, or 1 vector"):
                await generated(engine, nothing)
            with pytest.raises(InvalidRequest, match="at least 1 token, or 1 vector"):
                await engine.score(nothing, [[1]])
