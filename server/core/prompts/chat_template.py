"""Messages to the text that the model reads: by the tokenizer's own template, else by a plain one."""

from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import TemplateError

from server.core.served_model import ServedModel
from server.errors import InvalidRequest

GAP = " "  # of the plain template, which leaves it to the model: a word's token has its space
NAMES = {"system": "System", "user": "User", "assistant": "Assistant"}


@dataclass(frozen=True)
class Said:
    """A message; `role` is one of system, user and assistant."""

    role: str
    text: str


@dataclass(frozen=True)
class Rendered:
    """A conversation as token ids, up to where the assistant speaks.

    Attributes:
        stop: strings that tell that it has spoken.
        gap: what stands before its words where it begins with that, and is none of them.
    """

    token_ids: tuple[int, ...]
    stop: tuple[str, ...] = ()
    gap: str = ""


def render(model: ServedModel, messages: Sequence[Said], *, parse_special: bool = False) -> Rendered:
    """Render and tokenise; what was said before is rendered the same however many messages follow.

    The plain template writes a paragraph for each message, after its speaker's name. A template of the tokenizer's own
    writes the start token itself, if it wants one. The texts of control tokens in messages are text: else whoever is
    quoted could speak for others.

    Args:
        parse_special: they stand for the tokens.

    Raises:
        InvalidRequest: the tokenizer's template refuses the messages, or one has a token without embedding, or with a
            text that can only be a control token.
    """
    if not model.has_chat_template:
        lines = [f"{NAMES[message.role]}:{_gap(message)}{message.text}\n\n" for message in messages]
        text = "".join([*lines, "Assistant:"])
        token_ids = model.tokenise(text, is_start=True, parse_special=parse_special, param="messages")
        return Rendered(tuple(token_ids), tuple(f"\n\n{name}:" for name in NAMES.values()), GAP)
    written = (lambda text: text) if parse_special else model.tokeniser.marked
    plain = [{"role": message.role, "content": written(message.text)} for message in messages]
    try:
        text = model.tokenizer.apply_chat_template(plain, tokenize=False, add_generation_prompt=True)
    except TemplateError as error:
        raise InvalidRequest(f"the model's chat template refuses the messages: {error}", param="messages") from error
    return Rendered(tuple(model.tokenise_marked(text, param="messages")))


def _gap(message: Said) -> str:
    """What stands between a speaker's name and words: of an answer as it was made, which may have had none."""
    has_none = message.role == "assistant" and (not message.text or message.text.startswith("\n"))
    return "" if has_none else GAP
