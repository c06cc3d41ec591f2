"""Texts to token ids: control tokens as such, or as the text that they are written with."""

import copy
import re
import secrets
from collections.abc import Sequence
from typing import Any

from tokenizers import AddedToken

from server.errors import InvalidRequest


class Tokeniser:
    """A transformers tokenizer, and a copy of it that reads control tokens' texts as text. For any thread.

    `control_tokens`: by their texts, tokens that are no text and are not shown.
    `num_ids`: one more than its highest id.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        added = getattr(tokenizer, "added_tokens_decoder", {})
        self.control_tokens: dict[str, int] = {
            str(token): token_id for token_id, token in added.items() if token.special
        }
        self.num_ids = 1 + max(tokenizer.get_vocab().values(), default=-1)
        longest_first = sorted(self.control_tokens, key=len, reverse=True)
        self._control = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        # private-use characters around what nobody can guess: a text that has them is not a client's
        nonce = secrets.token_hex(8)
        self._written = {token: f"\ue000{nonce}w{place}\ue001" for place, token in enumerate(longest_first)}
        self._meant = {token: f"\ue000{nonce}m{place}\ue001" for place, token in enumerate(longest_first)}
        self._marks = re.compile(f"\ue000{nonce}w\\d+\ue001")
        self._literals = {mark: token for token, mark in self._written.items()}
        self._plain = self._copy(added)
        self._num_before, self._num_after = self._around()

    def ids(self, text: str, *, is_start: bool, parse_special: bool) -> list[int]:
        """Token ids of a text.

        Args:
            is_start: the tokenizer's start token stands before them; an end token that it appends never follows.
            parse_special: the texts of control tokens stand for these.

        Raises:
            InvalidRequest: the text of a control token, which the tokenizer cannot read as text.
        """
        token_ids = self._parsed(text, is_start) if parse_special else self._read(text, is_start)
        if is_start and self._num_after:
            token_ids = token_ids[: -self._num_after]
        if not parse_special:
            self._require_text(text, token_ids[self._num_before if is_start else 0 :])
        return token_ids

    def marked(self, text: str) -> str:
        """The text with marks in the place of control tokens, so that a template's own can be told from them."""
        return self._control.sub(lambda found: self._written[found[0]], text)

    def ids_of_marked(self, text: str) -> list[int]:
        """Token ids of what a template made of marked texts: its own control tokens as such, marks as text."""
        if not self._marks.search(text):
            return self._parsed(text, is_start=False)
        if self._plain is None:
            literal = self._literals[self._marks.findall(text)[0]]
            raise InvalidRequest(
                f"the text has {literal!r}, a control token of a tokenizer that cannot read it as text"
            )
        text = self._control.sub(lambda found: self._meant[found[0]], text)
        literal_text = self._marks.sub(lambda found: self._literals[found[0]], text)
        token_ids: list[int] = self._plain.encode_batch([literal_text], add_special_tokens=False)[0].ids
        self._require_text(literal_text, token_ids)
        own = {self._plain.token_to_id(mark): self.control_tokens[token] for token, mark in self._meant.items()}
        return [own.get(token_id, token_id) for token_id in token_ids]

    def _parsed(self, text: str, is_start: bool) -> list[int]:
        token_ids: list[int] = self._tokenizer(text, add_special_tokens=is_start, verbose=False)["input_ids"]
        return token_ids

    def _read(self, text: str, is_start: bool) -> list[int]:
        """Token ids of a text in which nothing is control."""
        if self._plain is not None:
            read: list[int] = self._plain.encode_batch([text], add_special_tokens=is_start)[0].ids
            return read
        if not self._control.search(text):
            return self._parsed(text, is_start)
        options = {"add_special_tokens": is_start, "split_special_tokens": True, "verbose": False}
        token_ids: list[int] = self._tokenizer(text, **options)["input_ids"]
        return token_ids

    def _copy(self, added: dict[int, Any]) -> Any:
        """A backend that reads control tokens as text, and marks of them as such; None of a tokenizer without one."""
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if backend is None or not hasattr(backend, "encode_special_tokens"):
            return None
        # a copy: transformers' `split_special_tokens` changes the backend for all threads
        plain = copy.deepcopy(backend)
        plain.encode_special_tokens = True
        plain.no_truncation()
        plain.no_padding()
        flags = {str(token): token for token in added.values() if token.special}
        plain.add_tokens(
            [
                AddedToken(mark, lstrip=flags[token].lstrip, rstrip=flags[token].rstrip, normalized=False)
                for token, mark in self._meant.items()
            ]
        )
        return plain

    def _around(self) -> tuple[int, int]:
        """How many tokens the tokenizer puts before and after a text that begins one."""
        alone, whole = self._parsed("a", is_start=False), self._parsed("a", is_start=True)
        for before in range(len(whole) - len(alone) + 1):
            if whole[before : before + len(alone)] == alone:
                return before, len(whole) - len(alone) - before
        return 0, 0

    def _require_text(self, text: str, token_ids: Sequence[int]) -> None:
        """Refuse a control token that came of its text all the same: some models have it among their pieces."""
        for found in set(self._control.findall(text)):
            if self.control_tokens[found] in token_ids:
                raise InvalidRequest(f"the text has {found!r}, which the tokenizer reads as its control token alone")
