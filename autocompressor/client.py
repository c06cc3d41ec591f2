"""A client that blocks, and one for asyncio: the same calls, sent by httpx."""

import asyncio
import functools
import inspect
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import httpx
from httpx_sse import EventSource

from autocompressor import calls, corpora
from autocompressor.calls import Call, Stream
from autocompressor.wire import Events, headers, pause_seconds, request, translated

P = ParamSpec("P")
T = TypeVar("T")


def _blocking(build: Callable[P, Call[T]]) -> Callable[Concatenate["Client", P], T]:
    def method(client: "Client", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return client.send(build(*args, **kwargs))

    return _documented(method, build)


def _iterating(build: Callable[P, Stream[T]]) -> Callable[Concatenate["Client", P], Iterator[T]]:
    def method(client: "Client", /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        return client.iterate(build(*args, **kwargs))

    return _documented(method, build)


def _awaited(build: Callable[P, Call[T]]) -> Callable[Concatenate["AsyncClient", P], Coroutine[Any, Any, T]]:
    async def method(client: "AsyncClient", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await client.send(build(*args, **kwargs))

    return _documented(method, build)


def _async_iterating(build: Callable[P, Stream[T]]) -> Callable[Concatenate["AsyncClient", P], AsyncIterator[T]]:
    def method(client: "AsyncClient", /, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[T]:
        return client.iterate(build(*args, **kwargs))

    return _documented(method, build)


M = TypeVar("M", bound=Callable[..., Any])


def _documented(method: M, build: Callable[..., Any]) -> M:
    """Give the method the call's name, docstring and, for `help()`, its signature."""
    functools.update_wrapper(method, build)
    signature = inspect.signature(build)
    client = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    method.__signature__ = signature.replace(parameters=[client, *signature.parameters.values()])  # type: ignore[attr-defined]
    return method


class Client:
    """Calls a server and waits; safe to share between threads. Close it, or use it in a `with` block.

    Args:
        model: the name of a model that the server has; None for its first.
        timeout: seconds without a byte from the server until a call is given up; None waits for ever.
        max_retries: how often a call is sent again where the server is busy (429) or not ready (503), after the time
            that its Retry-After asks for.
        transport: what sends the requests in place of a connection, for tests and for a server in this process.

    Raises:
        AutocompressorError: from any call.
    """

    compress = _blocking(calls.compress)
    append = _blocking(calls.append)
    generate = _blocking(calls.generate)
    stream = _iterating(calls.stream)
    score = _blocking(calls.score)
    rerank = _blocking(calls.rerank)
    search = _blocking(corpora.search)
    ask = _blocking(corpora.ask)
    stream_answer = _iterating(corpora.stream_answer)
    list_summaries = _blocking(calls.list_summaries)
    get_summary = _blocking(calls.get_summary)
    delete_summary = _blocking(calls.delete_summary)
    export_summary = _blocking(calls.export_summary)
    import_summary = _blocking(calls.import_summary)
    info = _blocking(calls.info)

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        api_key: str | None = None,
        *,
        model: str | None = None,
        timeout: float | None = 600,
        max_retries: int = 3,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._model = model
        self._max_retries = max_retries
        self._http = httpx.Client(base_url=url, headers=headers(api_key), timeout=timeout, transport=transport)

    def send(self, call: Call[T]) -> T:
        with self._answer(call) as response:
            if not call.is_stream:
                return call.read(response.read())
            events = Events(call)
            for event in EventSource(response).iter_sse():
                events.take(event.data)
            return events.result()

    def iterate(self, call: Stream[T]) -> Iterator[T]:
        with self._answer(call) as response:
            events = Events(call)
            for event in EventSource(response).iter_sse():
                if (data := events.take(event.data)) is not None:
                    yield call.read(data)
            events.require_done()

    @contextmanager
    def _answer(self, call: Call[Any]) -> Iterator[httpx.Response]:
        """An answer that is no error, its body still to be read."""
        with translated(self._http.base_url):
            for attempt in count():
                with self._http.stream(**request(call, self._model)) as response:
                    if response.is_success:
                        yield response
                        return
                    response.read()
                time.sleep(pause_seconds(response, attempt, self._max_retries))

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncClient:
    """As `Client`, for asyncio: its calls are awaited, and `stream` gives an asynchronous iterator."""

    compress = _awaited(calls.compress)
    append = _awaited(calls.append)
    generate = _awaited(calls.generate)
    stream = _async_iterating(calls.stream)
    score = _awaited(calls.score)
    rerank = _awaited(calls.rerank)
    search = _awaited(corpora.search)
    ask = _awaited(corpora.ask)
    stream_answer = _async_iterating(corpora.stream_answer)
    list_summaries = _awaited(calls.list_summaries)
    get_summary = _awaited(calls.get_summary)
    delete_summary = _awaited(calls.delete_summary)
    export_summary = _awaited(calls.export_summary)
    import_summary = _awaited(calls.import_summary)
    info = _awaited(calls.info)

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        api_key: str | None = None,
        *,
        model: str | None = None,
        timeout: float | None = 600,
        max_retries: int = 3,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._model = model
        self._max_retries = max_retries
        self._http = httpx.AsyncClient(base_url=url, headers=headers(api_key), timeout=timeout, transport=transport)

    async def send(self, call: Call[T]) -> T:
        async with self._answer(call) as response:
            if not call.is_stream:
                return call.read(await response.aread())
            events = Events(call)
            async for event in EventSource(response).aiter_sse():
                events.take(event.data)
            return events.result()

    async def iterate(self, call: Stream[T]) -> AsyncIterator[T]:
        async with self._answer(call) as response:
            events = Events(call)
            async for event in EventSource(response).aiter_sse():
                if (data := events.take(event.data)) is not None:
                    yield call.read(data)
            events.require_done()

    @asynccontextmanager
    async def _answer(self, call: Call[Any]) -> AsyncIterator[httpx.Response]:
        """An answer that is no error, its body still to be read."""
        with translated(self._http.base_url):
            for attempt in count():
                async with self._http.stream(**request(call, self._model)) as response:
                    if response.is_success:
                        yield response
                        return
                    await response.aread()
                await asyncio.sleep(pause_seconds(response, attempt, self._max_retries))

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
