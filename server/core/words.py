"""Tokens one by one, as OpenAI's completions show them, and where they begin in a text."""

import re
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from server.engine.detokenizer import REPLACEMENT, Detokenizer

SENTENCEPIECE_SPACE = "\u2581"
# byte-level BPE writes a byte as its Latin-1 character, or, where that is not printed, as one from U+0100 on (GPT-2)
PRINTED = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
BYTES = {chr(byte): byte for byte in PRINTED} | {
    chr(0x100 + place): byte for place, byte in enumerate(sorted({*range(0x100)} - {*PRINTED}))
}


class Words:
    """Tokens as they are shown one by one."""

    def __init__(self, tokenizer: Any) -> None:
        """`tokenizer`: a transformers one."""
        self._tokenizer = tokenizer
        added = getattr(tokenizer, "added_tokens_decoder", {})
        self.control_tokens: dict[int, Any] = {token_id: token for token_id, token in added.items() if token.special}
        self.raw = cache(self._raw)

    def text(self, token_id: int) -> str:
        """A token alone; a part of a character as OpenAI's completions show it, `bytes:\\xf0\\x9f`."""
        raw = self.raw(token_id)
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw) if _is_partial(raw) else raw.decode()

    def width(self, token_id: int) -> int:
        """How many characters it takes in a text by itself: a part of one takes none."""
        raw = self.raw(token_id)
        return 0 if _is_partial(raw) else len(raw.decode())

    def offsets(self, before: Sequence[int] = (), *, written: str = "") -> "Offsets":
        """Of a text that stands after these tokens.

        Args:
            written: the text, where it is shown as it was written, with control tokens in it.
        """
        return Offsets(self, Detokenizer(self._tokenizer, before, stop=()), written)

    def _raw(self, token_id: int) -> bytes:
        """A token's bytes; where the tokenizer does not tell those of a part of a character, replacements."""
        text: str = self._tokenizer.decode([token_id])
        piece: str = self._tokenizer.convert_ids_to_tokens(token_id) or ""  # none beyond the tokenizer's vocabulary
        if piece.replace(SENTENCEPIECE_SPACE, " ") == f" {text}":  # dropped at the start of a text only
            return f" {text}".encode()
        if REPLACEMENT not in text:
            return text.encode()
        readings = (_fallback_byte(piece), _byte_level(piece))
        return next((raw for raw in readings if raw.decode(errors="replace") == text), text.encode())


class Offsets:
    """Where each token begins in a text; the parts of a character begin where it does.

    Control tokens are not shown and take no characters, but for those that stand in what was written.
    """

    def __init__(self, words: Words, detokenizer: Detokenizer, written: str) -> None:
        self._words, self._detokenizer, self._written = words, detokenizer, written
        self._offset = 0

    def shift(self, num_characters: int) -> None:
        """So many characters, of none of the tokens, stand here."""
        self._offset += num_characters

    def of(self, token_ids: Iterable[int]) -> list[int]:
        """Of the next tokens."""
        return [self._of(token_id) for token_id in token_ids]

    def _of(self, token_id: int) -> int:
        if token_id in self._words.control_tokens:
            return self._of_control(token_id)
        width = self._words.width(token_id)
        added = len(self._detokenizer.add(token_id))
        # a whole token comes last in what it adds, after parts that it leaves without the rest of their character
        start = self._offset + (max(0, added - width) if width else 0)
        self._offset += added
        return start

    def _of_control(self, token_id: int) -> int:
        token, start = self._words.control_tokens[token_id], self._offset
        if token.lstrip:  # it takes the spaces before it, or after it, which no other token has
            start = self._after_spaces(start)
        if not self._written.startswith(str(token), start):
            return self._offset  # a start token, which was not written
        end = start + len(str(token))
        self._offset = self._after_spaces(end) if token.rstrip else end
        return start

    def _after_spaces(self, start: int) -> int:
        rest = self._written[start:]
        return start + len(rest) - len(rest.lstrip())


def _is_partial(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return True
    return False


def _fallback_byte(piece: str) -> bytes:
    """Of a piece like <0xF0>, which SentencePiece has for bytes; else nothing."""
    found = re.fullmatch("<0x([0-9A-F]{2})>", piece)
    return bytes.fromhex(found[1]) if found else b""


def _byte_level(piece: str) -> bytes:
    """Of a piece of byte-level BPE; else nothing."""
    return bytes(BYTES[character] for character in piece) if BYTES.keys() >= set(piece) else b""
