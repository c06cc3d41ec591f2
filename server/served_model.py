"""What the server knows of the model it serves, apart from its weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from model.config import SummaryConfig
from model.positions import Positions
from server.errors import InvalidRequest, ModelNotFound, TooLong

MAX_DOCUMENT_TOKENS = 4_000_000  # of a document whose segments need no room for those before them
MAX_CHARACTERS_A_TOKEN = 16  # on average, of a text so long that its beginning is looked at first


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
    is_trained: bool = True

    def tokenise(self, text: str, *, is_start: bool) -> list[int]:
        """Token ids of a text, after the tokenizer's start token where the text is the first of its context."""
        token_ids: list[int] = self.tokenizer(text, add_special_tokens=is_start, verbose=False)["input_ids"]
        return token_ids

    @property
    def max_segments(self) -> int | None:
        """How many whole segments a document may have; None where its vectors take no positions from the next."""
        is_bounded = self.config.accumulate_summary and self.positions.counts_soft_prompt
        if not is_bounded or self.config.reads_alone:
            return None
        # the last one reads the vectors of all before it
        room = self.positions.capacity(0, self.config.summary_length) - self.config.segment_length
        return max(0, room // self.config.summary_length + 1)

    @property
    def max_document_tokens(self) -> int | None:
        """How many tokens a document may have: whole segments, and of another one what fits; None for any number."""
        if self.config.reads_alone:
            return MAX_DOCUMENT_TOKENS
        if self.max_segments is None:
            return None
        rest = self.positions.capacity(self.vectors_of_segments(self.max_segments), self.config.summary_length)
        return self.max_segments * self.config.segment_length + max(0, rest)

    def tokenise_document(self, text: str, *, is_start: bool) -> list[int]:
        """As `tokenise`; TooLong where a long text's beginning alone has more tokens than a document may have."""
        most = self.max_document_tokens
        if most is not None and len(text) > MAX_CHARACTERS_A_TOKEN * most:
            beginning = text[: MAX_CHARACTERS_A_TOKEN * most]
            num_tokens = len(self.tokenise(beginning, is_start=is_start))
            if num_tokens > most:
                raise TooLong(
                    f"the document has {len(text)} characters, and its first {len(beginning)} are {num_tokens} tokens; "
                    f"the model's {self.positions.max_positions} positions take {most}",
                    param="text",
                )
        return self.tokenise(text, is_start=is_start)

    def segment_lengths(self, num_tokens: int) -> list[int]:
        """The lengths of the segments that so many tokens are cut into."""
        length = self.config.segment_length
        return [min(length, num_tokens - start) for start in range(0, num_tokens, length)]

    def num_vectors(self, segment_lengths: Sequence[int]) -> int:
        """How many vectors condition what follows a document of segments of these lengths."""
        counted = segment_lengths if self.config.accumulate_summary else segment_lengths[-1:]
        return sum(self.config.num_vectors(length) for length in counted)

    def vectors_of_segments(self, num_segments: int) -> int:
        """As `num_vectors`, of so many whole segments."""
        return self.num_vectors([self.config.segment_length] * num_segments)

    def require_name(self, name: str | None) -> None:
        """Refuse a name that is not this model's; None asks for whichever is served."""
        if name is not None and name != self.name:
            raise ModelNotFound(f"there is no model {name!r}; {self.name!r} is served", param="model")

    def require_segments(self, lengths: Sequence[int]) -> None:
        """Refuse a document with a segment, of these lengths, that would not fit after the vectors of those before."""
        if self.config.reads_alone:
            if sum(lengths) > MAX_DOCUMENT_TOKENS:
                raise TooLong(
                    f"the document has {sum(lengths)} tokens; the limit is {MAX_DOCUMENT_TOKENS}", param="text"
                )
            return
        for index, num_tokens in enumerate(lengths):
            if num_tokens > self.positions.capacity(self.num_vectors(lengths[:index]), self.config.summary_length):
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
