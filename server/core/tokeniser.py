"""Texts to token ids."""

from typing import Any


class Tokeniser:
    """A transformers tokenizer, for any thread.

    `control_tokens`: by their texts, tokens that are no text and are not shown. `num_ids`: one more than its highest id.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        added = getattr(tokenizer, "added_tokens_decoder", {})
        self.control_tokens: dict[str, int] = {
            str(token): token_id for token_id, token in added.items() if token.special
        }
        self.num_ids = 1 + max(tokenizer.get_vocab().values(), default=-1)
        self._num_before, self._num_after = self._around()

    def ids(self, text: str, *, is_start: bool) -> list[int]:
        """Token ids of a text.

        Args:
            is_start: the tokenizer's start token stands before them; an end token that it appends never follows.
        """
        token_ids = self._parsed(text, is_start)
        return token_ids[: -self._num_after] if is_start and self._num_after else token_ids

    def _parsed(self, text: str, is_start: bool) -> list[int]:
        token_ids: list[int] = self._tokenizer(text, add_special_tokens=is_start, verbose=False)["input_ids"]
        return token_ids

    def _around(self) -> tuple[int, int]:
        """How many tokens the tokenizer puts before and after a text that begins one."""
        alone, whole = self._parsed("a", is_start=False), self._parsed("a", is_start=True)
        for before in range(len(whole) - len(alone) + 1):
            if whole[before : before + len(alone)] == alone:
                return before, len(whole) - len(alone) - before
        return 0, 0
