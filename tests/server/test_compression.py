"""The compressor over a counting engine and a real store: what is computed, and what never again."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from model.compressors import SegmentSummary
from model.config import SummaryConfig
from model.positions import Positions
from server.core.documents.compression import Compressor
from server.core.documents.document import Compressed, Document
from server.core.documents.progress import Report
from server.core.documents.summaries import AllSummaries
from server.core.prompts.plan import Call
from server.core.served_model import ServedModel
from server.core.tenant import Tenant
from server.engine.protocol import Meter, Prompt, SamplingParams, TokenEvent, TokenLogprobs
from server.errors import EngineFailed, InvalidRequest, Overloaded, SummaryNotFound, TooLong
from server.metrics import Metrics
from server.store import EmbeddedStore, Entry

LENGTH, WIDTH = 2, 3
TENANT = Tenant()
CALL = Call(TENANT)


class CountingEngine:
    """Makes vectors that depend on the segment and on all before it, counts them, and fails when told to."""

    def __init__(self) -> None:
        self.num_computed = 0
        self.fails_after: int | None = None
        self.is_ready, self.is_full = True, False
        self.delay_seconds = 0.0
        self.refuses_the_impatient = False

    async def compress(
        self,
        segments: Sequence[Sequence[int]],
        *,
        soft_prompt: Tensor | None = None,
        keys: Sequence[str] = (),
        meter: Meter | None = None,
        waits: bool = False,
    ) -> AsyncGenerator[SegmentSummary]:
        if self.refuses_the_impatient and not waits:
            await asyncio.sleep(self.delay_seconds)
            raise Overloaded("the line is full")
        before = 0.0 if soft_prompt is None else float(soft_prompt.sum())
        for segment in segments:
            if self.num_computed == self.fails_after:
                raise EngineFailed("told to")
            await asyncio.sleep(self.delay_seconds)
            self.num_computed += 1
            vectors = torch.full((LENGTH, WIDTH), (sum(segment) + before) % 97)
            before += float(vectors.sum())
            yield SegmentSummary(vectors)

    def embed(self, token_ids: Sequence[int]) -> Tensor:
        raise NotImplementedError

    def generate(
        self, prompt: Prompt, params: SamplingParams, *, meter: Meter | None = None, waits: bool = False
    ) -> AsyncGenerator[TokenEvent]:
        raise NotImplementedError

    async def score(
        self,
        prompt: Prompt,
        continuations: Sequence[Sequence[int]],
        *,
        num_logprobs: int = 0,
        meter: Meter | None = None,
        waits: bool = False,
    ) -> list[TokenLogprobs]:
        raise NotImplementedError


def served_model(*, accumulate_summary: bool = True, max_positions: int = 64) -> ServedModel:
    return ServedModel(
        name="fake",
        fingerprint="f" * 64,
        config=SummaryConfig(LENGTH, accumulate_summary, segment_length=4),
        positions=Positions(max_positions, counts_soft_prompt=True),
        max_sequence_tokens=max_positions,
        vocabulary_size=1000,
        hidden_size=WIDTH,
        dtype="float32",
        device="cpu",
        created=0,
        tokenizer=None,
    )


class House:
    """A compressor and its parts."""

    def __init__(self, store: EmbeddedStore, **model: Any) -> None:
        self.engine, self.store = CountingEngine(), store.space(TENANT.account)
        summaries = AllSummaries(served_model(**model), store, Metrics())
        self.summaries = summaries.of(TENANT)
        self.compressor = Compressor(served_model(**model), self.engine, summaries, Metrics())

    async def compress(self, token_ids: Sequence[int], report: Report | None = None, **fields: Any) -> Compressed:
        return await self.compressor.compress(Document(tenant=TENANT, token_ids=token_ids, **fields), report)

    async def compress_text(self, text: str, **fields: Any) -> Compressed:
        return await self.compressor.compress(Document(tenant=TENANT, text=text, **fields))


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[EmbeddedStore]:
    opened = await EmbeddedStore.open(tmp_path / "store.sqlite3")
    yield opened
    await opened.close()


async def test_who_waits_is_not_refused_for_one_who_does_not(store: EmbeddedStore) -> None:
    """A list or a job that joins a plain call on the same document outlives that call's refusal."""
    house = House(store)
    house.engine.refuses_the_impatient, house.engine.delay_seconds = True, 0.01
    plain = asyncio.create_task(house.compress(range(8)))
    await asyncio.sleep(0)
    waiting = asyncio.create_task(house.compress(range(8), waits=True))
    with pytest.raises(Overloaded):
        await plain
    assert (await waiting).is_new
    assert house.engine.num_computed == 2


