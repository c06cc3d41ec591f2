"""The `openai` package's Responses: what it sends is taken, what it gets it understands, faults are its own errors."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import openai
from checks import Asked, Skipped, require, tell
from pydantic import BaseModel

ABSENT = "resp_" + "0" * 32
IMAGE = "data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAACAkQBADs="
MOST_TRIES = 100  # until an answer of the tiny model is longer than 16 tokens: one in five is
LIFE = (
    "response.created",
    "response.in_progress",
    "response.output_item.added",
    "response.content_part.added",
    "response.output_text.delta",
)
END = (
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
    "response.completed",
)


class Answer(BaseModel):
    ships: int


@contextmanager
def client_of(asked: Asked) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=asked.url, api_key="none", max_retries=0, timeout=60) as client:
        yield client


def refused(kind: type[openai.APIStatusError] | tuple[type[openai.APIStatusError], ...], work: Any) -> Any:
    """The error that a call raises, which has to be of this kind and to have OpenAI's envelope."""
    try:
        work()
    except openai.APIStatusError as error:
        require(isinstance(error, kind), f"{type(error).__name__}, {error.status_code}: {error.message}")
        require(error.type and error.message, f"the envelope is {error.body}")
        return error
    raise AssertionError("it was taken")


def create(asked: Asked) -> None:
    with client_of(asked) as client:
        response = client.responses.create(
            model=asked.model, input="Who counts ships?", instructions="Be short.", metadata={"a": "b"}
        )
        require(response.id and response.object == "response", "id or object")
        require(response.status == "completed", f"status is {response.status}")
        require(response.output_text, "there is no text")
        require(response.metadata == {"a": "b"} and response.instructions == "Be short.", "what was said came not back")
        require(response.error is None and response.incomplete_details is None, "error or incomplete_details")
        usage = response.usage
        require(usage is not None and usage.total_tokens == usage.input_tokens + usage.output_tokens, f"{usage}")


def items_and_roles(asked: Asked) -> None:
    with client_of(asked) as client:
        said: Any = [
            {"role": "developer", "content": "Be short."},
            {"role": "user", "content": [{"type": "input_text", "text": "My name is Alice."}]},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hello."}]},
            {"type": "message", "role": "user", "content": "What is my name?"},
        ]
        first = client.responses.create(model=asked.model, input=said)
        again = [*said, *first.output, {"role": "user", "content": "And?"}]
        second = client.responses.create(model=asked.model, input=again)
        require(second.usage.input_tokens > first.usage.input_tokens, "what was said before was not read")


def max_output_tokens(asked: Asked) -> None:
    with client_of(asked) as client:
        for _ in range(MOST_TRIES):
            response = client.responses.create(model=asked.model, input="Count.", max_output_tokens=16)
            if response.status == "incomplete":
                break
        require(response.incomplete_details.reason == "max_output_tokens", f"{response.incomplete_details}")
        require(response.usage.output_tokens == 16, f"{response.usage.output_tokens} tokens")
        require(response.output[-1].status == "incomplete", "the item is not incomplete")


def stream(asked: Asked) -> None:
    with client_of(asked) as client:
        with client.responses.stream(model=asked.model, input="Count from 1 to 5.") as events:
            seen = list(events)
            final = events.get_final_response()
        in_order(seen)
        deltas = "".join(event.delta for event in seen if event.type == "response.output_text.delta")
        require(deltas == final.output_text, "the deltas are not the text")
        require(final.usage is not None, "there is no usage")


def create_streamed(asked: Asked) -> None:
    with client_of(asked) as client:
        in_order(list(client.responses.create(model=asked.model, input="Count.", stream=True)))


def in_order(events: list[Any]) -> None:
    kinds = [event.type for event in events]
    require(tuple(dict.fromkeys(kinds)) == LIFE + END, f"the events are {list(dict.fromkeys(kinds))}")
    numbers = [event.sequence_number for event in events]
    require(numbers == list(range(numbers[0], numbers[0] + len(numbers))), f"the numbers are {numbers}")


def previous_response_id(asked: Asked) -> None:
    with client_of(asked) as client:
        first = client.responses.create(model=asked.model, input="My name is Alice.", instructions="Be short.")
        alone = client.responses.create(model=asked.model, input="What is my name?")
        second = client.responses.create(model=asked.model, input="What is my name?", previous_response_id=first.id)
        require(second.previous_response_id == first.id, "previous_response_id came not back")
        require(second.instructions is None, "instructions went on to the next response")
        require(second.usage.input_tokens > alone.usage.input_tokens, "the first turn was not read")


def stored_and_deleted(asked: Asked) -> None:
    with client_of(asked) as client:
        made = client.responses.create(model=asked.model, input="Who counts ships?")
        require(client.responses.retrieve(made.id).output_text == made.output_text, "another text came back")
        items = client.responses.input_items.list(made.id)
        require(items.data[0].content[0].text == "Who counts ships?", f"the input is {items.data}")
        client.responses.delete(made.id)
        refused(openai.NotFoundError, lambda: client.responses.retrieve(made.id))


