"""Segments that are read alone: stored once for all documents, thinned by rank, and of a million tokens."""

import resource
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from model.compressors import SegmentSummary
from model.config import SummaryConfig
from server.core.documents.compression import Compressor
from server.core.documents.document import Compressed, Document
from server.core.documents.progress import Progress, Report
from server.core.documents.store_calls import StoreCalls
from server.core.documents.stored_secret import StoredSecret
from server.core.documents.summaries import AllSummaries, Summary
from server.core.prompts.gathering import Gatherer
from server.core.prompts.prompting import Prompter
from server.core.prompts.window import Window, Wish
from server.core.responses.opening import Opener
from server.core.responses.sealing import Sealer
from server.core.served_model import ServedModel
from server.engine.protocol import Meter
from server.errors import InvalidRequest, SummaryNotFound, TooLong
from server.metrics import Metrics
from server.store import EmbeddedStore
from server.store.codec import encode_segment
from tests.server.test_compression import CALL, TENANT, WIDTH, CountingEngine, served_model


class AloneEngine(CountingEngine):
    """Vectors of the segment alone: row i is (sum of the ids, place, i), and the last places rank first."""

    def __init__(self, config: SummaryConfig) -> None:
        super().__init__()
        self._config = config

    async def compress(
        self,
        segments: Sequence[Sequence[int]],
        *,
        soft_prompt: Tensor | None = None,
        keys: Sequence[str] = (),
        meter: Meter | None = None,
        waits: bool = False,
    ) -> AsyncGenerator[SegmentSummary]:
        assert soft_prompt is None
        for segment in segments:
            self.num_computed += 1
            count = self._config.num_vectors(len(segment))
            places = torch.arange(count)
            vectors = torch.stack([torch.full((count,), float(sum(segment) % 997)), places, places], dim=1)
            yield SegmentSummary(vectors, count - 1 - places, places * 2)

    def embed(self, token_ids: Sequence[int]) -> Tensor:
        return torch.tensor(token_ids, dtype=torch.float32)[:, None].expand(-1, WIDTH)


class House:
    """A small server's parts: segments of 4 tokens and 2 vectors, unless said otherwise."""

    def __init__(
        self, store: EmbeddedStore, *, window: int = 64, length: int = 4, vectors: int = 2, **model: Any
    ) -> None:
        config = SummaryConfig(vectors, True, length, compressor="anchored", reads_alone=True)
        self.model: ServedModel = replace(served_model(max_positions=window), config=config, **model)
        self.engine, self.store, metrics = AloneEngine(config), store.space(TENANT.account), Metrics()
        summaries = self.all_summaries = AllSummaries(self.model, store, metrics)
        self.summaries = summaries.of(TENANT)
        self.compressor = Compressor(self.model, self.engine, summaries, metrics)
        sealer = Sealer(StoredSecret(store, StoreCalls(metrics), "compaction", None), ())
        self.opener = Opener(self.model, summaries, sealer)
        gatherer = Gatherer(self.model, self.engine, summaries, self.compressor)
        self.prompter = Prompter(self.model, summaries, self.opener, gatherer, metrics)
        self.window = Window(self.model, self.prompter, raw_tokens=None)

    async def compress(self, token_ids: Sequence[int], **fields: Any) -> Summary:
        return (await self.compressed(token_ids, **fields)).summary

    async def compressed(self, token_ids: Sequence[int], report: Report | None = None, **fields: Any) -> Compressed:
        return await self.compressor.compress(Document(tenant=TENANT, token_ids=token_ids, **fields), report)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[EmbeddedStore]:
    opened = await EmbeddedStore.open(tmp_path / "store.sqlite3")
    yield opened
    await opened.close()


async def test_a_segment_is_computed_once_for_all_documents(store: EmbeddedStore) -> None:
    house = House(store)
    first = await house.compress([*range(8), *range(100, 104)])
    done = await house.compressed([*range(50, 54), *range(4, 8), *range(60, 64), *range(100, 104), 9])
    assert (done.cached_segments, done.cached_tokens) == (2, 8)
    assert house.engine.num_computed == 3 + 3
    assert done.summary.manifest.segments[1] == first.manifest.segments[1]
    assert done.summary.id not in done.summary.manifest.segments
    assert (await house.compress([*range(4, 8)])).id == first.manifest.segments[1], "a document of it alone has its key"


