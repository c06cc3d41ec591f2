"""The real `openai` package against a server in a process of its own."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.server.test_crash import Server, metrics_when_idle, running

ASK: Any = [{"role": "user", "content": "Who counts ships that nobody can see?"}]


SAME = {"Authorization": "Bearer none"}  # a caller's summaries are its own


@pytest.fixture(scope="module")
def server(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("live")
    with running(checkpoint, f"sqlite:{folder}/store.sqlite3", folder) as opened:
        yield opened


@pytest.fixture
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.client.base_url}/v1", api_key="none", max_retries=0) as opened:
        yield opened


@pytest.fixture
def model(client: openai.OpenAI) -> str:
    name = client.models.list().data[0].id
    assert client.models.retrieve(name).id == name
    return name


def test_a_completion_whole_and_streamed(client: openai.OpenAI, model: str) -> None:
    asked: dict[str, Any] = {"model": model, "prompt": "The keeper", "max_tokens": 12, "temperature": 0, "seed": 1}
    whole = client.completions.create(**asked, logprobs=2)
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 12
    assert whole.usage.prompt_tokens_details is not None
    assert whole.choices[0].logprobs is not None
    assert len(whole.choices[0].logprobs.token_logprobs or []) == 12
    chunks = list(client.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].text for chunk in chunks[:-1]) == whole.choices[0].text
    assert chunks[-2].choices[0].finish_reason == "length"
    assert chunks[-1].usage == whole.usage


def test_a_chat_whole_and_streamed(client: openai.OpenAI, model: str) -> None:
    asked: dict[str, Any] = {"model": model, "messages": ASK, "max_tokens": 12, "temperature": 0}
    whole = client.chat.completions.create(**asked, logprobs=True, top_logprobs=1)
    text = whole.choices[0].message.content
    assert whole.choices[0].logprobs is not None
    assert len(whole.choices[0].logprobs.content or []) == 12
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == text
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].usage == whole.usage
    said = whole.choices[0].message.model_dump()
    again = client.chat.completions.create(**asked | {"messages": [*ASK, said, *ASK]})
    assert again.choices[0].message.role == "assistant"


def test_a_book_and_a_stored_summary_through_the_client(client: openai.OpenAI, server: Server, model: str) -> None:
    book = "The keeper wrote one line a day: wind from the north, eleven ships, no fog. " * 100
    for _ in range(2):
        answer = client.completions.create(model=model, prompt=book, max_tokens=4)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens_details is not None
    assert answer.model_extra is not None
    compressed = answer.model_extra["compression"]["compressed_tokens"]
    assert answer.usage.prompt_tokens_details.cached_tokens == compressed > 0
    summary = server.client.post("/compress", json={"text": book[:800]}, headers=SAME).json()
    content: Any = [{"type": "summary", "id": summary["id"]}, {"type": "text", "text": "Who?"}]
    asked: Any = [{"role": "user", "content": content}]
    chat = client.chat.completions.create(model=model, messages=asked, max_tokens=4, extra_body={"contributions": True})
    assert chat.model_extra is not None
    assert [each["id"] for each in chat.model_extra["compression"]["contributions"]] == [summary["id"]]
    assert chat.model_extra["compression"]["summary_vectors"] == summary["vectors"]


def test_refusals_are_the_client_s_own_errors(client: openai.OpenAI, model: str) -> None:
    with pytest.raises(openai.NotFoundError, match="gpt-4"):
        client.completions.create(model="gpt-4", prompt="a")
    with pytest.raises(openai.BadRequestError, match="at most 16") as refused:
        client.completions.create(model=model, prompt="a", n=2, stop=["x"] * 17)
    assert refused.value.code == "validation_error"
    with pytest.raises(openai.BadRequestError) as too_long:
        client.completions.create(model=model, prompt="a " * 2000, extra_body={"truncate": "error"})
    assert (too_long.value.status_code, too_long.value.code) == (400, "context_length_exceeded")


async def test_a_reader_who_leaves_ends_every_choice(server: Server, model: str) -> None:
    before = finished(metrics_when_idle(server))
    async with openai.AsyncOpenAI(base_url=f"{server.client.base_url}/v1", api_key="none", max_retries=0) as client:
        stream = await client.chat.completions.create(model=model, messages=ASK, n=3, max_tokens=380, stream=True)
        seen = set()
        async for chunk in stream:
            seen.add(chunk.choices[0].index)
            if len(seen) == 3:
                break
        await stream.close()
    assert finished(metrics_when_idle(server)) == before, "they went on to the end"


def finished(metrics: str) -> list[str]:
    return [line for line in metrics.splitlines() if line.startswith("autocompressor_generations_finished_total")]
