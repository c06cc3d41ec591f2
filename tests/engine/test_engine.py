"""The engine on real tiny models: ours = reference, batched = alone, streamed = whole, seeded = repeatable."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import FalconConfig, GPTJConfig

from model import AutoCompressor
from server.engine.protocol import Engine, Prompt, SamplingParams, TokenEvent
from server.engine.torch.attention import SdpaKernels
from server.engine.torch.engine import TorchEngine
from server.engine.torch.packed import PackedModel
from server.engine.torch.runner import BatchRunner, Runner
from server.engine.torch.scheduler import Limits
from server.errors import EngineFailed, NotReady, Overloaded, ServiceError
from server.metrics import Metrics
from tests.tiny import FAMILIES, random_base, random_ids, tiny_anchored, tiny_compressor, tiny_config

LIMITS = Limits(max_running=4, max_sequence_tokens=128, max_batch_tokens=64)
GREEDY = SamplingParams(max_tokens=12, temperature=0)
TOLERANCE = {"rtol": 0, "atol": 1e-4}  # float32


@asynccontextmanager
async def running(
    model: AutoCompressor, *, limits: Limits = LIMITS, runner: BatchRunner | None = None, max_requests: int = 64
) -> AsyncIterator[TorchEngine]:
    engine = TorchEngine(
        runner or Runner(PackedModel(model, SdpaKernels(), num_rows=limits.max_running, max_tokens=128)),
        limits,
        max_requests=max_requests,
        num_appended=model.writer.num_appended,
        accumulate_summary=model.accumulate_summary,
        reads_alone=model.config.reads_alone,
        end_of_text=frozenset(),
        tokenizer=model.tokenizer,
        metrics=Metrics(),
    )
    engine.start()
    try:
        yield engine
    finally:
        await asyncio.to_thread(engine.stop)


def document(length: int, *, seed: int = 0) -> list[int]:
    return random_ids(1, length, seed=seed)[0].tolist()


def prompts(count: int = 4, *, width: int = 32) -> list[Prompt]:
    """Prompts of different lengths, every other one with a soft prompt."""
    made = []
    for index in range(count):
        generator = torch.Generator().manual_seed(index)
        soft_prompt = torch.randn(4 * index, width, generator=generator) if index % 2 else None
        made.append(Prompt(soft_prompt, tuple(document(5 + 3 * index, seed=index))))
    return made


async def generated(engine: Engine, prompt: Prompt, params: SamplingParams = GREEDY) -> list[TokenEvent]:
    async with aclosing(engine.generate(prompt, params)) as events:
        return [event async for event in events]


async def compressed(engine: Engine, segments: Sequence[Sequence[int]], soft_prompt: Tensor | None = None) -> Tensor:
    async with aclosing(engine.compress(segments, soft_prompt=soft_prompt)) as made:
        return torch.cat([summary.vectors async for summary in made])


def token_ids(events: Sequence[TokenEvent]) -> list[int]:
    return [event.token_id for event in events]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("accumulate_summary", [True, False])
async def test_agrees_with_the_reference_path(family: str, accumulate_summary: bool) -> None:
    """Vectors, scores and greedy tokens of the engine are those of the model's own methods."""
    reference = tiny_compressor(family, accumulate_summary=accumulate_summary)
    lengths, ids = [16, 16, 9], document(41)
    segments = [ids[:16], ids[16:32], ids[32:]]
    with torch.inference_mode():
        vectors = reference.compress(torch.tensor([ids]), segment_lengths=lengths)[0]
        soft_prompt = vectors if accumulate_summary else vectors[-4:]
        prompt = Prompt(soft_prompt.clone(), tuple(document(7, seed=1)))
        expected_ids = reference.generate(
            torch.tensor([prompt.token_ids]), soft_prompt=soft_prompt[None], max_new_tokens=12, eos_token_id=-1
        )[0, 7:].tolist()
        both = torch.tensor([[*prompt.token_ids, 5, 6, 7]])
        logprobs = reference(both, soft_prompt=soft_prompt[None]).logits[0].log_softmax(dim=-1)
    expected_scores = [float(logprobs[6 + place, token]) for place, token in enumerate((5, 6, 7))]

    async with running(tiny_compressor(family, accumulate_summary=accumulate_summary)) as engine:
        torch.testing.assert_close(await compressed(engine, segments), vectors, **TOLERANCE)
        events = await generated(engine, prompt)
        (score,) = await engine.score(prompt, [[5, 6, 7]])
    assert token_ids(events) == expected_ids
    assert score.token_ids == (5, 6, 7)
    assert score.logprobs == pytest.approx(expected_scores, abs=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
async def test_anchored_vectors_agree_with_the_reference_path(family: str) -> None:
    """Written without the adapter and read with it, in one batch or in several, beside prompts without vectors."""
    reference = tiny_anchored(family)
    segments = [document(16, seed=1), document(16, seed=2), document(5, seed=3), document(1, seed=6)]
    with torch.inference_mode():
        expected = [reference.summarise(torch.tensor(segment))[0] for segment in segments]
        prompt = Prompt(torch.cat([summary.vectors for summary in expected]), tuple(document(7, seed=4)))
        bare = Prompt(None, tuple(document(6, seed=5)))
        answers = [
            reference.generate(
                torch.tensor([each.token_ids]),
                soft_prompt=None if each.soft_prompt is None else each.soft_prompt[None],
                max_new_tokens=12,
                eos_token_id=-1,
            )[0, len(each.token_ids) :].tolist()
            for each in (prompt, bare)
        ]
    for together in (1, 4):
        async with running(tiny_anchored(family), limits=replace(LIMITS, segments_together=together)) as engine:
            async with aclosing(engine.compress(segments)) as stream:
                made = [summary async for summary in stream]
            for own, other in zip(made, expected, strict=True):
                torch.testing.assert_close(own.vectors, other.vectors, **TOLERANCE)
                assert torch.equal(own.ranks, other.ranks)
                assert torch.equal(own.anchors, other.anchors)
            assert token_ids(await generated(engine, prompt)) == answers[0]
            mixed = await asyncio.gather(
                generated(engine, prompt), generated(engine, bare), compressed(engine, segments)
            )
    assert [token_ids(events) for events in mixed[:2]] == answers
    torch.testing.assert_close(mixed[2], torch.cat([summary.vectors for summary in expected]), **TOLERANCE)


async def test_batched_equals_alone_where_positions_leave_vectors_out() -> None:
    async with running(tiny_compressor("opt")) as engine:
        documents = [[document(10, seed=seed), document(5, seed=seed + 9)] for seed in range(4)]
        alone = [await compressed(engine, segments) for segments in documents]
        texts = [token_ids(await generated(engine, prompt)) for prompt in prompts()]
        scores = [(await engine.score(prompt, [[3, 4]]))[0].logprobs for prompt in prompts()]
        together = await asyncio.gather(
            *(compressed(engine, segments) for segments in documents),
            *(generated(engine, prompt) for prompt in prompts()),
            *(engine.score(prompt, [[3, 4]]) for prompt in prompts()),
        )
    for one, other in zip(alone, together[:4], strict=True):
        torch.testing.assert_close(one, other, **TOLERANCE)
    assert texts == [token_ids(events) for events in together[4:8]]
    for one_score, (other_score,) in zip(scores, together[8:], strict=True):
        assert one_score == pytest.approx(other_score.logprobs, abs=1e-4)


async def test_batched_stays_close_to_alone_in_bfloat16() -> None:
    """What a CPU or GPU serves by default: sums are rounded by the shape of the batch, to three digits or so."""
    documents = [[document(10, seed=seed), document(5, seed=seed + 9)] for seed in range(4)]
    async with running(tiny_compressor(dtype=torch.bfloat16)) as engine:
        alone = [await compressed(engine, segments) for segments in documents]
        together = await asyncio.gather(*(compressed(engine, segments) for segments in documents))
    for one, other in zip(alone, together, strict=True):
        assert one.dtype == torch.bfloat16
        assert float((one - other).abs().max()) <= 0.05 * float(one.abs().max())


async def test_a_sliding_window_is_kept_in_prefill_and_in_decode() -> None:
    config = tiny_config("mistral")
    config.sliding_window = 6
    reference, served = (AutoCompressor.from_base(random_base(config), 4, tokenizer=_tokenizer()) for _ in range(2))
    ids = document(20)
    expected = reference.generate(torch.tensor([ids]), max_new_tokens=12, eos_token_id=-1)[0, 20:].tolist()
    async with running(served) as engine:
        assert token_ids(await generated(engine, Prompt(None, tuple(ids)))) == expected


class GatedRunner:
    """A runner whose steps wait for the test, and that fails when told to."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self.gate = asyncio.Event()
        self.error: BaseException | None = None
        self._loop = asyncio.get_running_loop()

    def run(self, pieces: Sequence[Any]) -> list[Any]:
        asyncio.run_coroutine_threadsafe(self.gate.wait(), self._loop).result()
        if self.error is not None:
            raise self.error
        return self._runner.run(pieces)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)


def gated(model: AutoCompressor) -> GatedRunner:
    return GatedRunner(Runner(PackedModel(model, SdpaKernels(), num_rows=LIMITS.max_running, max_tokens=128)))


async def test_a_full_queue_refuses_and_answers_what_it_took() -> None:
    model = tiny_compressor()
    runner = gated(model)
    async with running(model, max_requests=3, runner=runner) as engine:
        taken = [asyncio.create_task(generated(engine, prompt)) for prompt in prompts(3)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="limit of 3"):
            await generated(engine, prompts()[0])
        runner.gate.set()
        assert [len(events) for events in await asyncio.gather(*taken)] == [12, 12, 12]
        assert len(await generated(engine, prompts()[0])) == 12


async def test_closing_an_iterator_frees_its_row() -> None:
    model = tiny_compressor()
    async with running(model, limits=replace(LIMITS, max_running=1)) as engine:
        events = engine.generate(prompts()[0], SamplingParams(max_tokens=100))
        await anext(events)
        await events.aclose()
        async with asyncio.timeout(10):
            assert len(await generated(engine, prompts()[1])) == 12


async def test_a_failed_batch_fails_its_members_and_nobody_else() -> None:
    model = tiny_compressor()
    runner = gated(model)
    runner.gate.set()
    async with running(model, runner=runner) as engine:
        runner.error = RuntimeError("out of memory")
        results = await asyncio.gather(
            generated(engine, prompts()[0]), compressed(engine, [document(5)]), return_exceptions=True
        )
        assert [type(result) for result in results] == [EngineFailed, EngineFailed]
        runner.error = None
        assert engine.is_ready
        assert len(await generated(engine, prompts()[0])) == 12


async def test_a_tokenizer_that_fails_fails_one_request() -> None:
    class Tokenizer:
        def decode(self, token_ids: list[int], skip_special_tokens: bool = False) -> str:
            if len(token_ids) > 8:
                raise KeyError("no such token")
            return ""

    model = tiny_compressor()
    model.tokenizer = Tokenizer()
    async with running(model) as engine:
        with pytest.raises(EngineFailed, match="KeyError"):
            await generated(engine, prompts()[0])
        assert engine.is_ready
        assert len(await generated(engine, prompts()[0], SamplingParams(max_tokens=2))) == 2


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_dead_thread_fails_all_who_wait_and_ends_readiness() -> None:
    model = tiny_compressor()
    runner = gated(model)
    async with running(model, runner=runner) as engine:
        waiting = [asyncio.create_task(generated(engine, prompt)) for prompt in prompts() * 2]
        await asyncio.sleep(0)
        runner.error = SystemExit()
        runner.gate.set()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(result, ServiceError) for result in results)
        assert not engine.is_ready
        with pytest.raises(NotReady):
            await generated(engine, prompts()[0])


async def test_stopping_answers_who_still_waits() -> None:
    model = tiny_compressor()
    async with running(model, limits=replace(LIMITS, max_running=1)) as engine:
        waiting = [
            asyncio.create_task(generated(engine, prompts()[0], SamplingParams(max_tokens=100))) for _ in range(3)
        ]
        await asyncio.sleep(0.05)
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(result, NotReady | list) for result in results)
    assert any(isinstance(result, NotReady) for result in results)


def test_an_architecture_with_its_own_attention_is_refused() -> None:
    """Its results would change once the engine takes attention over, which is seen at the start."""
    model = tiny_compressor("gpt_neox")
    attention = model.base.gpt_neox.layers[0].attention
    own_forward = attention.forward

    def forward(*arguments: Any, **options: Any) -> tuple[Tensor, None]:
        output, weights = own_forward(*arguments, **options)
        return (output if attention.config._attn_implementation == "sdpa" else output.flip(1)), weights

    attention.forward = forward
    with pytest.raises(ValueError, match="the engine cannot run GPTNeoXForCausalLM: its logits are"):
        Runner(PackedModel(model, SdpaKernels(), num_rows=1, max_tokens=32))


@pytest.mark.parametrize("config", [GPTJConfig, FalconConfig])
def test_architectures_that_keep_their_own_attention_are_refused(config: Any) -> None:
    """transformers only logs that it cannot set their attention, and goes on."""
    sizes = {"vocab_size": 320, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    base = random_base(config(**sizes, max_position_embeddings=128, rotary_dim=4, alibi=False, eos_token_id=0))
    with pytest.raises(ValueError, match="the engine cannot run"):
        Runner(PackedModel(AutoCompressor.from_base(base, 4), SdpaKernels(), num_rows=2, max_tokens=32))


def test_a_row_shorter_than_the_check_is_refused() -> None:
    with pytest.raises(ValueError, match="max_sequence_tokens is 4; at least 8"):
        Runner(PackedModel(tiny_compressor(), SdpaKernels(), num_rows=2, max_tokens=4))


def _tokenizer() -> Any:
    return tiny_compressor().tokenizer
