"""What every engine keeps to, on one tiny model: ours = reference, batched = alone, streamed = whole."""

import asyncio
import importlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import torch
from transformers import LlamaConfig, PreTrainedModel

from model import AutoCompressor
from server.engine.protocol import Engine, Prompt, SamplingParams, TokenEvent
from server.engine.torch.build import Loaded, build_engines, end_of_text_ids
from server.engine.torch.devices import DTYPES
from server.engine.vllm import environment
from server.errors import EngineFailed, InvalidRequest, Overloaded, TooLong
from server.metrics import Metrics
from server.settings import Settings
from tests.engine.test_engine import TOLERANCE, compressed, document, prompts, token_ids
from tests.engine.test_engine import generated as generated_with
from tests.tiny import END_OF_TEXT_ID, WEIGHT_SCALE, random_base, randomise_summary_embeddings, tiny_tokenizer

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.filterwarnings("default")]  # vLLM's own warnings

MAX_TOKENS = 128  # of a prompt and its answer
MAX_POSITIONS = 192  # of the model
WIDTH = 64
ASKED = prompts(width=WIDTH)
GREEDY = SamplingParams(12, temperature=0, ignore_eos=True)
RANDOM = replace(GREEDY, temperature=1.0)
ARGUMENTS = "enforce_eager=true,kv_cache_memory_bytes=67108864,block_size=32"  # of vLLM, its pages shorter than prompts
NO_VLLM = "vLLM is not installed: `make test-vllm` makes an environment that has it"


@dataclass(frozen=True)
class Subject:
    """An engine that runs, and the reference path of its model."""

    engine: Engine
    model: AutoCompressor


def tiny_llama() -> PreTrainedModel:
    """A Llama with the smallest heads that vLLM's kernels take."""
    config = LlamaConfig(
        vocab_size=320,
        hidden_size=WIDTH,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=MAX_POSITIONS,
        initializer_range=WEIGHT_SCALE,
        bos_token_id=END_OF_TEXT_ID,
        eos_token_id=END_OF_TEXT_ID,
        pad_token_id=None,
    )
    return random_base(config)


def tiny_checkpoint(directory: Path) -> Path:
    """The Llama with summary tokens."""
    model = AutoCompressor.from_base(tiny_llama(), 4, segment_length=16, tokenizer=tiny_tokenizer())
    randomise_summary_embeddings(model)
    model.save_pretrained(directory)
    return directory


def built(name: str, checkpoint: Path, **settings: Any) -> Any:
    """The engine of this name, not yet started; skips where it is not installed."""
    settings = {"dtype": "float32", "max_running_sequences": 4, "max_batch_tokens": 64, "max_requests": 64} | settings
    model = AutoCompressor.from_pretrained(checkpoint, dtype=DTYPES[settings["dtype"]])
    if name == "torch":
        return build_engines([Loaded("tiny", model, MAX_TOKENS)], Settings(**settings), Metrics())[0]
    pytest.importorskip("vllm", reason=NO_VLLM)
    environment.prepare()
    vllm_build = importlib.import_module("server.engine.vllm.build")
    chosen = Settings(**{"engine": "vllm", "engine_args": ARGUMENTS} | settings)
    return vllm_build.build_engine(model, MAX_TOKENS, chosen, Metrics(), end_of_text=end_of_text_ids(model))


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["torch", "vllm"])
async def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Subject]:
    checkpoint = tiny_checkpoint(tmp_path_factory.mktemp("contract") / "tiny")
    engine = built(request.param, checkpoint)
    engine.start()
    try:
        yield Subject(engine, AutoCompressor.from_pretrained(checkpoint))
    finally:
        await asyncio.to_thread(engine.stop)


async def generated(engine: Engine, prompt: Prompt, params: SamplingParams = GREEDY) -> list[TokenEvent]:
    return await generated_with(engine, prompt, params)


