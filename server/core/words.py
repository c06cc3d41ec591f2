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
        self.raw = cache(self._raw)

    def text(self, token_id: int) -> str:
        """A token alone; a part of a character as OpenAI's completions show it, `bytes:\\xf0\\x9f`."""
        raw = self.raw(token_id)
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw) if _is_partial(raw) else raw.decode()

    def width(self, token_id: int) -> int:
        """How many characters it takes in a text by itself: a part of one takes none."""
        raw = self.raw(token_id)
        return 0 if _is_partial(raw) else len(raw.decode())

    def offsets(self, before: Sequence[int] = ()) -> "Offsets":
        """Of a text that stands after these tokens."""
        return Offsets(self, Detokenizer(self._tokenizer, before, stop=()))

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
    """Where each token begins in a text; the parts of a character begin where it does."""

    def __init__(self, words: Words, detokenizer: Detokenizer) -> None:
        self._words, self._detokenizer = words, detokenizer
        self._offset = 0

    def shift(self, num_characters: int) -> None:
        """So many characters, of none of the tokens, stand here."""
        self._offset += num_characters

    def of(self, token_ids: Iterable[int]) -> list[int]:
        """Of the next tokens."""
        offsets = []
        for token_id in token_ids:
            width = self._words.width(token_id)
            added = len(self._detokenizer.add(token_id))
            # a whole token comes last in what it adds, after parts that it leaves without the rest of their character
            offsets.append(self._offset + (max(0, added - width) if width else 0))
            self._offset += added
        return offsets


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
