"""Token ids to text, as they come: no character is split, no stop string is shown."""

from collections.abc import Sequence
from typing import Protocol

REPLACEMENT = "\ufffd"  # what incomplete UTF-8 decodes to
MAX_UNSETTLED = 3  # a character has at most four bytes (RFC 3629), and each of three may show as a replacement
CONTEXT_TOKENS = 4  # kept before new tokens
MAX_TOKENS = 16  # decoded again with each new one before the oldest are let go


class Tokenizer(Protocol):
    """The part of a transformers tokenizer that is needed here."""

    def decode(self, token_ids: list[int], skip_special_tokens: bool = False) -> str: ...


class Detokenizer:
    """Turns one sequence's tokens into text.

    Tokens are decoded together with the few before them, since a tokenizer may write a token differently at the start
    of a text, and only the text they add is taken.
    """

    def __init__(self, tokenizer: Tokenizer, prompt_ids: Sequence[int], stop: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._ids = list(prompt_ids)[-CONTEXT_TOKENS:]
        self._num_shown = len(_settled(self._decode()))
        self._stop = tuple(stop)
        self._held = ""
        self.is_stopped = False

    def add(self, token_id: int) -> str:
        """The text that is certain now that this token has come; `is_stopped` tells that a stop string ended it."""
        self._ids.append(token_id)
        whole = self._decode()
        settled = _settled(whole)
        text = settled[self._num_shown :]
        self._num_shown = max(self._num_shown, len(settled))
        if settled == whole and len(self._ids) > MAX_TOKENS:
            self._ids = self._ids[-CONTEXT_TOKENS:]
            self._num_shown = len(self._decode())
        return self._release(text)

    def flush(self) -> str:
        """The rest, once no token follows: text held back, and bytes that never became a character."""
        text = self._release(self._decode()[self._num_shown :]) + self._held
        self._held = ""
        return text

    def _decode(self) -> str:
        return self._tokenizer.decode(self._ids, skip_special_tokens=True)

    def _release(self, text: str) -> str:
        """Hold back the end that may become a stop string; cut at the first that is complete."""
        if self.is_stopped:
            return ""
        text = self._held + text
        cuts = [at for at in (text.find(stop) for stop in self._stop) if at >= 0]
        if cuts:
            self.is_stopped, self._held = True, ""
            return text[: min(cuts)]
        held = max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of `text` begin `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)


def pieces(token_ids: Sequence[int], tokenizer: Tokenizer) -> list[str]:
    """The text of each token, which together are the text of all; a character's is its last token's."""
    if not token_ids:
        return []
    detokenizer = Detokenizer(tokenizer, (), ())
    found = [detokenizer.add(token_id) for token_id in token_ids]
    found[-1] += detokenizer.flush()
    return found


def _settled(text: str) -> str:
    """A text less the replacements at its end that further bytes may still turn into a character."""
    end = len(text)
    while end and len(text) - end < MAX_UNSETTLED and text[end - 1] == REPLACEMENT:
        end -= 1
    return text[:end]
