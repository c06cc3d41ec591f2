"""Calls of OpenAI's endpoints that have to succeed."""

import json
from typing import Any

import httpx

TEXT = "The keeper wrote one line a day: wind from the north"
ABSENT = "0" * 40
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 10}
ASK = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Who counts ships?"}]


async def complete(client: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    response = await client.post("/v1/completions", json={**GREEDY, "prompt": TEXT, **fields})
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


async def chat(client: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    response = await client.post("/v1/chat/completions", json={**GREEDY, "messages": ASK, **fields})
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


async def streamed(client: httpx.AsyncClient, path: str, **fields: Any) -> list[dict[str, Any]]:
    response = await client.post(path, json={**GREEDY, "stream": True, **fields})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    *events, end, rest = response.text.split("\n\n")
    assert (end, rest) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in events]


async def compress(client: httpx.AsyncClient, text: str) -> str:
    summary_id: str = (await client.post("/compress", json={"text": text})).json()["id"]
    return summary_id


def services(client: httpx.AsyncClient) -> Any:
    return client.services  # type: ignore[attr-defined]
