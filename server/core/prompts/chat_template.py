"""Messages to the text that the model reads: by the tokenizer's own template, else by a plain one."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

from jinja2 import Environment, TemplateError, meta

from server.core.served_model import ServedModel, require_possible
from server.errors import InvalidRequest

GAP = " "  # of the plain template, which leaves it to the model: a word's token has its space
NAMES = {"system": "System", "user": "User", "assistant": "Assistant", "tool": "Tool"}
SPEAKERS = ("System", "User", "Assistant")  # where one of them speaks, an answer has ended
CALL_START, CALL_END = "<tool_call>", "</tool_call>"  # as Hermes' and Qwen's templates have models write calls


@dataclass(frozen=True)
class Said:
    """A message; `role` is one of system, user, assistant and tool.

    `calls`: of functions that the assistant called, names and arguments as JSON.
    """

    role: str
    text: str
    calls: tuple[tuple[str, str], ...] = ()

    @property
    def num_characters(self) -> int:
        return len(self.text) + sum(len(name) + len(arguments) for name, arguments in self.calls)


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


def render(
    model: ServedModel,
    messages: Sequence[Said],
    *,
    tools: Sequence[Mapping[str, object]] = (),
    parse_special: bool = False,
    param: str = "messages",
    most: int | None = None,
) -> Rendered:
    """Render and tokenise; what was said before is rendered the same however many messages follow.

    The plain template writes a paragraph for each message, after its speaker's name. A template of the tokenizer's own
    writes the start token itself, if it wants one. The texts of control tokens in messages are text: else whoever is
    quoted could speak for others.

    Args:
        tools: definitions of functions (`{"type": "function", "function": …}`).
        parse_special: they stand for the tokens.
        param: the field that the messages came from, for errors.
        most: how many tokens there may be; None for any number.

    Raises:
        TooLong: a long conversation's beginning alone has more tokens than `most`.
        InvalidRequest: the tokenizer's template refuses the messages or has no place for tools, or a message has a
            token without embedding, or with a text that can only be a control token.
    """
    if (tools or any(message.calls or message.role == "tool" for message in messages)) and not takes_tools(model):
        raise InvalidRequest(
            f"the chat template of {model.name!r} has no place for tools, their calls and outputs",
            param="tools" if tools else param,
        )
    if not model.has_chat_template:
        lines = [f"{NAMES[message.role]}:{_gap(message)}{message.text}\n\n" for message in messages]
        text = "".join([*lines, "Assistant:"])
        tokenise = partial(model.tokenise, is_start=True, parse_special=parse_special, param=param)
        _require_possible(text, most, tokenise, param)
        return Rendered(tuple(tokenise(text)), tuple(f"\n\n{name}:" for name in SPEAKERS), GAP)
    written = (lambda text: text) if parse_special else model.tokeniser.marked
    try:
        text = model.tokenizer.apply_chat_template(
            [_as_template_takes(message, written) for message in messages],
            tools=[_written(tool, written) for tool in tools] or None,
            tokenize=False,
            add_generation_prompt=True,
        )
    except TemplateError as error:
        raise InvalidRequest(f"the model's chat template refuses the messages: {error}", param=param) from error
    except RecursionError:
        raise InvalidRequest("the arguments of a call are nested too deeply for a chat template", param=param) from None
    tokenise = partial(model.tokenise_marked, param=param)
    _require_possible(text, most, tokenise, param)
    return Rendered(tuple(tokenise(text)))


async def rendered_in_thread(
    model: ServedModel,
    messages: Sequence[Said],
    *,
    tools: Sequence[Mapping[str, object]] = (),
    parse_special: bool = False,
    param: str = "messages",
    most: int | None = None,
) -> Rendered:
    """As `render`, off the event loop."""
    work = partial(render, model, messages, tools=tools, parse_special=parse_special, param=param, most=most)
    return await model.long_texts.in_thread(sum(message.num_characters for message in messages), work)


def takes_tools(model: ServedModel) -> bool:
    """Whether a model's chat template renders tools, and has calls written in a form that is read here."""
    template = model.tokenizer.chat_template
    return isinstance(template, str) and _names_tools(template)


@lru_cache
def _names_tools(template: str) -> bool:
    try:
        parsed = Environment(autoescape=False, extensions=["jinja2.ext.loopcontrols"]).parse(template)
    except TemplateError:
        return False
    return "tools" in meta.find_undeclared_variables(parsed) and CALL_START in template


def _as_template_takes(message: Said, written: Callable[[str], str]) -> dict[str, object]:
    """A message as transformers' templates know it (huggingface.co/docs/transformers, chat_templating)."""
    plain: dict[str, object] = {"role": message.role, "content": written(message.text)}
    if message.calls:
        plain["tool_calls"] = [
            {"type": "function", "function": {"name": written(name), "arguments": _written(_parsed(given), written)}}
            for name, given in message.calls
        ]
    return plain


def _parsed(arguments: str) -> object:
    """A call's arguments as templates want them; what is no JSON as it is."""
    try:
        return json.loads(arguments)
    except ValueError:
        return arguments


def _written(value: object, written: Callable[[str], str]) -> object:
    """A JSON value with the texts in it written so."""
    if isinstance(value, str):
        return written(value)
    if isinstance(value, list):
        return [_written(each, written) for each in value]
    if isinstance(value, dict):
        return {written(name): _written(each, written) for name, each in value.items()}
    return value


def _require_possible(text: str, most: int | None, tokenise: Callable[[str], list[int]], param: str) -> None:
    if most is not None:
        require_possible(text, most, tokenise, what=param, limit="the window has", param=param)


def _gap(message: Said) -> str:
    """What stands between a speaker's name and words: of an answer as it was made, which may have had none."""
    has_none = message.role == "assistant" and (not message.text or message.text.startswith("\n"))
    return "" if has_none else GAP
