"""Calls of functions in what a model writes, in Hermes' and Qwen's form: JSON between `<tool_call>` marks."""

import json
from collections.abc import Iterator
from dataclasses import dataclass

from server.core.prompts.chat_template import CALL_END, CALL_START


@dataclass(frozen=True)
class WrittenCall:
    """A function's name, and its arguments as JSON."""

    name: str
    arguments: str


class CallReader:
    """Tells calls from text, piece by piece; what may become a mark is held back until it is known."""

    def __init__(self) -> None:
        self._held = ""
        self._is_call = False
        self._follows_call = False  # what stands between calls is no text

    def read(self, piece: str) -> Iterator[str | WrittenCall]:
        """What became certain with a piece: texts and calls."""
        self._held += piece
        while True:
            mark = CALL_END if self._is_call else CALL_START
            before, found, after = self._held.partition(mark)
            if not found:
                break
            yield from self._taken(before)
            self._held, self._is_call = after, not self._is_call
        if not self._is_call:
            if self._follows_call:
                self._held = self._held.lstrip()
            kept = _overlap(self._held, CALL_START)
            certain = self._held[: len(self._held) - kept]
            self._held = self._held[len(certain) :]
            if certain:
                self._follows_call = False
                yield certain

    def rest(self) -> Iterator[str | WrittenCall]:
        """What is left at the end: of a call that has no end, the call if it is whole, else its text."""
        held, self._held = self._held, ""
        if self._is_call:
            self._is_call = False
            yield _call(held) or CALL_START + held
        elif held:
            yield held

    def _taken(self, before: str) -> Iterator[str | WrittenCall]:
        if not self._is_call:
            if before.strip():
                yield before
            return
        call = _call(before)
        self._follows_call = call is not None
        yield call or CALL_START + before + CALL_END


def _call(text: str) -> WrittenCall | None:
    """The call that a text is; None where it is none."""
    try:
        call = json.loads(text)
        name, arguments = call["name"], call.get("arguments", {})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    if not isinstance(name, str) or not name:
        return None
    return WrittenCall(name, arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False))


def _overlap(text: str, mark: str) -> int:
    """How many last characters of a text may be the beginning of a mark."""
    most = min(len(text), len(mark) - 1)
    return next((length for length in range(most, 0, -1) if mark.startswith(text[-length:])), 0)
