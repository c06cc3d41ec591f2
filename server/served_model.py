"""What the server knows of the model it serves, apart from its weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from model.config import SummaryConfig
from model.positions import Positions
from server.errors import InvalidRequest


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

    def require_known(self, token_ids: Sequence[int], *, param: str) -> None:
        """Refuse token ids outside the vocabulary."""
        for token_id in (min(token_ids, default=0), max(token_ids, default=0)):
            if not 0 <= token_id < self.vocabulary_size:
                raise InvalidRequest(
                    f"token id {token_id} is outside the vocabulary of {self.vocabulary_size}", param=param
                )