async def test_cached_is_uncached(store: EmbeddedStore, tmp_path: Path) -> None:
    house, ids = House(store), [*range(20), 3, 1]
    await house.compress(ids[4:8])
    await house.compress(ids[12:16])
    cached = await house.compress(ids)
    other = House(await EmbeddedStore.open(tmp_path / "other.sqlite3"))
    alone = await other.compress(ids)
    assert cached.id == alone.id
    assert cached.manifest.segments == alone.manifest.segments
    torch.testing.assert_close(
        await house.summaries.vectors(cached), await other.summaries.vectors(alone), rtol=0, atol=0
    )
    await other.store.close()


async def test_a_segment_that_comes_again_is_computed_once(store: EmbeddedStore) -> None:
    house, heard = House(store), list[Progress]()
    done = await house.compressed([1, 2, 3, 4] * 3 + [5], report=heard.append)
    assert house.engine.num_computed == 2
    assert len(set(done.summary.manifest.segments)) == 2
    assert done.summary.manifest.vectors == 7 == len(await house.summaries.vectors(done.summary))
    assert (heard[0].done, heard[-1].done, heard[-1].tokens, heard[-1].vectors) == (0, 4, 13, 7)
    await house.summaries.delete(done.summary.id)
    assert await house.summaries.segments.are_stored(done.summary.manifest.segments) == [False] * 4


async def test_a_shorter_segment_has_fewer_vectors(store: EmbeddedStore) -> None:
    house = House(store)
    assert [(await house.compress(range(n))).manifest.vectors for n in range(1, 6)] == [1, 1, 2, 2, 3]


async def test_an_append_goes_on_with_the_chain(store: EmbeddedStore) -> None:
    house = House(store)
    parent = await house.compress(range(8))
    appended = await house.compress(range(8, 14), parent=parent.id)
    whole = await house.compress(range(14))
    assert (appended.id, appended.manifest.vectors) == (whole.id, 7)
    assert house.engine.num_computed == 4
    await house.summaries.delete(parent.id)
    with pytest.raises(SummaryNotFound):
        await house.compress([1], parent=parent.id)


async def test_the_limit_is_of_tokens(store: EmbeddedStore) -> None:
    house = House(store, window=8, document_limit=40)
    assert house.model.max_document_tokens == 40
    await house.compress(range(40))
    with pytest.raises(TooLong, match="has 41 tokens; the limit is 40"):
        await house.compress(range(41))


@pytest.mark.parametrize("max_vectors", [1, 3, 5, 9, 10, 99])
async def test_thinned_vectors_are_the_most_important_in_text_order(store: EmbeddedStore, max_vectors: int) -> None:
    house = House(store)
    summary = await house.compress(range(20))
    plan = house.prompter.plan_tokens(CALL, (summary,), [7], max_vectors=max_vectors)
    prompt = await house.prompter.assemble(plan)
    assert prompt.soft_prompt is not None
    assert len(prompt.soft_prompt) == plan.num_vectors == min(max_vectors, 10)
    assert plan.thinned_vectors == 10 - plan.num_vectors
    whole = (await house.summaries.vectors(summary)).split(2)
    lengths = plan.shares[0].lengths
    # the last places rank first
    expected = torch.cat([rows[2 - length :] for rows, length in zip(whole, lengths, strict=True)])
    torch.testing.assert_close(prompt.soft_prompt, expected, rtol=0, atol=0)
    named = [
        key if length == 2 else f"{key}:{length}"
        for key, length in zip(summary.manifest.segments, lengths, strict=True)
        if length
    ]
    assert list(prompt.keys) == named
    assert prompt.key_lengths in ((), tuple(length for length in lengths if length))


async def test_fewer_vectors_of_what_had_to_be_compressed(store: EmbeddedStore) -> None:
    """A conversation that outgrew the window is read as so many vectors as are asked for."""
    house = House(store)
    plan = house.prompter.plan_tokens(CALL, (), [index * 7 % 999 for index in range(200)])
    fitted = house.window.fit(plan, Wish(max_tokens=8, max_vectors=5))
    assert (fitted.plan.num_vectors, fitted.plan.thinned_vectors) == (
        5,
        sum(house.prompter.counts(fitted.plan.sources[0])) - 5,
    )
    assert len((await house.prompter.assemble(fitted.plan)).soft_prompt) == 5
    everything = house.window.fit(plan, Wish(max_tokens=8, max_vectors=10_000)).plan
    assert everything == house.window.fit(plan, Wish(max_tokens=8)).plan


