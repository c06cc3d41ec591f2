"""Token ids to text, as they come: no character is split, no stop string is shown."""

from collections.abc import Sequence
from typing import Protocol

REPLACEMENT = "\ufffd"  # what incomplete UTF-8 decodes to
MAX_PENDING_TOKENS = 4  # UTF-8 characters have at most four bytes (RFC 3629): more pending tokens are not one character


class Decoder(Protocol):
    """The part of a transformers tokenizer that is needed here."""

    def decode(self, token_ids: list[int], skip_special_tokens: bool = False) -> str: ...


class Detokenizer:
    """Turns one sequence's tokens into text.

    Tokens are decoded together with the few before them, since a tokenizer may write a token differently at the start
    of a text, and only the text they add is taken.
    """

    def __init__(self, tokenizer: Decoder, prompt_ids: Sequence[int], stop: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._ids = list(prompt_ids)[-MAX_PENDING_TOKENS:]
        self._context_start = 0
        self._pending_start = len(self._ids)
        self._stop = tuple(stop)
        self._held = ""
        self.is_stopped = False

    def add(self, token_id: int) -> str:
        """The text that is certain now that this token has come; `is_stopped` tells that a stop string ended it."""
        self._ids.append(token_id)
        return self._release(self._decode_pending(is_last=False))

    def flush(self) -> str:
        """The rest, once no token follows: text held back, and bytes that never became a character."""
        text = self._release(self._decode_pending(is_last=True)) + self._held
        self._held = ""
        return text

    def _decode_pending(self, *, is_last: bool) -> str:
        before = self._tokenizer.decode(self._ids[self._context_start : self._pending_start], skip_special_tokens=True)
        whole = self._tokenizer.decode(self._ids[self._context_start :], skip_special_tokens=True)
        num_pending = len(self._ids) - self._pending_start
        if whole.endswith(REPLACEMENT) and num_pending < MAX_PENDING_TOKENS and not is_last:
            return ""
        self._context_start, self._pending_start = self._pending_start, len(self._ids)
        return whole[len(before) :]

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
