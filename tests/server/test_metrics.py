"""The metrics move with what happens, and only with that."""

from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry

from server.core.tenant import Tenant
from server.metrics import STORE_FAULTS, STORE_OPERATIONS, Metrics
from server.store import Entry, EntryChanged, MissingReferences, StillReferenced, StoreUnavailable
from server.store.metered import MeteredStore, tier_of
from tests.server.conftest import Serve

DOCUMENT = "The keeper wrote one line a day: wind from the north, eleven ships, no fog. " * 6


def value(client: httpx.AsyncClient, name: str, **labels: str) -> float:
    registry: CollectorRegistry = client.core.metrics.registry  # type: ignore[attr-defined]
    return registry.get_sample_value(f"autocompressor_{name}", labels) or 0.0


async def compressed(client: httpx.AsyncClient, text: str = DOCUMENT) -> dict[str, Any]:
    made: dict[str, Any] = (await client.post("/compress", json={"text": text})).raise_for_status().json()
    return made


async def test_tokens_of_documents_are_computed_once_and_cached_then(client: httpx.AsyncClient) -> None:
    made = await compressed(client)
    assert value(client, "compress_tokens_total", source="computed") == made["tokens"]
    assert value(client, "compress_tokens_total", source="cached") == 0
    await compressed(client)
    assert value(client, "compress_tokens_total", source="computed") == made["tokens"]
    assert value(client, "compress_tokens_total", source="cached") == made["tokens"]


async def test_prompts_tokens_batches_and_the_prefix_cache(client: httpx.AsyncClient) -> None:
    made = await compressed(client)
    asked = {"summary_ids": [made["id"]], "prompt": "Who?", "max_tokens": 5, "ignore_eos": True}
    usage = (await client.post("/generate", json=asked)).json()["usage"]
    assert value(client, "prompt_tokens_total") == usage["prompt_tokens"] > 0
    assert value(client, "generated_tokens_total") == 5
    assert value(client, "prefill_seconds_count") == 1
    assert value(client, "batch_size_count") == value(client, "step_tokens_count") > 5
    assert value(client, "prefix_cache_queries_total", outcome="miss") == 1
    assert value(client, "prefix_cache_positions_total", outcome="miss") == made["vectors"]
    assert value(client, "prefix_cache_bytes") > 0
    await client.post("/generate", json=asked)
    assert value(client, "prefix_cache_queries_total", outcome="hit") == 1
    assert value(client, "prefix_cache_positions_total", outcome="hit") == made["vectors"]
    assert value(client, "prefix_cache_positions_total", outcome="miss") == made["vectors"]


async def test_records_in_and_out_of_the_store(client: httpx.AsyncClient) -> None:
    made = await compressed(client)
    counted = {"operation": "put", "tier": "sqlite", "outcome": "ok"}
    assert value(client, "store_operations_total", **counted) == made["segments"] + 1
    assert value(client, "store_value_bytes_count") == made["segments"] + 1
    assert value(client, "store_value_bytes_sum") == value(client, "store_bytes_total", direction="written") > 1000
    assert value(client, "store_bytes_total", direction="read") == 0
    hits = {"operation": "get", "tier": "sqlite", "outcome": "hit"}
    before, misses = value(client, "store_operations_total", **hits), {**hits, "outcome": "miss"}
    assert (before, value(client, "store_operations_total", **misses)) != (before, 0)
    assert (await client.get(f"/summaries/{made['id']}")).status_code == 200
    assert value(client, "store_operations_total", **hits) == before + 1
    assert value(client, "store_bytes_total", direction="read") > 0


async def test_to_look_a_document_up_in_a_file_is_one_call(client: httpx.AsyncClient) -> None:
    """What its manifest names is there: the file sees to that itself."""
    await compressed(client)
    outcomes = [("get", "hit"), ("get", "miss"), ("exist", "hit"), ("exist", "miss")]
    labels = [{"operation": operation, "tier": "sqlite", "outcome": outcome} for operation, outcome in outcomes]
    before = [value(client, "store_operations_total", **each) for each in labels]
    await compressed(client)
    after = [value(client, "store_operations_total", **each) for each in labels]
    assert [late - early for late, early in zip(after, before, strict=True)] == [1, 0, 0, 0]


