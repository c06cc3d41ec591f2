"""A conversation's items as what a model reads: messages for its template, or paragraphs to compress."""

from collections.abc import Sequence
from dataclasses import replace

from server.core.prompts.chat_template import GAP, NAMES, Said
from server.core.responses.items import Item, Message, ToolCall, ToolOutput


def said(items: Sequence[Item], instructions: str | None = None) -> list[Said]:
    """Messages for the chat template: models know what came before OpenAI's developer messages as the system's."""
    messages = [Said("system", instructions)] if instructions else []
    for item in items:
        if isinstance(item, Message):
            messages.append(Said("system" if item.instructs else item.role, item.text))
        elif isinstance(item, ToolCall):
            # of one message with what was said before it, and with other calls
            spoken = messages.pop() if messages and messages[-1].role == "assistant" else Said("assistant", "")
            messages.append(replace(spoken, calls=(*spoken.calls, (item.name, item.arguments))))
        elif isinstance(item, ToolOutput):
            messages.append(Said("tool", item.output))
    return messages


def told(items: Sequence[Item]) -> str:
    """A paragraph for each item, after its speaker's name: the same however many follow."""
    return "".join(_paragraph(item) for item in items)


def question(items: Sequence[Item]) -> str | None:
    """What was said last, but for the answers; None where nothing was."""
    for item in reversed(items):
        text = item.text if isinstance(item, Message) and item.role == "user" else ""
        text = item.output if isinstance(item, ToolOutput) else text
        if text.strip():
            return text
    return None


def _paragraph(item: Item) -> str:
    if isinstance(item, Message):
        return f"{NAMES['system' if item.instructs else item.role]}:{GAP}{item.text}\n\n"
    if isinstance(item, ToolCall):
        return f"{NAMES['assistant']} calls {item.name}:{GAP}{item.arguments}\n\n"
    if isinstance(item, ToolOutput):
        return f"{NAMES['tool']}:{GAP}{item.output}\n\n"
    return ""