async def test_agrees_with_the_reference_path(subject: Subject) -> None:
    """Vectors, scores, greedy tokens and their log-probabilities are those of the model's own methods."""
    reference, engine = subject.model, subject.engine
    ids = document(41)
    with torch.inference_mode():
        vectors = reference.compress(torch.tensor([ids]), segment_lengths=[16, 16, 9])[0]
        prompt = Prompt(vectors.clone(), tuple(document(7, seed=1)))
        expected_ids = reference.generate(
            torch.tensor([prompt.token_ids]), soft_prompt=vectors[None], max_new_tokens=12, eos_token_id=-1
        )[0, 7:].tolist()
        both = torch.tensor([[*prompt.token_ids, 5, 6, 7]])
        logprobs = reference(both, soft_prompt=vectors[None]).logits[0].log_softmax(dim=-1)
    made = await compressed(engine, [ids[:16], ids[16:32], ids[32:]])
    torch.testing.assert_close(made, vectors, **TOLERANCE)
    events = await generated(engine, prompt, replace(GREEDY, num_logprobs=3))
    assert token_ids(events) == expected_ids
    one, several = await engine.score(prompt, [[5], [5, 6, 7]], num_logprobs=2)
    assert (one.token_ids, several.token_ids) == ((5,), (5, 6, 7))
    expected = [float(logprobs[6 + place, token]) for place, token in enumerate((5, 6, 7))]
    assert [*one.logprobs, *several.logprobs] == pytest.approx([expected[0], *expected], abs=1e-4)
    for place, top in enumerate(several.top_logprobs):
        assert [token for token, _ in top] == logprobs[6 + place].topk(2).indices.tolist()
    first = logprobs[6].topk(3)
    assert [token for token, _ in events[0].top_logprobs] == first.indices.tolist()
    assert [value for _, value in events[0].top_logprobs] == pytest.approx(first.values.tolist(), abs=1e-4)


async def test_log_probabilities_are_the_models_own(subject: Subject) -> None:
    """Before penalties, biases, temperature and truncation."""
    plain = await generated(subject.engine, ASKED[1])
    token = plain[0].token_id
    params = SamplingParams(1, temperature=0.5, top_k=1, repetition_penalty=1.3, logit_bias=((token, 50.0),))
    (changed,) = await generated(subject.engine, ASKED[1], params)
    assert (changed.token_id, changed.logprob) == (token, pytest.approx(plain[0].logprob, abs=1e-4))


async def test_a_repetition_penalty_counts_the_prompts_tokens_and_no_vectors(subject: Subject) -> None:
    """vLLM wants ids for vectors, too: a token that stands for them would be held to have come."""
    prompt = ASKED[3]
    assert prompt.soft_prompt is not None
    with torch.no_grad():
        ids = torch.tensor([prompt.token_ids])
        logits = subject.model(ids, soft_prompt=prompt.soft_prompt[None]).logits[0, -1].clone()
    seen = torch.tensor(sorted(set(prompt.token_ids)))
    logits[seen] = torch.where(logits[seen] > 0, logits[seen] / 10, logits[seen] * 10)
    bias = float(logits[1:].max() - logits[0]) + 0.5  # enough for token 0 unless it is penalised
    params = SamplingParams(1, temperature=0, repetition_penalty=10.0, logit_bias=((0, bias),))
    (event,) = await generated(subject.engine, prompt, params)
    assert event.token_id == 0


