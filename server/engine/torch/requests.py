"""Requests while the engine holds them: plain Python, the runner's tensors passing through unread."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from server.engine.answer import Answer
from server.engine.detokenizer import Detokenizer
from server.engine.protocol import Meter, SamplingParams, TokenEvent
from server.engine.torch.sampler import Sampled
from server.tally import Tally, current


class Phase(Enum):
    """What a forward pass does for one request."""

    SEGMENT = "segment"
    VECTORS = "vectors"  # a soft prompt by itself, before the first token that follows it
    BLOCK = "block"  # of a prompt's tokens, kept for prompts that begin with the same ones
    PREFILL = "prefill"  # what is left of a prompt
    DECODE = "decode"
    PROMPT = "prompt"  # of continuations to score, once for all of them
    SCORE = "score"


@dataclass(eq=False)
class Request:
    """What all requests share.

    Attributes:
        deliver: hands one result, or an exception, to whoever waits; called on the engine's thread.
        is_started: a piece of it was in a batch.
        is_cancelled: set by the waiting side; seen at the next step.
        is_ended: its last result was delivered.
        soft_prompt: vectors before all tokens, (P, D), `soft_prompt_length` of them; None for 0.
        hashes: of the leading parts of the soft prompt, and of the segments or the blocks of tokens after it; none
            where the soft prompt has no known origin, and nothing of it is shared.
        lengths: positions that each of the hashes adds; none for equal shares of the soft prompt.
        meter: where what it took is written, by the engine's thread, before its first result.
        tally: of the HTTP request in whose name it was made, if any; written likewise.
        prefix: keys and values that another request left, of `num_known` leading positions.
        has_vectors: all of the soft prompt was read before, by this request or another.
        num_known: leading positions whose keys and values lie in the pool's row or in `line`.
        line: a strip of its own, or one that it only reads; a generation's is copied into its row of the pool.
    """

    deliver: Callable[[Any], None]
    soft_prompt: Any
    soft_prompt_length: int
    hashes: Sequence[str] = field(default=(), kw_only=True)
    lengths: Sequence[int] = field(default=(), kw_only=True)
    meter: Meter | None = field(default=None, kw_only=True)
    tally: Tally | None = field(default_factory=current, init=False)
    prefix: Any = field(default=None, init=False)
    has_vectors: bool = field(default=False, init=False)
    num_known: int = field(default=0, init=False)
    line: Any = field(default=None, init=False)
    is_started: bool = field(default=False, init=False)
    is_cancelled: bool = field(default=False, init=False)
    is_ended: bool = field(default=False, init=False)
    submitted_at: float = field(default_factory=time.monotonic, init=False)
    started_at: float | None = field(default=None, init=False)

    @property
    def num_tokens(self) -> int:
        """Of its texts, the vectors before them not counted."""
        raise NotImplementedError

    @property
    def strip_length(self) -> int:
        """Positions of the strip that it needs as long as it is in the line; 0 for none."""
        return self.soft_prompt_length

    @property
    def given_hashes(self) -> Sequence[str]:
        """Of the soft prompt that it came with."""
        return self.hashes

    @property
    def read_hashes(self) -> Sequence[str]:
        """Of the soft prompt that its last piece has read, where no later piece reads a longer one."""
        return self.hashes


@dataclass(eq=False)
class Generation(Request):
    """One sequence. `row` is its place in the KV pool while it runs.

    Its prompt is read in three parts, each in passes of its own, so that what is found of one is what was read of it to
    the bit: the soft prompt, `num_blocks` blocks of `block_tokens` tokens, and the rest.
    """

    prompt_ids: tuple[int, ...]
    params: SamplingParams
    detokenizer: Detokenizer
    generator: Any
    bias: Any = None
    row: int | None = field(default=None, init=False)
    generated: list[int] = field(default_factory=list, init=False)
    last_token_at: float | None = field(default=None, init=False)
    num_blocks: int = field(default=0, kw_only=True)
    block_tokens: int = field(default=0, kw_only=True)

    @property
    def strip_length(self) -> int:
        return self.block_start(self.num_blocks)

    @property
    def num_tokens(self) -> int:
        return len(self.prompt_ids)

    @property
    def num_prompt_positions(self) -> int:
        return self.soft_prompt_length + len(self.prompt_ids)

    @property
    def read_hashes(self) -> Sequence[str]:
        return self.hashes_to(self.num_blocks_read)

    @property
    def num_blocks_read(self) -> int:
        """Of its blocks; 0 also where the soft prompt was not read yet."""
        read = self.num_known - self.soft_prompt_length
        return min(self.num_blocks, max(0, read) // self.block_tokens) if self.num_blocks else 0

    def next_blocks(self, most: int) -> range:
        """Of its blocks those to be read next, so many at most."""
        first = self.num_blocks_read
        return range(first, min(first + most, self.num_blocks))

    def block_start(self, index: int) -> int:
        """The position of a block's first token."""
        return self.soft_prompt_length + index * self.block_tokens

    def hashes_to(self, num_blocks: int) -> Sequence[str]:
        """Of the soft prompt and so many blocks."""
        return self.hashes[: len(self.hashes) - self.num_blocks + num_blocks]

    def take(self, sampled: Sampled, end_of_text: frozenset[int]) -> TokenEvent:
        """Add a token: its event, with the text that it completes, and the reason where it is the last one."""
        self.generated.append(sampled.token_id)
        return Answer(self.params, self.detokenizer, end_of_text, len(self.generated) - 1).add(*sampled)


