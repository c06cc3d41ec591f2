"""What the server knows of the model it serves, apart from its weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from model.config import SummaryConfig
from model.positions import Positions
from server.errors import InvalidRequest, ModelNotFound, TooLong


@dataclass(frozen=True)
class ServedModel:
    """Attributes: `max_sequence_tokens` positions of a KV row; `tokenizer` a transformers one, safe across threads."""

    name: str
    fingerprint: str
    config: SummaryConfig
    positions: Positions
    max_sequence_tokens: int
    vocabulary_size: int
    hidden_size: int
    dtype: str
    device: str
    created: int
    tokenizer: Any

    def tokenise(self, text: str, *, is_start: bool) -> list[int]:
        """Token ids of a text, after the tokenizer's start token where the text is the first of its context."""
        token_ids: list[int] = self.tokenizer(text, add_special_tokens=is_start, verbose=False)["input_ids"]
        return token_ids

    def num_vectors(self, num_segments: int) -> int:
        """How many vectors condition what follows a document of so many segments."""
        return self.config.summary_length * (num_segments if self.config.accumulate_summary else min(num_segments, 1))

    def require_name(self, name: str | None) -> None:
        """Refuse a name that is not this model's; None asks for whichever is served."""
        if name is not None and name != self.name:
            raise ModelNotFound(f"there is no model {name!r}; {self.name!r} is served", param="model")

    def require_segments(self, lengths: Sequence[int]) -> None:
        """Refuse a document with a segment, of these lengths, that would not fit after the vectors of those before."""
        for index, num_tokens in enumerate(lengths):
            if num_tokens > self.positions.capacity(self.num_vectors(index), self.config.summary_length):
                raise TooLong(
                    f"the document has {sum(lengths)} tokens in {len(lengths)} segments; the model's "
                    f"{self.positions.max_positions} positions take {index} segments, {sum(lengths[:index])} tokens",
                    param="text",
                )

    def require_known(self, token_ids: Sequence[int], *, param: str) -> None:
        """Refuse token ids outside the vocabulary."""
        for token_id in (min(token_ids, default=0), max(token_ids, default=0)):
            if not 0 <= token_id < self.vocabulary_size:
                raise InvalidRequest(
                    f"token id {token_id} is outside the vocabulary of {self.vocabulary_size}", param=param
                )