async def test_goes_on_from_vectors_alone(subject: Subject) -> None:
    vectors = torch.randn(12, WIDTH, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = subject.model.generate(
            torch.empty(1, 0, dtype=torch.long), soft_prompt=vectors[None], max_new_tokens=12, eos_token_id=-1
        )[0].tolist()
    bare = Prompt(vectors, ())
    events = await generated(subject.engine, bare, GREEDY)
    scores = await subject.engine.score(bare, [[5], expected[:3]])
    assert token_ids(events) == expected
    assert scores[1].logprobs == pytest.approx([event.logprob for event in events[:3]], abs=1e-4)


async def test_text_as_part_of_a_soft_prompt_reads_as_text(subject: Subject) -> None:
    """The embeddings of tokens before a prompt are those tokens."""
    head, tail = document(9), document(7, seed=1)
    whole = await generated(subject.engine, Prompt(None, (*head, *tail)))
    parts = await generated(subject.engine, Prompt(subject.engine.embed(head), tuple(tail)))
    assert token_ids(parts) == token_ids(whole)


async def test_compressing_on_after_a_soft_prompt_equals_at_once(subject: Subject) -> None:
    segments = [document(16, seed=seed) for seed in range(4)]
    whole = await compressed(subject.engine, segments)
    head = await compressed(subject.engine, segments[:2])
    tail = await compressed(subject.engine, segments[2:], soft_prompt=head)
    torch.testing.assert_close(torch.cat([head, tail]), whole, **TOLERANCE)


async def test_a_document_may_take_more_positions_than_an_answer(subject: Subject) -> None:
    """vLLM refused a document in its middle, where its vectors and a segment took more than max_sequence_tokens."""
    soft_prompt = torch.randn(MAX_TOKENS, WIDTH, generator=torch.Generator().manual_seed(0))
    ids = document(16)
    with torch.inference_mode():
        expected = subject.model.compress(torch.tensor([ids]), soft_prompt=soft_prompt[None])[0]
    made = await compressed(subject.engine, [ids], soft_prompt=soft_prompt)
    torch.testing.assert_close(made, expected, **TOLERANCE)


async def test_a_seed_repeats_whatever_else_is_in_the_batch(subject: Subject) -> None:
    params = replace(RANDOM, temperature=1.3, top_p=0.9, top_k=50, seed=7)
    alone = token_ids(await generated(subject.engine, ASKED[0], params))
    mates = [generated(subject.engine, prompt, replace(RANDOM, seed=3)) for prompt in ASKED[1:]]
    among, *_ = await asyncio.gather(generated(subject.engine, ASKED[0], params), *mates)
    other = token_ids(await generated(subject.engine, ASKED[0], replace(RANDOM, seed=8)))
    assert token_ids(among) == alone
    assert other != alone


async def test_events_end_with_the_reason_and_add_up_to_the_text(subject: Subject) -> None:
    events = await generated(subject.engine, ASKED[0])
    text = "".join(event.text for event in events)
    stop = text[len(text) // 2 :][:3]
    stopped = await generated(subject.engine, ASKED[0], replace(GREEDY, stop=(stop,)))
    assert [event.finish_reason for event in events] == [None] * 11 + ["length"]
    assert text == subject.model.tokenizer.decode(token_ids(events), skip_special_tokens=True)
    assert stopped[-1].finish_reason == "stop"
    assert "".join(event.text for event in stopped) == text[: text.index(stop)]


async def test_generations_that_end_at_different_times_are_as_alone(subject: Subject) -> None:
    """Whoever ends leaves a row, which the last one takes with what it has read."""
    lengths = [3, 9, 5, 14, 2, 11, 7]
    asked = [
        (prompt, replace(GREEDY, max_tokens=length))
        for prompt, length in zip(prompts(len(lengths), width=WIDTH), lengths, strict=True)
    ]
    alone = [token_ids(await generated(subject.engine, *one)) for one in asked]
    together = await asyncio.gather(*(generated(subject.engine, *one) for one in asked))
    assert [token_ids(events) for events in together] == alone


async def test_more_requests_than_rows_are_all_answered(subject: Subject) -> None:
    results = await asyncio.gather(*(generated(subject.engine, prompt) for prompt in ASKED * 5))
    assert {len(events) for events in results} == {12}


async def test_a_tiny_temperature_is_greedy_and_harms_nobody(subject: Subject) -> None:
    """Dividing by it overflowed, and the failed draw took the whole batch with it."""
    expected = token_ids(await generated(subject.engine, ASKED[0]))
    tiny = replace(GREEDY, temperature=1e-300)
    events, others = await asyncio.gather(
        generated(subject.engine, ASKED[0], tiny),
        generated(subject.engine, ASKED[1], replace(RANDOM, seed=1)),
    )
    assert token_ids(events) == expected
    assert len(others) == 12


async def test_a_tiny_top_p_leaves_the_most_likely_token(subject: Subject) -> None:
    """Float32 rounded it to 0, which left no token at all."""
    expected = token_ids(await generated(subject.engine, ASKED[0]))
    assert token_ids(await generated(subject.engine, ASKED[0], replace(RANDOM, top_p=1e-300))) == expected


async def test_what_can_never_run_is_refused_at_once(subject: Subject) -> None:
    with pytest.raises(InvalidRequest):
        await subject.engine.score(ASKED[0], [])
    with pytest.raises(InvalidRequest):
        await subject.engine.score(ASKED[0], [[1], []])
    with pytest.raises(InvalidRequest):
        await compressed(subject.engine, [])
    with pytest.raises(InvalidRequest):
        await generated(subject.engine, Prompt(None, ()))
    with pytest.raises(TooLong, match="5 prompt positions and 125 new tokens exceed a row's 128"):
        await generated(subject.engine, ASKED[0], replace(GREEDY, max_tokens=125))
    assert len(await generated(subject.engine, ASKED[0], replace(GREEDY, max_tokens=124))) == 124


async def test_states_that_are_not_finite_fail_their_own_request(subject: Subject) -> None:
    broken = Prompt(torch.full((2, WIDTH), float("nan")), (1, 2, 3))
    results = await asyncio.gather(
        generated(subject.engine, broken),
        subject.engine.score(broken, [[1], [2]]),
        compressed(subject.engine, [document(5)], broken.soft_prompt),
        generated(subject.engine, ASKED[0]),
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [EngineFailed, EngineFailed, EngineFailed, list]


async def test_batched_equals_alone(subject: Subject) -> None:
    engine, asked = subject.engine, ASKED
    documents = [[document(10, seed=seed), document(5, seed=seed + 9)] for seed in range(4)]
    alone = [await compressed(engine, segments) for segments in documents]
    texts = [token_ids(await generated(engine, prompt)) for prompt in asked]
    scores = [(await engine.score(prompt, [[3, 4]]))[0].logprobs for prompt in asked]
    together = await asyncio.gather(
        *(compressed(engine, segments) for segments in documents),
        *(generated(engine, prompt) for prompt in asked),
        *(engine.score(prompt, [[3, 4]]) for prompt in asked),
    )
    for one, other in zip(alone, together[:4], strict=True):
        torch.testing.assert_close(one, other, **TOLERANCE)
    assert texts == [token_ids(events) for events in together[4:8]]
    for one_score, (other_score,) in zip(scores, together[8:], strict=True):
        assert one_score == pytest.approx(other_score.logprobs, abs=1e-4)


async def test_a_segment_that_comes_again_has_the_same_vectors(subject: Subject) -> None:
    """Of the fifth all but three positions fill a page of vLLM's, which is known then and gives no states: it has four
    summary tokens."""
    segments = [document(length, seed=length + place) for place, length in enumerate([16, 16, 16, 16, 15, 16])]
    keys = [f"segment {index}" for index in range(len(segments))]
    first, again = [
        torch.cat([each.vectors async for each in subject.engine.compress(segments, keys=keys)]) for _ in range(2)
    ]
    torch.testing.assert_close(first, again, **TOLERANCE)


async def test_closing_an_iterator_frees_what_it_held(subject: Subject) -> None:
    """More at a time than there are places to run: none would be left."""
    for _ in range(2):
        taken = [subject.engine.generate(prompt, replace(RANDOM, max_tokens=100)) for prompt in ASKED]
        for events in taken:
            await anext(events)
        for events in taken:
            await events.aclose()
    async with asyncio.timeout(10):
        assert len(await generated(subject.engine, ASKED[1])) == 12


async def test_a_full_line_refuses_and_answers_what_it_took(subject: Subject) -> None:
    asked = [asyncio.create_task(generated(subject.engine, ASKED[0])) for _ in range(64)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="limit of 64"):
        await generated(subject.engine, ASKED[0])
    assert {len(events) for events in await asyncio.gather(*asked)} == {12}


async def test_a_stop_token_ends_as_the_end_of_text_does(subject: Subject) -> None:
    plain = await generated(subject.engine, ASKED[0])
    token = plain[4].token_id
    place = token_ids(plain).index(token)
    events = await generated(subject.engine, ASKED[0], replace(GREEDY, stop_token_ids=(token,)))
    assert token_ids(events) == token_ids(plain)[: place + 1]
    assert (events[-1].finish_reason, events[-1].text) == ("stop", "")