def not_stored(asked: Asked) -> None:
    with client_of(asked) as client:
        made = client.responses.create(model=asked.model, input="Who counts ships?", store=False)
        require(made.store is False, "store is not false")
        refused(openai.NotFoundError, lambda: client.responses.retrieve(made.id))


def input_tokens(asked: Asked) -> None:
    with client_of(asked) as client:
        counted = client.responses.input_tokens.count(model=asked.model, input="Who counts ships?")
        made = client.responses.create(model=asked.model, input="Who counts ships?")
        require(counted.input_tokens == made.usage.input_tokens, f"{counted.input_tokens}, {made.usage.input_tokens}")


def compact(asked: Asked) -> None:
    said: Any = [
        {"role": "user", "content": "My name is Alice."},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hello Alice. " * 20}]},
        {"role": "user", "content": "Remember that."},
    ]
    with client_of(asked) as client:
        compacted = client.responses.compact(model=asked.model, input=said)
        require(compacted.object == "response.compaction", compacted.object)
        kinds = [item.type for item in compacted.output]
        require(kinds == ["message", "message", "compaction"], f"the items are {kinds}")
        texts = [item.content[0].text for item in compacted.output[:-1]]
        require(texts == ["My name is Alice.", "Remember that."], f"the users' texts are {texts}")
        asks = [*compacted.output, {"role": "user", "content": "What is my name?"}]
        require(client.responses.create(model=asked.model, input=asks).status == "completed", "it did not go on")
        twice = client.responses.compact(model=asked.model, input=asks)
        kinds = [item.type for item in twice.output]
        require(kinds == ["message"] * 3 + ["compaction"], f"compacted again the items are {kinds}")


def compact_a_stored_response(asked: Asked) -> None:
    with client_of(asked) as client:
        made = client.responses.create(model=asked.model, input="My name is Alice.")
        compacted = client.responses.compact(model=asked.model, previous_response_id=made.id)
        require(compacted.output[-1].type == "compaction", f"{compacted.output}")


def parse(asked: Asked) -> None:
    with client_of(asked) as client:
        parsed = client.responses.parse(model=asked.model, input="Who counts ships?")
        require(parsed.output_text and parsed.output_parsed is None, "the text, or what was parsed of it")


def parse_a_schema(asked: Asked) -> None:
    """A format that cannot be kept is refused by its name."""
    with client_of(asked) as client:
        try:
            parsed = client.responses.parse(model=asked.model, input="How many ships?", text_format=Answer)
        except openai.BadRequestError as error:
            require("text" in (error.param or ""), f"param is {error.param}")
            raise Skipped("answers are not held to a schema: refused with 400") from error
        require(isinstance(parsed.output_parsed, Answer), f"{parsed.output_text}")


def errors(asked: Asked) -> None:
    with client_of(asked) as client:
        make = client.responses.create
        refused(openai.NotFoundError, lambda: make(model="nobody", input="a"))
        bad = refused(openai.BadRequestError, lambda: make(model=asked.model, input="a", temperature=99))
        require(bad.param == "temperature", f"param is {bad.param}")
        unknown = refused(
            (openai.BadRequestError, openai.NotFoundError),
            lambda: make(model=asked.model, input="a", previous_response_id=ABSENT),
        )
        require(unknown.code == "previous_response_not_found", f"code is {unknown.code}")
        forged: Any = [{"type": "compaction", "encrypted_content": "abc"}, {"role": "user", "content": "a"}]
        refused((openai.BadRequestError, openai.ConflictError), lambda: make(model=asked.model, input=forged))


def images(asked: Asked) -> None:
    said: Any = [{"role": "user", "content": [{"type": "input_image", "image_url": IMAGE, "detail": "auto"}]}]
    with client_of(asked) as client:
        error = refused(openai.BadRequestError, lambda: client.responses.create(model=asked.model, input=said))
        require("input_image" in error.message, error.message)
    raise Skipped("the model reads text alone: refused by its name")


def websocket(asked: Asked) -> None:
    with client_of(asked) as client, client.responses.connect() as connection:
        connection.response.create(model=asked.model, input="My name is Alice.", store=False)
        first = turn(connection)
        connection.response.create(
            model=asked.model, input="What is my name?", store=False, previous_response_id=first.id
        )
        require(turn(connection).previous_response_id == first.id, "the second turn does not follow the first")


def turn(connection: Any) -> Any:
    """The response that a turn ends with."""
    events = []
    for event in connection:
        events.append(event)
        if event.type in ("response.completed", "response.failed", "response.incomplete", "error"):
            break
    require(events[-1].type == "response.completed", f"the turn ended with {events[-1]}")
    in_order(events)
    return events[-1].response


CHECKS = (
    create,
    items_and_roles,
    max_output_tokens,
    stream,
    create_streamed,
    previous_response_id,
    stored_and_deleted,
    not_stored,
    input_tokens,
    compact,
    compact_a_stored_response,
    parse,
    parse_a_schema,
    errors,
    images,
    websocket,
)

if __name__ == "__main__":
    tell(CHECKS)
