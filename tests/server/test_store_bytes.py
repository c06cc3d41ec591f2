"""A store with a budget: what is used stays, what nobody asked for goes, what is to be kept for ever is kept."""

import httpx

from tests.server.conftest import Serve

TEXT = "The keeper wrote one line a day: wind from the north, eleven ships, no fog. "


async def figure(client: httpx.AsyncClient, name: str) -> float:
    lines = (await client.get("/metrics")).text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"autocompressor_{name} "))


async def compressed(client: httpx.AsyncClient, number: int, ttl_seconds: int | None = 600) -> str:
    body = {"text": f"Day {number}. " + TEXT, "ttl_seconds": ttl_seconds}
    answer = await client.post("/compress", json=body)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


async def test_whole_documents_that_expire_go_the_least_recently_used_first(serve: Serve) -> None:
    async with serve() as client:
        endless = await compressed(client, 0, None)
        size = await figure(client, "store_kept_bytes")
    async with serve(store_bytes=int(4.5 * size)) as client:
        first, second, third = [await compressed(client, number) for number in (1, 2, 3)]
        asked = {"summary_ids": [first], "prompt": "Who?", "max_tokens": 1}
        assert (await client.post("/generate", json=asked)).status_code == 200
        assert await figure(client, "store_evictions_total") == 0
        fourth = await compressed(client, 4)
        found = [await client.get(f"/summaries/{each}") for each in (endless, first, second, third, fourth)]
        assert [answer.status_code for answer in found] == [200, 200, 404, 200, 200]
        assert await figure(client, "store_evictions_total") == 1
        assert 3 * size < await figure(client, "store_kept_bytes") <= 4.5 * size
        again = await client.post("/compress", json={"text": "Day 2. " + TEXT, "ttl_seconds": 600})
        assert (again.status_code, again.json()["id"]) == (201, second)


async def test_nothing_goes_that_does_not_expire(serve: Serve) -> None:
    async with serve() as client:
        endless = [await compressed(client, number, None) for number in range(2)]
        size = await figure(client, "store_kept_bytes") / 2
    async with serve(store_bytes=int(2.5 * size)) as client:
        renewed = await client.post(
            "/compress", json={"text": "Day 0. " + TEXT, "metadata": {"a": "b"}, "ttl_seconds": 9}
        )
        assert renewed.status_code == 200
        full = await client.post("/compress", json={"text": "Day 9. " + TEXT, "ttl_seconds": 600})
        assert (full.status_code, full.json()["error"]["code"]) == (507, "store_full")
        assert [(await client.get(f"/summaries/{each}")).status_code for each in endless] == [200, 200]