@dataclass(eq=False)
class Compression(Request):
    """One document: a segment at a time, each waiting for the vectors of the one before it unless it is read alone.

    `strip_length`: of all vectors before its last segment, where they are read from a strip. `is_bulk`: in no hurry.
    """

    segments: Sequence[Sequence[int]]
    strip_length: int = field(default=0, kw_only=True)
    reads_alone: bool = field(default=False, kw_only=True)
    is_bulk: bool = field(default=False, kw_only=True)
    next_segment: int = field(default=0, init=False)

    @property
    def num_tokens(self) -> int:
        return sum(map(len, self.segments))

    @property
    def given_hashes(self) -> Sequence[str]:
        return self.hashes[: -len(self.segments)]

    @property
    def read_hashes(self) -> Sequence[str]:
        has_read_all = self.next_segment == len(self.segments) and not self.reads_alone
        return self.hashes[:-1] if has_read_all else ()


@dataclass(eq=False)
class Scoring(Request):
    """One prompt and its continuations, a piece each; where there are several, the prompt is read once before them."""

    prompt_ids: tuple[int, ...]
    continuations: Sequence[tuple[int, ...]]
    num_logprobs: int = field(default=0, kw_only=True)
    next_continuation: int = field(default=0, init=False)
    results: dict[int, Any] = field(default_factory=dict, init=False)

    @property
    def num_tokens(self) -> int:
        return len(self.prompt_ids) + sum(map(len, self.continuations))

    @property
    def strip_length(self) -> int:
        if len(self.continuations) == 1:
            return self.soft_prompt_length
        return max(self.soft_prompt_length, self.num_shared_positions)  # they read its prompt from there, too

    @property
    def num_prompt_positions(self) -> int:
        return self.soft_prompt_length + len(self.prompt_ids)

    @property
    def num_shared_positions(self) -> int:
        """Of soft prompt and prompt, what every continuation has before its first own position."""
        return self.num_prompt_positions - 1


@dataclass(frozen=True, eq=False)
class Piece:
    """What one forward pass runs of one request: `num_positions` of them.

    `index` is the segment, the continuation or the block it is; 0 for others.
    """

    request: Request
    phase: Phase
    num_positions: int
    index: int = 0
