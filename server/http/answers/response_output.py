"""The output of one response as it is made: its items, and the events that tell of them."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from server.core.responses.calls import WrittenCall
from server.core.responses.items import Item, Message, Status, TextPart, ToolCall, answered_id
from server.http.answers.response_items import new_id, output_text, shown

Event = dict[str, Any]


class Output:
    """Items that are whole, and a message that is being said; every event has the next number."""

    def __init__(self, response_id: str) -> None:
        self._response_id = response_id
        self.items: list[Item] = []
        self._message: Message | None = None
        self._texts: list[str] = []  # of that message
        self._logprobs: dict[str, list[dict[str, Any]]] = {}  # of the messages, by their ids
        self._number = 0

    @property
    def shown(self) -> list[dict[str, Any]]:
        """The items that are whole, as clients get them."""
        output = [shown(item) for item in self.items]
        for item in output:
            if logprobs := self._logprobs.get(item["id"]):
                item["content"][0]["logprobs"] = logprobs
        return output

    def event(self, kind: str, **fields: Any) -> Event:
        """An event of this kind, after those before it."""
        event = {"type": kind, "sequence_number": self._number, **fields}
        self._number += 1
        return event

    def add(self, part: str | WrittenCall, logprobs: list[dict[str, Any]]) -> Iterator[Event]:
        """More text, with its tokens' log-probabilities if they are wanted, or a call."""
        if isinstance(part, WrittenCall):
            yield from self._closed("completed")
            yield from self._called(part)
        elif part or logprobs:
            yield from self._text(part, logprobs)

    def end(self, status: Status) -> Iterator[Event]:
        """The end of what is being said; an answer of no words and no calls is a message all the same."""
        if self._message is None and not any(isinstance(item, ToolCall) for item in self.items):
            yield from self._opened()
        yield from self._closed(status)

    def _opened(self) -> Iterator[Event]:
        self._message, self._texts = Message(self._item_id("msg"), "assistant", (), status="in_progress"), []
        self._logprobs[self._message.id] = []
        yield self._item_event("response.output_item.added", item=shown(self._message))
        yield self._part_event("response.content_part.added", part=output_text(""))

    def _text(self, text: str, logprobs: list[dict[str, Any]]) -> Iterator[Event]:
        if self._message is None:
            yield from self._opened()
        assert self._message is not None
        self._texts.append(text)
        self._logprobs[self._message.id] += logprobs
        yield self._part_event("response.output_text.delta", delta=text, logprobs=logprobs)

    def _closed(self, status: Status) -> Iterator[Event]:
        if self._message is None:
            return
        message = replace(self._message, status=status, parts=(TextPart("".join(self._texts)),))
        yield self._part_event("response.output_text.done", text=message.text, logprobs=self._logprobs[message.id])
        yield self._part_event("response.content_part.done", part=output_text(message.text))
        yield self._item_event("response.output_item.done", item=shown(message))
        self.items.append(message)
        self._message = None

    def _called(self, written: WrittenCall) -> Iterator[Event]:
        call = ToolCall(self._item_id("fc"), new_id("call"), written.name, written.arguments)
        begun = replace(call, arguments="", status="in_progress")
        yield self._item_event("response.output_item.added", item=shown(begun))
        yield self._item_event("response.function_call_arguments.delta", item_id=call.id, delta=call.arguments)
        yield self._item_event("response.function_call_arguments.done", item_id=call.id, arguments=call.arguments)
        yield self._item_event("response.output_item.done", item=shown(call))
        self.items.append(call)

    def _item_id(self, prefix: str) -> str:
        return answered_id(prefix, self._response_id, len(self.items))

    def _item_event(self, kind: str, **fields: Any) -> Event:
        return self.event(kind, output_index=len(self.items), **fields)

    def _part_event(self, kind: str, **fields: Any) -> Event:
        assert self._message is not None
        return self._item_event(kind, item_id=self._message.id, content_index=0, **fields)
