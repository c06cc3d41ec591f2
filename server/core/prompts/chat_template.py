"""Messages to the text that the model reads: by the tokenizer's own template, else by a plain one."""

from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import TemplateError

from server.core.served_model import ServedModel
from server.errors import InvalidRequest

NAMES = {"system": "System", "user": "User", "assistant": "Assistant"}


@dataclass(frozen=True)
class Said:
    """A message; `role` is one of system, user and assistant."""

    role: str
    text: str


@dataclass(frozen=True)
class Rendered:
    """A conversation as token ids, up to where the assistant speaks; strings of `stop` tell that it has spoken."""

    token_ids: tuple[int, ...]
    stop: tuple[str, ...]


def render(model: ServedModel, messages: Sequence[Said]) -> Rendered:
    """Render and tokenise; what was said before is rendered the same however many messages follow.

    The plain template writes a paragraph for each message, after its speaker's name. A template of the tokenizer's own
    writes the start token itself, if it wants one.

    Raises:
        InvalidRequest: the tokenizer's template refuses the messages, or one has a token without embedding.
    """
    if not model.has_chat_template:
        lines = [f"{NAMES[message.role]}: {message.text}\n\n" for message in messages]
        token_ids = model.tokenise("".join([*lines, "Assistant:"]), is_start=True, param="messages")
        return Rendered(tuple(token_ids), tuple(f"\n\n{name}:" for name in NAMES.values()))
    plain = [{"role": message.role, "content": message.text} for message in messages]
    try:
        text = model.tokenizer.apply_chat_template(plain, tokenize=False, add_generation_prompt=True)
    except TemplateError as error:
        raise InvalidRequest(f"the model's chat template refuses the messages: {error}", param="messages") from error
    return Rendered(tuple(model.tokenise(text, is_start=False, param="messages")), ())
