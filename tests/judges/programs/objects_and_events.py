"""`openresponses-types` parses every object and event that the server sends."""

import json
from collections.abc import Iterator
from enum import Enum
from typing import Any

import httpx
import openresponses_types as types
from checks import Asked, require, tell
from pydantic import BaseModel
from websockets.sync.client import connect

ABSENT = "resp_" + "0" * 32
MOST_TRIES = 100  # until an answer of the tiny model is longer than 16 tokens: one in five is
SAID = [
    {"type": "message", "role": "user", "content": "My name is Alice."},
    {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hello."}]},
    {"type": "message", "role": "user", "content": "What is my name?"},
]


def kinds_of_event() -> dict[str, type[BaseModel]]:
    """The class of each event, by what its `type` has to be."""
    found: dict[str, type[BaseModel]] = {}
    for name in dir(types):
        kind = getattr(types, name)
        if name.endswith("StreamingEvent") and isinstance(kind, type) and issubclass(kind, BaseModel):
            named = kind.model_fields["type"].annotation
            assert isinstance(named, type)
            assert issubclass(named, Enum)
            (value,) = [each.value for each in named]
            found[value] = kind
    return found


def post(asked: Asked, path: str, **body: Any) -> Any:
    answer = httpx.post(f"{asked.url}{path}", json={"model": asked.model, **body}, timeout=60)
    require(answer.status_code == 200, f"{answer.status_code}: {answer.text}")
    return answer.json()


def events(asked: Asked, **body: Any) -> Iterator[dict[str, Any]]:
    """Each as it stands after `data:`; that `event:` names its type, and [DONE] is last, is seen to."""
    answer = httpx.post(f"{asked.url}/responses", json={"model": asked.model, "stream": True, **body}, timeout=60)
    require(answer.status_code == 200, f"{answer.status_code}: {answer.text}")
    *sent, end, rest = answer.text.split("\n\n")
    require((end, rest) == ("data: [DONE]", ""), f"the stream ends with {end!r}, {rest!r}")
    for each in sent:
        name, data = each.split("\n")
        event = json.loads(data.removeprefix("data: "))
        require(name == f"event: {event['type']}", f"{name!r} before {event['type']}")
        yield event


def whole(asked: Asked) -> None:
    for body in ({"input": "Who counts ships?"}, {"input": SAID, "instructions": "Be short.", "store": False}):
        types.ResponseResource.model_validate(post(asked, "/responses", **body))


def stored(asked: Asked) -> None:
    made = post(asked, "/responses", input="Who counts ships?")
    again = httpx.get(f"{asked.url}/responses/{made['id']}", timeout=60).json()
    types.ResponseResource.model_validate(again)
    require(again == made, "another response came back")
    types.ResponseResource.model_validate(post(asked, "/responses", input="And?", previous_response_id=made["id"]))


def incomplete(asked: Asked) -> None:
    for _ in range(MOST_TRIES):
        made = post(asked, "/responses", input="Count.", max_output_tokens=16)
        parsed = types.ResponseResource.model_validate(made)
        if made["status"] == "incomplete":
            break
    require(parsed.incomplete_details.reason == "max_output_tokens", "the reason")


def streamed(asked: Asked) -> None:
    kinds = kinds_of_event()
    for _ in range(MOST_TRIES):
        ends = set()
        for event in events(asked, input=SAID, max_output_tokens=16):
            require(event["type"] in kinds, f"there is no event {event['type']}")
            kinds[event["type"]].model_validate(event)
            ends.add(event["type"])
        if "response.incomplete" in ends:
            break
    require("response.incomplete" in ends, "no stream was cut off")


def compacted(asked: Asked) -> None:
    made = post(asked, "/responses/compact", input=SAID)
    types.CompactResource.model_validate(made)
    types.CompactResponseMethodPublicBody.model_validate({"model": asked.model, "input": made["output"]})
    item = {"type": "message", "role": "user", "content": "And?"}
    types.ResponseResource.model_validate(post(asked, "/responses", input=[*made["output"], item]))


def automatic_compaction(asked: Asked) -> None:
    """The item in the same stream, as an event of the specification's."""
    kinds = kinds_of_event()
    long = [
        {"type": "message", "role": role, "content": f"Page {number}. " + "Wind, ships, fog. " * 20}
        for number in range(6)
        for role in ("user", "assistant")
    ]
    long.append({"type": "message", "role": "user", "content": "And then?"})
    rule = [{"type": "compaction", "compact_threshold": 1000}]
    seen = []
    for event in events(asked, input=long, context_management=rule):
        kinds[event["type"]].model_validate(event)
        if event["type"] == "response.output_item.done":
            seen.append(event["item"]["type"])
    require(seen == ["compaction", "message"], f"the items are {seen}")


def over_a_websocket(asked: Asked) -> None:
    kinds = kinds_of_event()
    address = asked.url.replace("http", "ws", 1) + "/responses"
    with connect(address, additional_headers={"Authorization": "Bearer none"}) as socket:
        socket.send(json.dumps({"type": "response.create", "model": asked.model, "input": "Count.", "store": False}))
        while True:
            event = json.loads(socket.recv(timeout=60))
            kinds[event["type"]].model_validate(event)
            if event["type"] == "response.completed":
                break
        turn = {"type": "response.create", "model": asked.model, "input": "And?", "previous_response_id": ABSENT}
        socket.send(json.dumps(turn))
        error = json.loads(socket.recv(timeout=60))
        types.WebSocketErrorEvent.model_validate(error)
        require(error["error"]["code"] == "previous_response_not_found", f"{error}")


if __name__ == "__main__":
    tell((whole, stored, incomplete, streamed, compacted, automatic_compaction, over_a_websocket))
