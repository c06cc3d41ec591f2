"""What the server knows of the model it serves, apart from its weights."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, TypeVar

from model.config import SummaryConfig
from model.positions import Positions
from server.core.long_texts import LongTexts
from server.core.tokeniser import Tokeniser
from server.engine.protocol import SamplingParams
from server.errors import InvalidRequest, ModelMismatch, TooLong
from server.limits import MAX_DOCUMENT_TOKENS

T = TypeVar("T")
MAX_CHARACTERS_A_TOKEN = 16  # on average, of a text so long that its beginning is looked at first


@dataclass(frozen=True)
class ServedModel:
    """What handlers ask about the model.

    Attributes:
        max_sequence_tokens: positions of a KV row.
        tokenizer: a transformers one, safe across threads.
        document_limit: tokens a document may have where its segments are read alone, so that positions set no limit.
        is_trained: whether anything was trained for its vectors.
        sampling: how tokens are chosen where a request does not say, by names of `SamplingParams`.
        working_vectors: how many vectors of a document there is memory for before its last segment; None for any
            number.
        rounds_vectors: the engine makes vectors that int8 holds, and the store keeps them so.
        neighbours: names of the models that are served beside it and its own, by their fingerprints.
        long_texts: where texts are tokenised that a request may make long, those of all models in one line.
    """

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
    document_limit: int = MAX_DOCUMENT_TOKENS
    is_trained: bool = True
    sampling: Mapping[str, float] = field(default_factory=dict)
    working_vectors: int | None = None
    rounds_vectors: bool = False
    neighbours: Mapping[str, str] = field(default_factory=dict)
    long_texts: LongTexts = field(default_factory=LongTexts, compare=False)

    def mismatch(self, what: str, fingerprint: str, *, param: str | None = None) -> ModelMismatch:
        """The error of what another model made, the one of this fingerprint.

        Args:
            what: the thing, as the error calls it. param: the field that named it.
        """
        name = self.neighbours.get(fingerprint)
        if name is not None:
            return ModelMismatch(
                f"{what} is of the model {name!r}, and {self.name!r} was asked; ask with `model`: {name!r}", param=param
            )
        return ModelMismatch(
            f"{what} is of another model than the one served: of model {fingerprint!r}, and the one served is "
            f"{self.fingerprint!r}",
            param=param,
        )

    @property
    def is_ordered(self) -> bool:
        """Whether summary vectors have an order of importance, so that there can be fewer of them."""
        return self.config.compressor != "summary_tokens"

    @property
    def has_chat_template(self) -> bool:
        """Whether the model was made to answer messages, and its tokenizer says how they are written."""
        return getattr(self.tokenizer, "chat_template", None) is not None

    @cached_property
    def tokeniser(self) -> Tokeniser:
        """How texts are read."""
        return Tokeniser(self.tokenizer)

    def stopping(self, params: SamplingParams) -> SamplingParams:
        """The parameters, in which control tokens whose text is a stop string stop by their id: they are not shown.

        Raises:
            InvalidRequest: one of `stop_token_ids` is outside the vocabulary.
        """
        self.require_known(params.stop_token_ids, param="stop_token_ids")
        control_tokens = self.tokeniser.control_tokens if params.stop else {}
        ids = tuple(control_tokens[stop] for stop in params.stop if stop in control_tokens)
        return replace(params, stop_token_ids=params.stop_token_ids + ids) if ids else params

    def tokenise(self, text: str, *, is_start: bool, parse_special: bool = True, param: str | None = None) -> list[int]:
        """Token ids of a text, after the tokenizer's start token where the text is the first of its context.

        An end token that the tokenizer appends is left out: what follows would begin after an end.

        Args:
            parse_special: the texts of control tokens stand for these, as in prompts; else they are text.
            param: the field that the text came from, for errors.

        Raises:
            InvalidRequest: a token of it has no embedding, or a control token cannot be read as text.
        """
        try:
            token_ids = self.tokeniser.ids(text, is_start=is_start, parse_special=parse_special)
        except InvalidRequest as error:
            error.param = param
            raise
        self.require_embedded(token_ids, param=param)
        return token_ids

    def tokenise_marked(self, text: str, *, param: str | None = None) -> list[int]:
        """As `tokenise`, of what a template made of texts that the tokeniser marked."""
        try:
            token_ids = self.tokeniser.ids_of_marked(text)
        except InvalidRequest as error:
            error.param = param
            raise
        self.require_embedded(token_ids, param=param)
        return token_ids

    def require_embedded(self, token_ids: Sequence[int], *, param: str | None) -> None:
        """Refuse tokens that a tokenizer larger than the model has and the model does not know."""
        if self.tokeniser.num_ids > self.vocabulary_size:
            unknown = max(token_ids, default=0)
            if unknown >= self.vocabulary_size:
                raise InvalidRequest(
                    f"the text has the token {self.tokenizer.convert_ids_to_tokens(unknown)!r}, id {unknown}; "
                    f"the model has {self.vocabulary_size} embeddings",
                    param=param,
                )

    @property
    def max_segments(self) -> int | None:
        """How many whole segments a document may have; None where its vectors take no positions from the next."""
        if self.config.reads_alone:
            return self.document_limit // self.config.segment_length
        if not self.config.accumulate_summary:
            return None
        # the last one reads the vectors of all before it
        rooms = [room for room in (self.working_vectors, self._room_for_vectors) if room is not None]
        return max(0, min(rooms) // self.config.summary_length + 1) if rooms else None

    @property
    def _room_for_vectors(self) -> int | None:
        """How many vectors there are positions for before a whole segment; None for any number."""
        if not self.positions.counts_soft_prompt:
            return None
        return self.positions.capacity(0, self.config.summary_length) - self.config.segment_length

    @property
    def _lacks_memory_first(self) -> bool:
        """Whether memory, rather than positions, sets a document's length."""
        room = self._room_for_vectors
        return self.working_vectors is not None and (room is None or self.working_vectors < room)

    @property
    def max_document_tokens(self) -> int | None:
        """How many tokens a document may have: whole segments, and of another one what fits; None for any number."""
        if self.config.reads_alone:
            return self.document_limit
        if self.max_segments is None:
            return None
        vectors = self.max_segments * self.config.summary_length
        rest = self.positions.capacity(vectors, self.config.summary_length)
        if self.working_vectors is not None and vectors > self.working_vectors:
            rest = 0
        return self.max_segments * self.config.segment_length + max(0, min(rest, self.config.segment_length))

    def tokenise_document(self, text: str, *, is_start: bool, parse_special: bool = False) -> list[int]:
        """As `tokenise`, control tokens being text unless they are asked for.

        Raises:
            TooLong: a long text's beginning alone has more tokens than a document may have.
        """
        tokenise = partial(self.tokenise, is_start=is_start, parse_special=parse_special, param="text")
        if (most := self.max_document_tokens) is not None:
            require_possible(text, most, tokenise, what="the document", limit=self._limit, param="text")
        return tokenise(text)

    def tokenise_within(self, text: str, *, is_start: bool, param: str) -> list[int]:
        """As `tokenise`, of what has to fit the window; TooLong where a long text's beginning alone does not."""
        tokenise = partial(self.tokenise, is_start=is_start, param=param)
        require_possible(text, self.window, tokenise, what=param, limit="the window has", param=param)
        return tokenise(text)

    @property
    def _limit(self) -> str:
        """What sets a document's length, for errors: before the number of tokens."""
        if self.config.reads_alone:
            return "the limit is"
        if self._lacks_memory_first:
            return "the server's memory for what is being read, working_bytes, takes"
        return f"the model's {self.positions.max_positions} positions take"

    def segments(self, token_ids: Sequence[int]) -> list[Sequence[int]]:
        """A document's tokens as its segments, all but the last of the full length."""
        length = self.config.segment_length
        return [token_ids[start : start + length] for start in range(0, len(token_ids), length)]

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of tokens, without control tokens."""
        text: str = self.tokenizer.decode(list(token_ids), skip_special_tokens=True)
        return text

    def segment_lengths(self, num_tokens: int) -> tuple[int, ...]:
        """How many tokens each segment of a document has: whole ones, and what is left."""
        whole, rest = divmod(num_tokens, self.config.segment_length)
        return (*(self.config.segment_length,) * whole, *((rest,) if rest else ()))

    @property
    def window(self) -> int:
        """Positions of a prompt and what follows it."""
        return min(self.positions.capacity(0, 0), self.max_sequence_tokens)

    def conditioning(self, segments: Sequence[T]) -> Sequence[T]:
        """Of a document's segments those whose vectors condition what follows: all, or in RMT mode the last."""
        return segments if self.config.accumulate_summary else segments[-1:]

    def num_vectors_of(self, segment_tokens: Sequence[int]) -> int:
        """How many vectors condition what follows a document with segments of so many tokens."""
        return sum(map(self.config.num_vectors, self.conditioning(segment_tokens)))

    def segment_of(self, token_ids: Sequence[int], place: int) -> tuple[int, ...]:
        """The tokens of a text's segment at this place among those that condition what follows."""
        starts = self.conditioning(range(0, len(token_ids), self.config.segment_length))
        return tuple(token_ids[starts[place] : starts[place] + self.config.segment_length])

    def require_segments(self, lengths: Sequence[int]) -> None:
        """Refuse a document with a segment, of these lengths, that would not fit after the vectors of those before."""
        if self.config.reads_alone:
            if sum(lengths) > self.document_limit:
                raise TooLong(
                    f"the document has {sum(lengths)} tokens; the limit is {self.document_limit}", param="text"
                )
            return
        num_vectors = 0
        for index, num_tokens in enumerate(lengths):
            if num_tokens > self.positions.capacity(num_vectors, self.config.summary_length):
                raise TooLong(
                    f"the document has {sum(lengths)} tokens in {len(lengths)} segments; the model's "
                    f"{self.positions.max_positions} positions take {index} segments, {sum(lengths[:index])} tokens",
                    param="text",
                )
            self._require_working_memory(lengths, index, num_vectors)
            num_vectors = self.config.summary_length * (index + 1 if self.config.accumulate_summary else 1)

    def _require_working_memory(self, lengths: Sequence[int], index: int, num_vectors: int) -> None:
        """Refuse a document of which so many vectors stand before a segment and exceed what there is memory for."""
        if self.working_vectors is not None and self.config.accumulate_summary and num_vectors > self.working_vectors:
            raise TooLong(
                f"the document has {sum(lengths)} tokens in {len(lengths)} segments; the server's memory for what is "
                f"being read, working_bytes, takes {index} segments, {sum(lengths[:index])} tokens",
                param="text",
            )

    def require_known(self, token_ids: Sequence[int], *, param: str) -> None:
        """Refuse token ids outside the vocabulary."""
        for token_id in (min(token_ids, default=0), max(token_ids, default=0)):
            if not 0 <= token_id < self.vocabulary_size:
                raise InvalidRequest(
                    f"token id {token_id} is outside the vocabulary of {self.vocabulary_size}", param=param
                )


def require_possible(
    text: str, most: int, tokenise: Callable[[str], list[int]], *, what: str, limit: str, param: str
) -> None:
    """Refuse a text that must have more tokens than `most` by its beginning: the whole of it would take a minute."""
    if len(text) <= MAX_CHARACTERS_A_TOKEN * most:
        return
    beginning = text[: MAX_CHARACTERS_A_TOKEN * most]
    num_tokens = len(tokenise(beginning))
    if num_tokens > most:
        told = f"{len(text)} characters, and its first {len(beginning)} are {num_tokens} tokens"
        raise TooLong(f"{what} has {told}; {limit} {most}", param=param)
