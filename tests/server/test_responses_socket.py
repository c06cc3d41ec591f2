"""Responses over a WebSocket, on a real one."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from server.http.app import create_app
from server.http.connection import Connection
from server.limits import MAX_CONTAINERS
from tests.http.listening import eventually, listening
from tests.server.conftest import Serve
from tests.server.test_responses import KEYS, model_of

Connect = Callable[..., Awaitable[ClientConnection]]


@pytest.fixture
async def address(serve: Serve) -> AsyncIterator[str]:
    """A server behind a socket of this machine."""
    async with serve(allowed_hosts="localhost") as client:
        app = create_app(client.core)  # type: ignore[attr-defined]
        async with listening(app, http=Connection, ws="websockets-sansio") as port:
            yield f"localhost:{port}"


async def turn(socket: ClientConnection, **body: Any) -> list[dict[str, Any]]:
    """The frames that answer one."""
    await socket.send(json.dumps({"type": "response.create", "temperature": 0, "max_output_tokens": 16} | body))
    frames = []
    while True:
        frames.append(json.loads(await asyncio.wait_for(socket.recv(), 60)))
        if frames[-1]["type"] in ("response.completed", "response.incomplete", "response.failed", "error"):
            return frames


async def name_of(address: str) -> str:
    async with httpx.AsyncClient(base_url=f"http://{address}") as client:
        return await model_of(client)


async def test_turns_of_one_connection_are_the_streams_of_http(address: str) -> None:
    model = await name_of(address)
    body = {"model": model, "input": "A keeper", "temperature": 0, "max_output_tokens": 16, "stream": True}
    async with httpx.AsyncClient(base_url=f"http://{address}") as client:
        streamed = (await client.post("/v1/responses", json=body)).text
    kinds = [line.removeprefix("event: ") for line in streamed.splitlines() if line.startswith("event: ")]
    async with connect(f"ws://{address}/v1/responses") as socket:
        for _ in range(2):
            frames = await turn(socket, model=model, input="A keeper", store=False)
            assert [frame["type"] for frame in frames] == kinds
            assert [frame["sequence_number"] for frame in frames] == list(range(len(frames)))
            assert set(frames[-1]["response"]) >= KEYS


async def test_the_last_response_of_a_connection_can_be_gone_on_from_there_alone(address: str) -> None:
    model = await name_of(address)
    async with connect(f"ws://{address}/responses") as socket:
        first = (await turn(socket, model=model, input="A keeper", store=False))[-1]["response"]
        second = (await turn(socket, model=model, input="Who?", store=False, previous_response_id=first["id"]))[-1]
        assert second["response"]["usage"]["input_tokens"] > first["usage"]["input_tokens"]
        last = second["response"]["id"]
    async with connect(f"ws://{address}/responses") as socket:
        (refused,) = await turn(socket, model=model, input="Who?", previous_response_id=last)
        assert refused["status"] == 400
        assert refused["error"]["code"] == "previous_response_not_found"
        fresh = await turn(socket, model=model, input="A keeper", store=False)
        assert fresh[-1]["type"] in ("response.completed", "response.incomplete")


async def test_what_goes_on_from_there_and_is_stored_is_whole(address: str) -> None:
    model = await name_of(address)
    async with connect(f"ws://{address}/responses") as socket:
        first = (await turn(socket, model=model, input="A keeper", store=False))[-1]["response"]
        second = (await turn(socket, model=model, input="Who?", previous_response_id=first["id"]))[-1]["response"]
    async with connect(f"ws://{address}/responses") as socket:
        third = (await turn(socket, model=model, input="Where?", previous_response_id=second["id"]))[-1]["response"]
    assert third["usage"]["input_tokens"] > second["usage"]["input_tokens"]


async def test_a_failed_turn_forgets_what_it_went_on_from(address: str) -> None:
    model = await name_of(address)
    async with connect(f"ws://{address}/responses") as socket:
        first = (await turn(socket, model=model, input="A keeper", store=False))[-1]["response"]
        output = {"type": "function_call_output", "call_id": "none", "output": "nothing"}
        named = {"model": model, "store": False, "previous_response_id": first["id"]}
        (failed,) = await turn(socket, input=[output], **named)
        assert failed["type"] == "error"
        (refused,) = await turn(socket, input="Who?", **named)
        assert refused["error"]["code"] == "previous_response_not_found"


@pytest.mark.parametrize(
    ("frame", "param"),
    [
        ("{", None),
        ("[]", "type"),
        ('{"type": "response.cancel"}', "type"),
        ('{"type": "response.create", "model": "m", "input": "a", "stream": true}', "stream"),
        ('{"type": "response.create", "input": "a"}', "model"),
        ('{"type": "response.create", "model": "m", "input": 3}', "input"),
        ('{"type": "response.create", "model": "none", "input": "a"}', "model"),
    ],
)
async def test_a_frame_that_is_no_request_is_told_and_the_connection_stays(
    address: str, frame: str, param: str | None
) -> None:
    model = await name_of(address)
    async with connect(f"ws://{address}/responses") as socket:
        await socket.send(frame)
        refused = json.loads(await socket.recv())
        assert refused["type"] == "error"
        assert refused["error"]["param"] == param
        assert refused["error"]["code"]
        assert len(await turn(socket, model=model, input="A keeper", store=False)) > 5


async def test_a_page_of_another_origin_gets_no_connection(address: str) -> None:
    with pytest.raises(InvalidStatus) as refused:
        await connect(f"ws://{address}/v1/responses", additional_headers={"Origin": "https://elsewhere.example"})
    assert refused.value.response.status_code == 403
    async with connect(f"ws://{address}/v1/responses", additional_headers={"Origin": f"http://{address}"}):
        pass


async def test_a_connection_that_waits_is_not_taken_for_one_that_sends_no_headers(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Connection, "header_seconds", 0.2)
    model = await name_of(address)
    async with connect(f"ws://{address}/responses") as socket:
        for _ in range(2):
            await asyncio.sleep(0.5)
            assert len(await turn(socket, model=model, input="A keeper", store=False)) > 5


async def test_responses_are_their_callers_own(address: str) -> None:
    model = await name_of(address)
    async with connect(f"ws://{address}/responses", additional_headers={"Authorization": "Bearer one"}) as socket:
        first = (await turn(socket, model=model, input="A keeper"))[-1]["response"]
    statuses = []
    async with httpx.AsyncClient(base_url=f"http://{address}") as client:
        for key in ("one", "two"):
            headers = {"Authorization": f"Bearer {key}"}
            statuses.append((await client.get(f"/v1/responses/{first['id']}", headers=headers)).status_code)
    assert statuses == [200, 404]


async def test_a_frame_of_bytes_is_told_and_the_connection_stays(address: str) -> None:
    model = await name_of(address)
    async with connect(f"ws://{address}/responses") as socket:
        await socket.send(b"{}")
        refused = json.loads(await socket.recv())
        assert "bytes" in refused["error"]["message"]
        assert len(await turn(socket, model=model, input="A keeper", store=False)) > 5


@pytest.mark.parametrize("at", ["input", "client_metadata"])
async def test_a_frame_is_read_as_a_body_is(address: str, at: str) -> None:
    lists = "[" + ",".join(["[]"] * (MAX_CONTAINERS + 1)) + "]"
    value = lists if at == "input" else f'{{"a": {lists}}}'
    async with connect(f"ws://{address}/responses") as socket:
        await socket.send(f'{{"type": "response.create", "model": "m", "{at}": {value}}}')
        refused = json.loads(await socket.recv())
        assert refused["status"] == 413
        assert str(MAX_CONTAINERS) in refused["error"]["message"]


async def test_a_frame_nested_too_deeply_or_with_half_a_character_is_told(address: str) -> None:
    deep = '{"a":' * 100_000 + "1" + "}" * 100_000
    half = '{"type": "response.create", "model": "m", "input": "a", "prompt_cache_key": "\\ud800"}'
    async with connect(f"ws://{address}/responses") as socket:
        params = []
        for frame in (deep, half):
            await socket.send(frame)
            refused = json.loads(await socket.recv())
            params.append((refused["status"], refused["error"]["param"]))
        assert params == [(400, None), (400, "prompt_cache_key")]


async def test_frames_hold_what_bodies_may_hold_together(serve: Serve) -> None:
    frame = json.dumps({"type": "response.create", "model": "none", "input": "a" * 70_000})
    async with serve(allowed_hosts="localhost", max_body_bytes=80_000) as client:
        app = create_app(client.core)  # type: ignore[attr-defined]
        gauge = client.core.metrics.body_bytes  # type: ignore[attr-defined]
        async with listening(app, http=Connection, ws="websockets-sansio") as port, AsyncExitStack() as sockets:
            async with app.state.reading:  # no frame is read meanwhile
                opened = [
                    await sockets.enter_async_context(connect(f"ws://localhost:{port}/responses")) for _ in "1234567"
                ]
                for socket in opened:
                    await socket.send(frame)
                await eventually(lambda: gauge._value.get() > 400_000)
            statuses = sorted([json.loads(await socket.recv())["status"] for socket in opened])
            assert statuses == [404] * 6 + [429]
            await eventually(lambda: gauge._value.get() == 0)


async def test_a_client_that_leaves_before_the_first_word_frees_what_its_turn_held(serve: Serve) -> None:
    async with serve(allowed_hosts="localhost") as client:
        core = client.core  # type: ignore[attr-defined]
        begun, ended = asyncio.Event(), asyncio.Event()

        async def window(*_: Any, **__: Any) -> None:
            begun.set()
            try:
                await asyncio.sleep(60)
            finally:
                ended.set()

        core.models.default.opener.context = window
        async with listening(create_app(core), http=Connection, ws="websockets-sansio") as port:
            model = await name_of(f"localhost:{port}")
            async with connect(f"ws://localhost:{port}/responses") as socket:
                await socket.send(json.dumps({"type": "response.create", "model": model, "input": "A keeper"}))
                await asyncio.wait_for(begun.wait(), 5)
                await socket.send("{}")  # another that waits keeps nobody from noticing
            await asyncio.wait_for(ended.wait(), 5)
