"""What answers while the models are being loaded, until the application is there."""

import httpx
import pytest
from fastapi import FastAPI
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from server.http.starting import Starting
from tests.http.listening import listening


async def test_probes_and_the_page_are_answered_and_all_else_is_told_to_come_again() -> None:
    starting = Starting(hosts=None, origins=())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(starting), base_url="http://localhost") as client:
        for path in ("/livez", "/", "/docs", "/static/main.js"):
            assert (await client.get(path)).status_code == 200, path
        assert (await client.head("/livez")).status_code == 200
        for path in ("/readyz", "/health"):
            answer = await client.get(path)
            assert (answer.status_code, answer.json()["checks"]) == (503, {"engine": "loading"})
        for answer in (await client.get("/info"), await client.post("/compress", json={"text": "a"})):
            assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
            error = answer.json()["error"]
            assert (error["code"], error["message"]) == ("not_ready", "the model is being loaded")


async def test_a_web_socket_is_refused_likewise() -> None:
    async with listening(Starting(hosts=None, origins=()), ws="websockets-sansio") as port:
        with pytest.raises(InvalidStatus) as refused:
            async with connect(f"ws://127.0.0.1:{port}/v1/responses"):
                pass
    assert refused.value.response.status_code == 503
    assert refused.value.response.headers["Retry-After"] == "5"


async def test_the_application_answers_once_it_is_there() -> None:
    starting, app = Starting(hosts=None, origins=()), FastAPI()
    app.add_api_route("/info", lambda: "here")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(starting), base_url="http://localhost") as client:
        assert (await client.get("/info")).status_code == 503
        starting.give_way(app)
        assert (await client.get("/info")).json() == "here"


async def test_a_page_of_another_name_is_refused_meanwhile_too() -> None:
    starting = Starting(hosts=["localhost"], origins=())
    for base_url, status in (("http://localhost", 200), ("http://rebound.example", 403)):
        async with httpx.AsyncClient(transport=httpx.ASGITransport(starting), base_url=base_url) as client:
            assert (await client.get("/")).status_code == status
            assert (await client.get("/livez")).status_code == 200  # probes come by any name
