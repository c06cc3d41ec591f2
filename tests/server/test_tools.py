"""Functions that a model may call: rendered by its template, read in what it writes, told as items."""

import copy
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.core.responses.calls import CallReader, WrittenCall
from server.engine.protocol import TokenEvent
from tests.server.conftest import Serve
from tests.server.test_responses import events_of, model_of, respond
from tests.tiny import tiny_compressor

# in the manner of Hermes and Qwen
TEMPLATE = (
    "{% if tools %}<tools>{% for tool in tools %}{{ tool | tojson }}{% endfor %}</tools>"
    "Answer with <tool_call>{}</tool_call>.\n{% endif %}"
    "{% for message in messages %}[{{ message.role }}]{{ message.content }}"
    "{% for call in message.tool_calls or [] %}<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %}\n"
    "{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)
WEATHER = {
    "type": "function",
    "name": "weather",
    "description": "Tells the weather.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Brest"}}\n</tool_call>'


@pytest.fixture
def tools_model(tmp_path: Path) -> str:
    model = tiny_compressor(max_positions=1024)
    model.tokenizer = copy.deepcopy(model.tokenizer)  # that one is shared
    model.tokenizer.chat_template = TEMPLATE
    model.save_pretrained(tmp_path / "tools")
    return str(tmp_path / "tools")


def says(client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, *pieces: str) -> list[tuple[int, ...]]:
    """Have the model say this, as a random one would not; gives the prompts that it is asked."""
    prompts = []

    async def generate(prompt: Any, *_: Any, **__: Any) -> AsyncGenerator[TokenEvent]:
        prompts.append(prompt.token_ids)
        for place, piece in enumerate(pieces):
            yield TokenEvent(5, piece, -1.0, "stop" if place == len(pieces) - 1 else None)

    monkeypatch.setattr(client.services.decoder, "generate", generate)  # type: ignore[attr-defined]
    return prompts


async def test_tools_are_rendered_where_the_template_has_a_place_for_them(
    serve: Serve, tools_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve(model=tools_model) as client:
        prompts = says(client, monkeypatch, "It rains.")
        await respond(client, input="And in Brest?", tools=[WEATHER])
        await respond(client, input="And in Brest?", tools=[WEATHER], tool_choice="none")
        tokenizer = client.services.model.tokenizer  # type: ignore[attr-defined]
        with_tools, without = [tokenizer.decode(prompt) for prompt in prompts]
    assert "Tells the weather." in with_tools
    assert "Tells the weather." not in without
    assert with_tools.endswith("[user]And in Brest?[assistant]")


async def test_a_call_is_an_item_and_its_output_goes_on_from_it(
    serve: Serve, tools_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve(model=tools_model) as client:
        says(client, monkeypatch, "Let me ", "look.<tool", CALL.removeprefix("<tool"))
        first = await respond(client, input="And in Brest?", tools=[WEATHER])
        assert [item["type"] for item in first["output"]] == ["message", "function_call"]
        message, call = first["output"]
        assert message["content"][0]["text"] == "Let me look."
        assert call["name"] == "weather"
        assert json.loads(call["arguments"]) == {"city": "Brest"}
        assert call["status"] == "completed"
        prompts = says(client, monkeypatch, "It rains.")
        output = {"type": "function_call_output", "call_id": call["call_id"], "output": "rain"}
        await respond(client, input=[output], previous_response_id=first["id"], tools=[WEATHER])
        text = client.services.model.tokenizer.decode(prompts[0])  # type: ignore[attr-defined]
    assert '[assistant]Let me look.<tool_call>{"name": "weather", "arguments": {"city": "Brest"}}</tool_call>' in text
    assert text.endswith("[tool]rain[assistant]")


async def test_a_call_in_a_stream_is_told_by_its_events(
    serve: Serve, tools_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve(model=tools_model) as client:
        says(client, monkeypatch, *CALL)
        body = {"model": await model_of(client), "input": "And in Brest?", "tools": [WEATHER], "stream": True}
        events = events_of((await client.post("/v1/responses", json=body)).text)
    kinds = [event["type"].removeprefix("response.") for event in events]
    assert kinds == [
        *("created", "in_progress", "output_item.added", "function_call_arguments.delta"),
        *("function_call_arguments.done", "output_item.done", "completed"),
    ]
    assert events[2]["item"]["arguments"] == ""
    assert events[3]["delta"] == events[4]["arguments"] == events[5]["item"]["arguments"]


@pytest.mark.parametrize("depth", [500, 100_000])
async def test_arguments_too_deep_for_a_template_are_refused(serve: Serve, tools_model: str, depth: int) -> None:
    call = {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "[" * depth + "]" * depth}
    async with serve(model=tools_model) as client:
        refused = await respond(client, status=400, input=[{"role": "user", "content": "And?"}, call])
    assert refused["error"]["param"] == "input"


async def test_calls_and_outputs_are_compacted_as_what_was_said(serve: Serve, tools_model: str) -> None:
    call = {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": '{"city": "Brest"}'}
    output = {"type": "function_call_output", "call_id": "c1", "output": "rain"}
    items = [{"role": "user", "content": "And in Brest?"}, call, output]
    async with serve(model=tools_model) as client:
        model = await model_of(client)
        done = [
            (await client.post("/v1/responses/compact", json={"model": model, "input": some})).json()
            for some in (items[:1], items)
        ]
    assert [item["type"] for item in done[1]["output"]] == ["message", "compaction"]
    assert done[1]["usage"]["input_tokens"] > done[0]["usage"]["input_tokens"]


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("no call at all", ["no call at all"]),
        ("a < b and <tool_", ["a < b and <tool_"]),
        (CALL, [WrittenCall("weather", '{"city": "Brest"}')]),
        (f"First.{CALL}\n{CALL}", ["First.", *[WrittenCall("weather", '{"city": "Brest"}')] * 2]),
        ('<tool_call>{"name": "f"}', [WrittenCall("f", "{}")]),
        ("<tool_call>not JSON</tool_call>", ["<tool_call>not JSON</tool_call>"]),
        ("<tool_call>not JSON", ["<tool_call>not JSON"]),
        (f"<tool_call>{'[' * 5000}</tool_call>", [f"<tool_call>{'[' * 5000}</tool_call>"]),
        ("<tool_call>[1, 2]</tool_call> and", ["<tool_call>[1, 2]</tool_call>", " and"]),
    ],
)
def test_calls_are_told_from_text_however_it_comes(text: str, expected: list[Any], size: int) -> None:
    reader = CallReader()
    parts: list[str | WrittenCall] = []
    for start in range(0, len(text), size):
        parts += reader.read(text[start : start + size])
    parts += reader.rest()

    def joined(found: list[Any]) -> list[Any]:
        """Texts beside one another as one."""
        result: list[Any] = []
        for part in found:
            if isinstance(part, str) and result and isinstance(result[-1], str):
                result[-1] += part
            else:
                result.append(part)
        return result

    assert joined(parts) == joined(expected)
