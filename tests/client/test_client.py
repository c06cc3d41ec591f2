"""The Python client: what it sends and reads, what it does when refused, and that it does so in both kinds."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from autocompressor import AsyncClient, AutocompressorError, Client, Progress

Handler = Callable[[httpx.Request], httpx.Response]
Drive = Callable[..., Any]

SUMMARY = {
    "id": "ab" * 20,
    "object": "summary",
    "model": "tiny",
    "created": 1,
    "tokens": 32,
    "segments": 2,
    "vectors": 8,
    "compression_ratio": 4.0,
    "parent": None,
    "metadata": {"file": "a.txt"},
}
COMPRESSED = SUMMARY | {"cached_segments": 1, "timings": {"engine_seconds": 0.5}, "a_new_field": 1}
PROGRESS = {
    "object": "compress.progress",
    "segments": {"done": 1, "total": 2, "cached": 0},
    "tokens": 16,
    "vectors": 4,
    "elapsed_seconds": 0.1,
}


@pytest.fixture(params=["blocking", "asyncio"])
def drive(request: pytest.FixtureRequest) -> Drive:
    """Makes one call with either client against a handler; a stream as a list."""

    async def awaited(client: AsyncClient, name: str, *args: Any, **kwargs: Any) -> Any:
        async with client:
            if name == "stream":
                return [chunk async for chunk in client.stream(*args, **kwargs)]
            return await getattr(client, name)(*args, **kwargs)

    def call(handler: Handler, name: str, *args: Any, **kwargs: Any) -> Any:
        transport = httpx.MockTransport(handler)
        if request.param == "asyncio":
            return asyncio.run(awaited(AsyncClient("http://server", "key", transport=transport), name, *args, **kwargs))
        with Client("http://server", "key", transport=transport) as client:
            result = getattr(client, name)(*args, **kwargs)
            return list(result) if name == "stream" else result

    return call


def answer(body: Any, *, seen: list[httpx.Request] | None = None, status: int = 200) -> Handler:
    def handler(request: httpx.Request) -> httpx.Response:
        if seen is not None:
            seen.append(request)
        return httpx.Response(status, json=body)

    return handler


def events(*data: Any) -> Handler:
    lines = "".join(f"data: {one if isinstance(one, str) else json.dumps(one)}\n\n" for one in data)
    return lambda _: httpx.Response(200, text=lines, headers={"Content-Type": "text/event-stream"})


def test_it_imports_without_torch() -> None:
    code = (
        "import sys, autocompressor, server.cli.main; print([n for n in ('torch', 'transformers') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_request_has_what_was_given_and_no_more(drive: Drive, tmp_path: Path) -> None:
    seen: list[httpx.Request] = []
    file = tmp_path / "a.txt"
    file.write_bytes("Größe\r\n".encode())
    made = drive(answer(COMPRESSED, seen=seen), "compress", file=file, ttl_seconds=5, metadata={"a": "b"})
    assert json.loads(seen[0].content) == {"text": "Größe\r\n", "ttl_seconds": 5, "metadata": {"a": "b"}}
    assert seen[0].headers["Authorization"] == "Bearer key"
    assert seen[0].headers["User-Agent"].startswith("autocompressor/")
    assert made.id == SUMMARY["id"]
    assert made.cached_segments == 1
    assert not made.was_stored


@pytest.mark.parametrize(
    ("name", "args", "kwargs", "sent"),
    [
        ("append", ("an id", "text"), {}, ("POST", "/summaries/an%20id/append", {"text": "text"})),
        ("rerank", ("q", ["a"]), {"top_n": 1}, ("POST", "/rerank", {"query": "q", "documents": ["a"], "top_n": 1})),
        ("list_summaries", (), {"after": "x"}, ("GET", "/summaries?limit=50&after=x", None)),
        ("delete_summary", ("x",), {}, ("DELETE", "/summaries/x", None)),
        ("export_summary", ("x",), {}, ("GET", "/summaries/x?format=safetensors", None)),
        ("info", (), {}, ("GET", "/info", None)),
        ("score", ([" a"],), {"prompt": ""}, ("POST", "/score", {"prompt": "", "continuations": [" a"]})),
    ],
)  # fmt: skip
def test_each_call_goes_to_its_endpoint(
    drive: Drive, name: str, args: Any, kwargs: Any, sent: tuple[str, str, Any]
) -> None:
    seen: list[httpx.Request] = []
    usage = {"prompt_tokens": 1, "total_tokens": 1}
    body = COMPRESSED | {"results": [], "data": [], "has_more": False, "scores": [], "usage": usage}
    drive(answer(body, seen=seen), name, *args, **kwargs)
    method, path, content = sent
    assert (seen[0].method, seen[0].url.raw_path.decode()) == (method, path)
    assert (json.loads(seen[0].content) if seen[0].content else None) == content


def test_a_client_of_a_model_names_it_in_each_call() -> None:
    seen: list[httpx.Request] = []
    body = COMPRESSED | {"data": [], "has_more": False}
    with Client("http://server", model="legal", transport=httpx.MockTransport(answer(body, seen=seen))) as client:
        client.compress("a")
        client.list_summaries(limit=5)
        client.import_summary("x", b"file")
        client.info()
        client.delete_summary("x")
    assert json.loads(seen[0].content) == {"model": "legal", "text": "a"}
    paths = ["/compress", "/summaries?limit=5&model=legal", "/summaries/x?model=legal", "/info?model=legal"]
    assert [each.url.raw_path.decode() for each in seen] == [*paths, "/summaries/x"]
    assert seen[2].content == b"file"


def test_a_refused_call_comes_back_after_the_time_it_is_told(drive: Drive) -> None:
    statuses = [429, 503, 200]

    def handler(_: httpx.Request) -> httpx.Response:
        return httpx.Response(
            statuses.pop(0), json=SUMMARY | {"segment_tokens": [16, 16]}, headers={"Retry-After": "0"}
        )

    assert drive(handler, "get_summary", "x").segment_tokens == (16, 16)
    assert statuses == []


def test_it_does_not_come_back_for_ever(drive: Drive) -> None:
    seen: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        error = {
            "error": {"message": "the queue is full", "type": "rate_limit_error", "param": None, "code": "overloaded"}
        }
        return httpx.Response(429, json=error, headers={"Retry-After": "0"})

    with pytest.raises(AutocompressorError, match="the queue is full") as caught:
        drive(handler, "info")
    assert (caught.value.status, caught.value.code) == (429, "overloaded")
    assert len(seen) == 4


def test_what_is_read_of_summaries_is_asked_for(drive: Drive) -> None:
    seen: list[httpx.Request] = []
    usage = {"prompt_tokens": 1, "total_tokens": 1, "thinned_vectors": 7}
    generated = {"id": "g", "model": "m", "text": "", "finish_reason": "stop", "usage": usage}
    made = drive(answer(generated, seen=seen), "generate", "a", summary_ids=["x"], max_vectors=5, expand=2)
    assert json.loads(seen[0].content) == {
        "prompt": "a",
        "summary_ids": ["x"],
        "max_vectors": 5,
        "expand": {"segments": 2},
    }
    assert made.usage.thinned_vectors == 7
    kept = drive(answer(COMPRESSED | {"has_text": True}, seen=seen), "compress", "a text", keep_text=True)
    assert json.loads(seen[1].content) == {"text": "a text", "keep_text": True}
    drive(answer(COMPRESSED, seen=(read := [])), "append", "an id", "a text", parse_special=True)
    assert json.loads(read[0].content) == {"text": "a text", "parse_special": True}
    assert kept.has_text
    drive(answer({"id": "r", "model": "m", "results": []}, seen=seen), "rerank", "q", ["a"], max_vectors=3)
    assert json.loads(seen[2].content) == {"query": "q", "documents": ["a"], "max_vectors": 3}


def test_an_error_names_the_field(drive: Drive) -> None:
    error = {
        "error": {"message": "there is no summary 'x'", "type": "invalid_request_error", "param": "id", "code": "a"}
    }
    with pytest.raises(AutocompressorError) as caught:
        drive(answer(error, status=404), "delete_summary", "x")
    assert (caught.value.status, caught.value.code, caught.value.param) == (404, "a", "id")


@pytest.mark.parametrize("status", [200, 502])
def test_an_answer_of_something_else_is_an_error(drive: Drive, status: int) -> None:
    with pytest.raises(AutocompressorError) as caught:
        drive(lambda _: httpx.Response(status, text="<html>"), "get_summary", "x")
    assert caught.value.code == "bad_answer"


@pytest.mark.parametrize(
    ("failure", "code"),
    [(httpx.ConnectError("refused"), "unreachable"), (httpx.ReadTimeout("late"), "timeout")],
)
def test_no_answer_is_an_error(drive: Drive, failure: Exception, code: str) -> None:
    def handler(_: httpx.Request) -> httpx.Response:
        raise failure

    with pytest.raises(AutocompressorError) as caught:
        drive(handler, "info")
    assert (caught.value.status, caught.value.code) == (None, code)


def test_progress_is_heard_and_the_result_returned(drive: Drive) -> None:
    heard: list[Progress] = []
    made = drive(events(PROGRESS, COMPRESSED, "[DONE]"), "compress", "text", progress=heard.append)
    assert made.id == SUMMARY["id"]
    assert [(one.segments_done, one.segments_total) for one in heard] == [(1, 2)]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ([PROGRESS], "broke off"),
        ([PROGRESS, "[DONE]"], "no result"),
        ([PROGRESS, "{"], "is not what"),
        ([PROGRESS | {"segments": 3}], "is not what"),
        ([PROGRESS, {"error": {"message": "the engine failed", "code": "engine_failed"}}, "[DONE]"], "engine failed"),
    ],
)
def test_a_stream_without_result_is_an_error(drive: Drive, data: list[Any], said: str) -> None:
    with pytest.raises(AutocompressorError, match=said):
        drive(events(*data), "compress", "text", progress=lambda _: None)


def test_a_stream_that_breaks_off_is_an_error(drive: Drive) -> None:
    with pytest.raises(AutocompressorError, match="broke off"):
        drive(events({"id": "gen", "text": "a"}), "stream", "prompt")


@pytest.mark.parametrize("given", [{"prompt": "a", "top_p": float("nan")}, {"prompt": "a \udcff"}])
def test_what_json_cannot_say_is_an_error(drive: Drive, given: dict[str, Any]) -> None:
    seen: list[httpx.Request] = []
    with pytest.raises(AutocompressorError, match="cannot be written as JSON") as caught:
        drive(answer({}, seen=seen), "generate", **given)
    assert (caught.value.code, seen) == ("invalid_request", [])


def test_an_empty_id_is_an_error(drive: Drive) -> None:
    with pytest.raises(AutocompressorError, match="id is empty"):
        drive(answer({}), "get_summary", "")


def test_one_text_is_not_taken_for_several(drive: Drive) -> None:
    with pytest.raises(TypeError, match="`summary_ids` takes several"):
        drive(answer({}), "generate", "a", summary_ids="767f")


def test_a_document_has_one_form() -> None:
    with Client() as client, pytest.raises(ValueError, match="either"):
        client.compress("text", file="a.txt")