async def test_vectors_without_an_order_are_not_thinned(store: EmbeddedStore) -> None:
    house = House(store)
    plain = Prompter(served_model(), house.summaries, house.opener, house.prompter._gatherer, Metrics())
    with pytest.raises(InvalidRequest, match="no order of importance") as refused:
        plain.plan_tokens(CALL, (), [1], max_vectors=3)
    assert refused.value.param == "max_vectors"


async def test_a_summary_that_does_not_fit_is_thinned_not_refused(store: EmbeddedStore) -> None:
    house = House(store)
    summary = await house.compress(range(400))
    plan = house.prompter.plan_tokens(CALL, (summary,), [7] * 10)
    assert plan.room < 0
    fitted = house.prompter.fitted(plan, 8)
    assert (fitted.num_vectors, fitted.thinned_vectors) == (32, 168)
    assert fitted.room >= 8
    assert list(fitted.shares[0].lengths) == sorted(fitted.shares[0].lengths)
    prompt = await house.prompter.assemble(fitted)
    assert prompt.num_positions == 42
    assert house.prompter.fitted(house.prompter.plan_tokens(CALL, (summary,), [7] * 40), 8).num_vectors == 16
    with pytest.raises(TooLong):
        house.prompter.max_tokens(house.prompter.fitted(house.prompter.plan_tokens(CALL, (summary,), [7] * 64), 8), 8)


async def test_a_conversation_is_endless(store: EmbeddedStore) -> None:
    """Each turn computes what is new alone, reads at most half a window of vectors, and drops nothing for long."""
    house = House(store, window=128)
    for num_tokens in range(10, 600, 10):
        plan = house.prompter.plan_tokens(CALL, (), [index * 7 % 999 for index in range(num_tokens)])
        fitted = house.window.fit(plan, Wish(max_tokens=8))
        gathered = await house.prompter.gather(fitted.plan)
        compressed = sum(len(source) for source in fitted.plan.sources if isinstance(source, tuple))
        assert compressed + len(fitted.plan.token_ids) == num_tokens
        assert house.engine.num_computed == compressed // 4
        assert sum(len(each.vectors) for each in gathered) == fitted.plan.num_vectors <= 64
        assert fitted.plan.num_vectors + fitted.plan.thinned_vectors == compressed // 2
        assert fitted.plan.room >= 8
    assert fitted.plan.thinned_vectors > 0
    assert fitted.num_dropped == 4 * fitted.plan.shares[0].lengths.count(0)


@pytest.mark.parametrize("num_tokens", [65, 70, 100, 600])
@pytest.mark.parametrize("max_tokens", [1, 8, 30, 60, 62])
async def test_every_fit_fits(store: EmbeddedStore, num_tokens: int, max_tokens: int) -> None:
    house = House(store)
    summary = await house.compress(range(200))
    for sources in ((), (summary,)):
        plan = house.prompter.plan_tokens(CALL, sources, [5] * num_tokens)
        fitted = house.window.fit(plan, Wish(max_tokens=max_tokens))
        assert fitted.plan.room >= fitted.max_tokens == max_tokens
        assert 0 < fitted.plan.num_vectors <= 32
        assert len(fitted.plan.token_ids) >= 1


async def test_a_million_tokens_plan_and_assemble(store: EmbeddedStore) -> None:
    house = House(store, window=8192, length=512, vectors=64)
    ids = [index * 7919 % 997 for index in range(1_000_000)]
    summary = await house.compress(ids)
    assert summary.manifest.vectors == 1953 * 64 + 8
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    plan = house.prompter.fitted(house.prompter.plan_tokens(CALL, (summary,), [7] * 20), 100)
    prompt = await house.prompter.assemble(plan)
    fitted = house.window.fit(house.prompter.plan_tokens(CALL, (), ids), Wish(max_tokens=100))
    assert prompt.num_positions == 4096 + 20
    assert fitted.plan.room >= 100
    assert fitted.num_dropped == 0
    assert time.monotonic() - started < 30
    record = encode_segment(SegmentSummary(torch.zeros(64, WIDTH), torch.arange(64)), fingerprint="f" * 64)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 2 * 1954 * len(record) + 2**27
