"""Prompts longer than the window: each segment computed once, nothing lost unsaid, every turn answered."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from server.core.prompts.plan import Plan
from server.core.prompts.window import Fitted, Wish
from server.core.tenant import Tenant
from server.engine.protocol import SamplingParams
from server.engine.torch.build import BLOCK_TOKENS
from server.errors import TooLong
from tests.server.conftest import Serve
from tests.server.test_compression import CALL
from tests.tiny import tiny_compressor

LENGTH, VECTORS, WINDOW = 16, 4, 512  # of the checkpoint in conftest
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 8}


async def post(client: httpx.AsyncClient, path: str = "/v1/completions", **fields: Any) -> dict[str, Any]:
    response = await client.post(path, json={**GREEDY, **fields})
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


def computed(client: httpx.AsyncClient) -> int:
    """Segments that the engine has computed since the server started."""
    vectors = client.core.metrics.summary_vectors._value.get()  # type: ignore[attr-defined]
    return int(vectors) // VECTORS


def fit(client: httpx.AsyncClient, num_tokens: int, **wish: Any) -> Fitted:
    services = client.services  # type: ignore[attr-defined]
    plan: Plan = services.prompter.plan_tokens(CALL, (), tuple(range(1, 300)) * (num_tokens // 299 + 1))
    plan = services.prompter.plan_tokens(CALL, (), plan.token_ids[:num_tokens])
    fitted: Fitted = services.window.fit(plan, Wish(**{"max_tokens": 8, **wish}))
    return fitted


async def test_fifty_turns_compute_each_segment_once(client: httpx.AsyncClient) -> None:
    messages: list[dict[str, str]] = []
    most_segments = 0
    for turn in range(50):
        messages.append({"role": "user", "content": f"Question {turn}: who counts ships that nobody can see?"})
        before = computed(client)
        answer = await post(client, "/v1/chat/completions", messages=messages)
        told = answer["compression"]
        parts = told["compressed_tokens"] + told["raw_tokens"] + told["dropped_tokens"]
        assert parts == answer["usage"]["prompt_tokens"]
        known = answer["usage"]["prompt_tokens_details"]["cached_tokens"] - told["cached_segments"] * LENGTH
        assert known % BLOCK_TOKENS == 0  # of the raw ones
        assert 0 <= known < told["raw_tokens"]
        assert computed(client) - before == told["segments"] - told["cached_segments"]
        cut = (told["compressed_tokens"] + told["dropped_tokens"]) // LENGTH
        most_segments = max(most_segments, cut)
        assert computed(client) == most_segments, "a segment was computed again"
        if cut:
            assert told["raw_tokens"] >= WINDOW // 4
        assert told["raw_tokens"] + told["summary_vectors"] + GREEDY["max_tokens"] <= WINDOW
        messages.append({"role": "assistant", "content": answer["choices"][0]["message"]["content"]})
    assert most_segments > WINDOW // VECTORS, "the conversation should outgrow even its vectors"
    assert told["dropped_tokens"] > 0


async def test_what_fits_is_not_compressed(client: httpx.AsyncClient) -> None:
    told = (await post(client, prompt=[5] * (WINDOW - 8)))["compression"]
    assert (told["compressed_tokens"], told["raw_tokens"], told["segments"]) == (0, WINDOW - 8, 0)
    told = (await post(client, prompt=[5] * (WINDOW - 7)))["compression"]
    assert told["segments"] == (WINDOW - 7 - WINDOW // 4) // LENGTH
    assert told["compressed_tokens"] == told["segments"] * LENGTH


async def test_it_answers_as_from_the_summary_of_its_beginning(client: httpx.AsyncClient) -> None:
    """Greedy, endless = the beginning compressed by /compress, the rest after it."""
    ids = [1 + index * 7 % 300 for index in range(600)]
    answer = await post(client, prompt=ids, raw_tokens=40)
    cut = answer["compression"]["compressed_tokens"]
    assert cut == 35 * LENGTH
    summary = (await client.post("/compress", json={"token_ids": ids[:cut]})).json()
    assert summary["cached_segments"] == 35
    services = client.services  # type: ignore[attr-defined]
    stored = await services.summaries.of(Tenant()).get(summary["id"], param="id")
    prompt = await services.prompter.assemble(services.prompter.plan_tokens(CALL, (stored,), ids[cut:]))
    params = SamplingParams(max_tokens=8, temperature=0)
    reference = [event.text async for event in services.decoder.generate(prompt, params)]
    assert answer["choices"][0]["text"] == "".join(reference)
    assert answer["compression"]["summary_vectors"] == 35 * VECTORS


async def test_a_second_call_finds_every_segment(client: httpx.AsyncClient) -> None:
    first = await post(client, prompt="The keeper wrote one line a day. " * 60)
    second = await post(client, prompt="The keeper wrote one line a day. " * 60)
    assert first["compression"]["cached_segments"] == 0
    assert second["compression"]["cached_segments"] == second["compression"]["segments"] > 0
    assert second["choices"][0]["text"] == first["choices"][0]["text"]
    details = second["usage"]["prompt_tokens_details"]
    told = second["compression"]
    in_blocks = (told["raw_tokens"] - 1) // BLOCK_TOKENS * BLOCK_TOKENS
    assert details["cached_tokens"] == told["compressed_tokens"] + in_blocks


async def test_a_huge_prompt_costs_no_more_than_its_end(client: httpx.AsyncClient) -> None:
    told = (await post(client, prompt=[7] * 40_000))["compression"]
    assert told["dropped_tokens"] > 38_000
    assert computed(client) < 2 * WINDOW // VECTORS


@pytest.mark.parametrize("length", [100, 300, 900])
async def test_the_cut_is_within_a_segment_where_none_between_two_will_do(
    client: httpx.AsyncClient, length: int
) -> None:
    """Many new tokens are refused to no prompt that others of its kind are answered with."""
    ids = [1 + index * 7 % 300 for index in range(length)]
    for max_tokens in (WINDOW - length + 1 if length < WINDOW else 400, WINDOW - VECTORS - 1):
        answer = await post(client, prompt=ids, max_tokens=max_tokens)
        told = answer["compression"]
        assert told["summary_vectors"] >= VECTORS
        assert told["raw_tokens"] >= 1
        assert told["raw_tokens"] + told["compressed_tokens"] + told["dropped_tokens"] == length
        assert told["raw_tokens"] + told["summary_vectors"] + max_tokens <= WINDOW


async def test_truncate_left_reads_the_last_tokens(client: httpx.AsyncClient) -> None:
    ids = [1 + index * 7 % 300 for index in range(900)]
    left = await post(client, prompt=ids, truncate="left")
    told = left["compression"]
    assert (told["dropped_tokens"], told["raw_tokens"], told["segments"]) == (900 - WINDOW + 8, WINDOW - 8, 0)
    alone = await post(client, prompt=ids[-(WINDOW - 8) :], truncate="error")
    assert alone["choices"][0]["text"] == left["choices"][0]["text"]
    assert computed(client) == 0


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"truncate": "error"}, "900 prompt tokens, 0 summary vectors and 8 new tokens exceed the window of 512"),
        ({"raw_tokens": 510}, "all but the last 510"),
        ({"max_tokens": 511}, "511 new tokens"),
        ({"max_tokens": 600, "truncate": "left"}, "600 new tokens leave no room"),
    ],
)
async def test_what_cannot_fit_is_refused_with_the_numbers(
    client: httpx.AsyncClient, fields: dict[str, Any], said: str
) -> None:
    response = await client.post("/v1/completions", json={**GREEDY, "prompt": [5] * 900, **fields})
    assert response.status_code == 400, response.text
    assert response.json()["error"]["code"] == "context_length_exceeded"
    assert said in response.json()["error"]["message"]
    assert computed(client) == 0


async def test_the_setting_says_how_much_stays_raw(serve: Serve) -> None:
    async with serve(raw_tokens=200) as client:
        told = (await post(client, prompt=[5] * 600))["compression"]
        assert 200 <= told["raw_tokens"] < 200 + LENGTH
        told = (await post(client, prompt=[5] * 600, raw_tokens=60))["compression"]
        assert 60 <= told["raw_tokens"] < 60 + LENGTH


async def test_fewer_tokens_stay_raw_where_many_new_ones_are_asked_for(client: httpx.AsyncClient) -> None:
    told = (await post(client, prompt=[5] * 600, max_tokens=380))["compression"]
    assert told["raw_tokens"] < WINDOW // 4
    assert told["segments"] > 0


@pytest.mark.parametrize("num_tokens", [513, 700, 1500, 3000, 10_000])
@pytest.mark.parametrize("max_tokens", [1, 8, 128, 300, 490])
async def test_every_fit_adds_up(client: httpx.AsyncClient, num_tokens: int, max_tokens: int) -> None:
    fitted = fit(client, num_tokens, max_tokens=max_tokens)
    plan = fitted.plan
    chains = [source for source in plan.sources if isinstance(source, tuple)]
    skipped = sum(share.lengths.count(0) for share in plan.shares)
    assert sum(map(len, chains)) - skipped * LENGTH + fitted.num_dropped + len(plan.token_ids) == num_tokens
    assert plan.num_vectors == VECTORS * (sum(len(chain) // LENGTH for chain in chains) - skipped)
    assert all(len(chain) % LENGTH == 0 for chain in chains)
    assert plan.room == WINDOW - plan.num_vectors - len(plan.token_ids) >= max_tokens == fitted.max_tokens
    assert fitted.num_dropped // LENGTH >= skipped


@pytest.mark.parametrize(("family", "accumulate_summary"), [("opt", True), ("llama", False), ("opt", False)])
async def test_other_models_have_endless_context_too(
    serve: Serve, tmp_path: Path, family: str, accumulate_summary: bool
) -> None:
    """OPT numbers segment tokens alone; an RMT's soft prompt does not grow."""
    made = tiny_compressor(family, accumulate_summary=accumulate_summary, max_positions=128)
    made.save_pretrained(tmp_path / "model")
    async with serve(model=str(tmp_path / "model")) as client:
        for num_tokens in (200, 400, 2000):
            told = (await post(client, prompt=[5] * num_tokens))["compression"]
            assert told["compressed_tokens"] + told["raw_tokens"] + told["dropped_tokens"] == num_tokens
            assert told["segments"] > 0
            again = (await post(client, prompt=[5] * num_tokens))["compression"]
            assert again["cached_segments"] == again["segments"]
        if not accumulate_summary:
            assert told["summary_vectors"] == VECTORS
            assert told["dropped_tokens"] == 0
        with pytest.raises(TooLong, match="150 new tokens"):
            fit(client, 200, max_tokens=150)
