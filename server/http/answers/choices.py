"""The choices of an answer: one generation each, all at the same time, in pieces as their text becomes certain."""

import re
import time
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from server.core.receipts import Stopwatch
from server.core.together import merged
from server.engine.detokenizer import REPLACEMENT, Detokenizer
from server.engine.protocol import Decoder, FinishReason, Prompt, SamplingParams, TokenEvent

LEAST_LOGPROB = -9999.0  # JSON has no infinity
SENTENCEPIECE_SPACE = "\u2581"
# byte-level BPE writes a byte as its Latin-1 character, or, where that is not printed, as one from U+0100 on (GPT-2)
PRINTED = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
BYTES = {chr(byte): byte for byte in PRINTED} | {
    chr(0x100 + place): byte for place, byte in enumerate(sorted({*range(0x100)} - {*PRINTED}))
}


@dataclass(frozen=True)
class Scored:
    """A token with its log-probability, None where it has none, and the most likely ones in its place."""

    token_id: int
    logprob: float | None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Piece:
    """Text that became certain, the tokens since the piece before it, and why the choice ends, where it does."""

    text: str
    tokens: tuple[Scored, ...]
    finish_reason: FinishReason | None


@dataclass
class Whole:
    """A choice to its end."""

    text: str = ""
    tokens: list[Scored] = field(default_factory=list)
    finish_reason: FinishReason = "length"

    def add(self, piece: Piece) -> None:
        self.text += piece.text
        self.tokens += piece.tokens
        self.finish_reason = piece.finish_reason or self.finish_reason


class Choices:
    """Runs generations beside each other; `num_generated` tokens so far, in the time that `watch` tells."""

    def __init__(
        self,
        decoder: Decoder,
        work: Sequence[tuple[Prompt, SamplingParams]],
        watch: Stopwatch,
        *,
        limit: int,
        gap: str = "",
    ) -> None:
        """
        Args:
            limit: how many of them run at a time.
            gap: what is taken from the beginning of their texts, where they begin with it.
        """
        self._gap = gap
        self._decoder = decoder
        self._work = work
        self.limit = limit
        self.watch = watch
        self.num_generated = 0

    async def pieces(self) -> AsyncGenerator[tuple[int, Piece]]:
        """Each with the index of its choice; the last of a choice has a finish reason."""
        streams = [self._pieces(prompt, params) for prompt, params in self._work]
        started, before = time.monotonic(), self.watch.engine_seconds
        async with aclosing(merged(streams, limit=self.limit)) as pieces:
            async for index, piece in pieces:
                self.watch.engine_seconds = before + time.monotonic() - started
                yield index, piece

    async def whole(self) -> list[Whole]:
        choices = [Whole() for _ in self._work]
        async with aclosing(self.pieces()) as pieces:
            async for index, piece in pieces:
                choices[index].add(piece)
        return choices

    async def _pieces(self, prompt: Prompt, params: SamplingParams) -> AsyncGenerator[Piece]:
        if params.max_tokens == 0:
            yield Piece("", (), "length")
            return
        tokens: list[Scored] = []
        gap = self._gap
        async with aclosing(self._decoder.generate(prompt, params, meter=self.watch.meter)) as events:
            async for event in events:
                self.num_generated += 1
                tokens.append(_scored(event))
                if event.text or event.finish_reason is not None:
                    yield Piece(event.text.removeprefix(gap), tuple(tokens), event.finish_reason)
                    gap = "" if event.text else gap
                    tokens.clear()


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

    def of(self, tokens: Iterable[Scored]) -> list[int]:
        """Of the next tokens."""
        offsets = []
        for token in tokens:
            width = self._words.width(token.token_id)
            added = len(self._detokenizer.add(token.token_id))
            # a whole token comes last in what it adds, after parts that it leaves without the rest of their character
            offsets.append(self._offset + (max(0, added - width) if width else 0))
            self._offset += added
        return offsets


def finite(logprob: float) -> float:
    return max(logprob, LEAST_LOGPROB)


def _scored(event: TokenEvent) -> Scored:
    return Scored(event.token_id, event.logprob, event.top_logprobs)


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