async def test_an_interrupted_compression_goes_on_where_it_stopped(store: EmbeddedStore, tmp_path: Path) -> None:
    house = House(store)
    house.engine.fails_after = 3
    with pytest.raises(EngineFailed):
        await house.compress(range(20))
    house.engine.fails_after = None
    done = await house.compress(range(20))
    assert house.engine.num_computed == 5
    assert (done.is_new, done.cached_segments) == (True, 3)
    unbroken = House(await EmbeddedStore.open(tmp_path / "unbroken.sqlite3"))
    whole = await unbroken.compress(range(20))
    assert whole.summary.id == done.summary.id
    torch.testing.assert_close(
        await unbroken.summaries.vectors(whole.summary), await house.summaries.vectors(done.summary)
    )
    await unbroken.store.close()


async def test_a_client_that_leaves_keeps_what_was_computed(store: EmbeddedStore) -> None:
    house = House(store)
    house.engine.delay_seconds = 0.02
    task = asyncio.create_task(house.compress(range(40)))
    while house.engine.num_computed < 3:
        await asyncio.sleep(0.005)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    before = house.engine.num_computed
    done = await house.compress(range(40))
    assert done.cached_segments >= 2
    assert house.engine.num_computed - before == 10 - done.cached_segments


async def test_one_document_from_several_clients_is_computed_once(store: EmbeddedStore) -> None:
    house = House(store)
    house.engine.delay_seconds = 0.01
    asked = [{"ttl_seconds": 60.0}, {"metadata": {"of": "the second"}}, {"ttl_seconds": 600.0}]
    together = await asyncio.gather(*(house.compress(range(20), **one) for one in asked))
    assert house.engine.num_computed == 5
    assert {done.summary.id for done in together} == {together[0].summary.id}
    assert sorted(done.is_new for done in together) == [False, False, True]
    assert sorted(done.cached_segments for done in together) == [0, 5, 5]
    found = await house.summaries.find(together[0].summary.id)
    assert found is not None
    summary, seconds_left = found
    assert (summary.manifest.metadata, seconds_left) == ({"of": "the second"}, None)


async def test_a_document_goes_on_for_those_who_stay(store: EmbeddedStore) -> None:
    house = House(store)
    house.engine.delay_seconds = 0.01
    first, second = (asyncio.create_task(house.compress(range(40))) for _ in range(2))
    while house.engine.num_computed < 3:
        await asyncio.sleep(0.005)
    first.cancel()
    done = await second
    assert house.engine.num_computed == 10
    assert (await house.summaries.vectors(done.summary)).shape == (10 * LENGTH, WIDTH)


