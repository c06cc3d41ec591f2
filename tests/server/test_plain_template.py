"""Chats of a model without a chat template: the space before an answer is the template's."""

from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest

from server.core.prompts.chat_template import Said, render
from server.engine.protocol import Prompt, SamplingParams, TokenEvent
from tests.server.openai_calls import ASK, chat, services, streamed

ANSWERS = [" I count", "  two spaces", "\nA line", "none", " ", ""]


def saying(text: str, *, by: int) -> Any:
    """A decoder's `generate` that says a text in pieces of so many characters."""

    async def generate(prompt: Prompt, params: SamplingParams, **_: Any) -> AsyncGenerator[TokenEvent]:
        for start in range(0, len(text), by):
            yield TokenEvent(5, text[start : start + by], -1.0, None)
        yield TokenEvent(0, "", -1.0, "stop")

    return generate


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("by", [1, 100])
async def test_an_answer_has_no_space_that_is_not_its_own(client: httpx.AsyncClient, answer: str, by: int) -> None:
    """It began with the space after the speaker's name; whole as streamed."""
    services(client).decoder.generate = saying(answer, by=by)
    said = (await chat(client))["choices"][0]["message"]["content"]
    assert said == answer.removeprefix(" ")
    chunks = await streamed(client, "/v1/chat/completions", messages=ASK)
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == said


@pytest.mark.parametrize("answer", [" I count", "  two spaces", "\nA line", ""])
async def test_history_is_read_as_it_was_made(client: httpx.AsyncClient, answer: str) -> None:
    """With a space of its own, an answer that was sent back had two."""
    services(client).decoder.generate = saying(answer, by=3)
    said = (await chat(client))["choices"][0]["message"]["content"]
    model = services(client).model
    messages = [Said(each["role"], each["content"]) for each in ASK]
    made = "System: Be short.\n\nUser: Who counts ships?\n\nAssistant:" + answer + "\n\nAssistant:"
    read = render(model, [*messages, Said("assistant", said)])
    assert list(read.token_ids) == model.tokenise(made, is_start=True)