async def test_a_store_out_of_reach_is_counted_as_such(serve: Serve) -> None:
    async with serve(store="redis://127.0.0.1:1/0") as client:
        assert (await client.get("/summaries")).status_code == 503
        assert value(client, "store_errors_total", operation="list", reason="unavailable") == 1
        assert value(client, "store_operations_total", operation="list", tier="redis", outcome="error") == 1


async def test_damaged_records_are_counted(client: httpx.AsyncClient) -> None:
    made = await compressed(client)
    stored = await client.services.summaries.of(Tenant()).get(made["id"], param="id")  # type: ignore[attr-defined]
    store = client.core.store.space(Tenant().account)  # type: ignore[attr-defined]
    key = f"segment:{stored.manifest.segments[1]}"
    await store.put_many([Entry(key, b"junk")])
    assert (await client.post("/generate", json={"summary_ids": [made["id"]], "prompt": "a"})).status_code == 404
    assert value(client, "store_damaged_records_total") == 1
    assert value(client, "store_errors_total", operation="decode", reason="damaged") == 1
    await compressed(client, DOCUMENT + "and more")  # which is computed in its place
    assert value(client, "store_damaged_records_total") == 2
    assert value(client, "store_lost_summaries_total") == 0


async def test_a_prompt_is_read_raw_or_compressed_and_may_lose_its_beginning(client: httpx.AsyncClient) -> None:
    body: dict[str, Any] = {"max_tokens": 2, "prompt": "Who counts ships?"}
    await client.post("/v1/completions", json=body)
    assert value(client, "context_gate_total", decision="raw") == 1
    assert value(client, "context_gate_total", decision="compressed") == 0
    await client.post("/v1/completions", json=body | {"prompt": DOCUMENT * 4})
    assert value(client, "context_gate_total", decision="compressed") == 1
    assert value(client, "fallbacks_total", reason="dropped") == 0
    await client.post("/v1/completions", json=body | {"prompt": DOCUMENT * 40})
    assert value(client, "fallbacks_total", reason="dropped") == 1


async def test_the_process_and_its_limit(client: httpx.AsyncClient) -> None:
    told = (await client.get("/metrics")).text
    names = {line.split("{")[0].split(" ")[0] for line in told.splitlines() if not line.startswith("#")}
    assert {"process_resident_memory_bytes", "process_open_fds", "python_info", "python_gc_collections_total"} <= names
    registry: CollectorRegistry = client.core.metrics.registry  # type: ignore[attr-defined]
    resident = registry.get_sample_value("process_resident_memory_bytes")
    assert resident is not None
    assert resident < value(client, "memory_limit_bytes") < 2**50


def test_what_should_not_happen_is_there_from_the_start() -> None:
    """A counter that appears with its first fault shows no rise, and no alert."""
    told = {
        (sample.labels["operation"], sample.labels["reason"]): sample.value
        for family in Metrics().registry.collect()
        for sample in family.samples
        if sample.name == "autocompressor_store_errors_total"
    }
    assert told == {(operation, reason): 0.0 for operation in STORE_OPERATIONS for reason in STORE_FAULTS}


def test_metrics_of_two_servers_are_apart() -> None:
    one, other = Metrics(), Metrics()
    one.generated_tokens.inc()
    assert other.registry.get_sample_value("autocompressor_generated_tokens_total") == 0.0


@pytest.mark.parametrize("error", [EntryChanged("a"), MissingReferences(["a"]), StillReferenced("a")])
async def test_an_answer_of_no_is_refused_and_no_error(error: Exception) -> None:
    assert await outcomes(error) == {"refused": 1.0}
    assert await outcomes(StoreUnavailable("gone")) == {"error": 1.0}


async def outcomes(error: Exception) -> dict[str, float]:
    """Of a put that raises it."""

    class Failing:
        async def put_many(self, *_: Any, **__: Any) -> None:
            raise error

    metrics = Metrics()
    store = MeteredStore(Failing(), metrics, tier=tier_of("rediss://host"))  # type: ignore[arg-type]
    with pytest.raises(type(error)):
        await store.put_many([Entry("a", b"b")])
    return {
        sample.labels["outcome"]: sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == "autocompressor_store_operations_total"
    }