async def test_a_failure_is_told_to_everyone_who_waits_and_the_next_begins_anew(store: EmbeddedStore) -> None:
    house = House(store)
    house.engine.delay_seconds, house.engine.fails_after = 0.01, 2
    outcomes = await asyncio.gather(*(house.compress(range(20)) for _ in range(3)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [EngineFailed] * 3
    house.engine.fails_after = None
    assert (await house.compress(range(20))).cached_segments == 2


async def test_a_stored_text_is_not_tokenised_again(store: EmbeddedStore) -> None:
    house = House(store)
    tokenised = []

    def ids(text: str, **_: Any) -> list[int]:
        tokenised.append(text)
        return list(text.encode())

    object.__setattr__(house.compressor._model, "tokeniser", SimpleNamespace(ids=ids, num_ids=256))
    first = await house.compress_text("a long text")
    again = await house.compress_text("a long text", metadata={"a": "1"})
    assert tokenised == ["a long text"]
    assert (again.summary.id, again.is_new, again.cached_segments) == (first.summary.id, False, 3)
    assert again.summary.manifest.metadata == {"a": "1"}
    await house.summaries.delete(first.summary.id)
    assert (await house.compress_text("a long text")).is_new
    other = await house.compress_text("a long text", parent=first.summary.id)
    assert other.summary.id != first.summary.id
    assert len(tokenised) == 3


async def test_documents_share_their_prefix(store: EmbeddedStore) -> None:
    house = House(store)
    await house.compress(range(12))
    done = await house.compress([*range(8), 500, 501, 502, 503, 504])
    assert done.cached_segments == 2
    assert house.engine.num_computed == 5


async def test_equal_segments_at_other_places_are_not_equal(store: EmbeddedStore) -> None:
    house = House(store)
    done = await house.compress([1, 2, 3, 4] * 3)
    assert len(set(done.summary.manifest.segments)) == 3


async def test_a_damaged_segment_is_computed_anew(store: EmbeddedStore) -> None:
    house = House(store)
    first = await house.compress(range(12))
    expected = await house.summaries.vectors(first.summary)
    await house.store.delete(f"manifest:{first.summary.id}")
    first = await house.compress(range(12))
    key = f"segment:{first.summary.manifest.segments[1]}"
    (value,) = await house.store.get_many([key])
    assert value is not None
    await house.store.put_many([Entry(key, value[:-1] + b"\x00")])
    with pytest.raises(SummaryNotFound, match="damaged"):
        await house.summaries.vectors(first.summary)
    done = await house.compress(range(16))
    assert done.cached_segments == 1
    torch.testing.assert_close((await house.summaries.vectors(done.summary))[: 3 * LENGTH], expected)


@pytest.mark.parametrize("kind", ["segment", "text"])
async def test_a_document_of_which_a_record_was_found_damaged_is_made_again(store: EmbeddedStore, kind: str) -> None:
    """It was said to be there for as long as it was not deleted, and could not be read."""
    house = House(store)
    first = await house.compress(range(12), keep_text=True)
    (key, *_), segments = first.summary.manifest.segments, house.summaries.segments
    expected = await house.summaries.vectors(first.summary)
    await house.store.put_many([Entry(f"{kind}:{key}", b"junk")])
    with pytest.raises(SummaryNotFound, match="damaged"):
        await (house.summaries.vectors(first.summary) if kind == "segment" else segments.texts([key]))
    again = await house.compress(range(12), keep_text=True)
    assert (again.summary.id, again.is_new) == (first.summary.id, True)
    torch.testing.assert_close(await house.summaries.vectors(again.summary), expected)
    assert await segments.texts([key]) == [(0, 1, 2, 3)]
    assert not (await house.compress(range(12), keep_text=True)).is_new


async def test_a_damaged_manifest_is_written_anew(store: EmbeddedStore) -> None:
    house = House(store)
    first = await house.compress(range(12))
    await house.store.put_many([Entry(f"manifest:{first.summary.id}", b"{}")])
    with pytest.raises(SummaryNotFound, match="damaged"):
        await house.summaries.get(first.summary.id, param="id")
    done = await house.compress(range(12))
    assert (done.summary.id, done.is_new) == (first.summary.id, True)
    assert (await house.summaries.get(first.summary.id, param="id")).tokens == 12


async def test_segments_deleted_while_a_document_is_finished_are_computed_again(store: EmbeddedStore) -> None:
    """A manifest never names segments that are gone, though another client deletes a document that shared them."""
    house = House(store)
    other = await house.compress(range(8))
    house.engine.delay_seconds = 0.02
    task = asyncio.create_task(house.compress(range(16)))
    while house.engine.num_computed < 3:
        await asyncio.sleep(0.005)
    await house.summaries.delete(other.summary.id)
    done = await task
    assert (await house.summaries.vectors(done.summary)).shape == (4 * LENGTH, WIDTH)
    assert house.engine.num_computed == 2 + 2 + 4


async def test_rmt_conditions_on_the_last_segment_alone(store: EmbeddedStore) -> None:
    house = House(store, accumulate_summary=False)
    done = await house.compress(range(12))
    assert done.summary.manifest.vectors == LENGTH
    assert (await house.summaries.vectors(done.summary)).shape == (LENGTH, WIDTH)
    appended = await house.compress(range(12, 20), parent=done.summary.id)
    whole = await house.compress(range(20))
    assert appended.summary.id == whole.summary.id


async def test_what_can_never_fit_is_refused_before_any_work(store: EmbeddedStore) -> None:
    house = House(store, max_positions=16)
    with pytest.raises(TooLong, match=r"28 tokens in 7 segments.* take 6 segments, 24 tokens"):
        await house.compress(range(28))
    assert house.engine.num_computed == 0
    await house.compress(range(24))


async def test_an_append_to_what_is_gone_is_refused(store: EmbeddedStore) -> None:
    house = House(store)
    parent = await house.compress(range(8))
    await house.summaries.delete(parent.summary.id)
    with pytest.raises(SummaryNotFound):
        await house.compress([1], parent=parent.summary.id)


async def test_metadata_given_again_is_added_and_not_given_keeps(store: EmbeddedStore) -> None:
    house = House(store)
    await house.compress(range(8), metadata={"a": "1"})
    kept = await house.compress(range(8))
    more = await house.compress(range(8), metadata={"b": "2"})
    other = await house.compress(range(8), metadata={"a": "3"})
    assert kept.summary.manifest.metadata == {"a": "1"}
    assert more.summary.manifest.metadata == {"a": "1", "b": "2"}
    assert other.summary.manifest.metadata == {"a": "3", "b": "2"}
    with pytest.raises(InvalidRequest, match="metadata has 17 entries, and the limit is 16"):
        await house.compress(range(8), metadata={str(number): "" for number in range(15)})
    stored = await house.summaries.get(kept.summary.id, param="id")
    assert stored.manifest.metadata == other.summary.manifest.metadata
    assert house.engine.num_computed == 2


async def test_a_call_that_does_not_renew_leaves_what_is_stored(store: EmbeddedStore) -> None:
    house = House(store)
    first = await house.compress(range(8), ttl_seconds=60.0, metadata={"a": "1"})
    again = await house.compress(range(8), metadata={"a": "2"}, renews=False)
    assert (again.summary.id, again.is_new) == (first.summary.id, False)
    found = await house.summaries.find(first.summary.id)
    assert found is not None
    assert found[0].manifest.metadata == {"a": "1"}
    assert found[1] is not None


async def test_of_a_text_far_too_long_the_beginning_is_enough(store: EmbeddedStore) -> None:
    house, tokenised = House(store), []

    def ids(text: str, **_: Any) -> list[int]:
        tokenised.append(len(text))
        return list(text.encode())

    model = house.compressor._model
    object.__setattr__(model, "tokeniser", SimpleNamespace(ids=ids, num_ids=256))
    most = model.max_document_tokens
    assert most is not None
    await house.compress_text("a" * most)
    for length in (most + 1, 17 * most):
        with pytest.raises(TooLong):
            await house.compress_text("a" * length)
    assert tokenised == [most, most + 1, 16 * most]


@pytest.mark.parametrize("max_positions", [64, 61])
async def test_a_document_of_most_tokens_is_taken_and_one_more_is_not(store: EmbeddedStore, max_positions: int) -> None:
    house = House(store, max_positions=max_positions)
    most = house.compressor._model.max_document_tokens
    assert most is not None
    await house.compressor.require_possible(Document(tenant=TENANT), range(most))
    with pytest.raises(TooLong):
        await house.compressor.require_possible(Document(tenant=TENANT), range(most + 1))
    assert served_model(accumulate_summary=False).max_document_tokens is None


async def test_the_observed_duration_includes_tokenising(store: EmbeddedStore) -> None:
    """`compress_duration_seconds` was observed without it, against its help."""
    house = House(store)

    def ids(text: str, **_: Any) -> list[int]:
        time.sleep(0.2)
        return list(text.encode())

    object.__setattr__(house.compressor._model, "tokeniser", SimpleNamespace(ids=ids, num_ids=256))
    done = await house.compress_text("a text")
    registry = house.compressor._metrics.registry
    observed = registry.get_sample_value("autocompressor_compress_duration_seconds_sum")
    assert observed == pytest.approx(done.total_seconds)
    assert done.total_seconds >= done.tokenize_seconds >= 0.2
    assert registry.get_sample_value("autocompressor_compress_duration_seconds_count") == 1


async def test_a_document_that_takes_longer_than_its_segments_live_is_finished(
    store: EmbeddedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of over an hour never was: its first segments expired before the manifest, again and again."""
    monkeypatch.setattr("server.core.documents.work.UNFINISHED_SECONDS", 0.4)
    house = House(store)
    house.engine.delay_seconds = 0.1
    done = await house.compress(range(40))
    assert (done.is_new, house.engine.num_computed) == (True, 10)
    assert (await house.summaries.vectors(done.summary)).shape == (10 * LENGTH, WIDTH)


async def test_replicas_lose_none_of_each_others_metadata(store: EmbeddedStore, tmp_path: Path) -> None:
    """Each read the manifest, added its own and wrote all of it: of two, one was lost."""
    other = await EmbeddedStore.open(tmp_path / "store.sqlite3")
    houses = [House(store), House(other)]
    for round_number in range(3):  # of a document that is stored, and of one that both are about to compute
        tokens = range(round_number, round_number + 8)
        given = [{str(number): ""} for number in range(12)]
        asked = [houses[number % 2].compress(tokens, metadata=each) for number, each in enumerate(given)]
        done = await asyncio.gather(*asked)
        stored = await houses[0].summaries.get(done[0].summary.id, param="id")
        assert stored.manifest.metadata == {str(number): "" for number in range(12)}
    await other.close()
