"""A prompt before any work for it: what conditions it, and its own tokens."""

from collections.abc import Sequence
from dataclasses import dataclass

from server.core.documents.summaries import Summary
from server.core.prompts.gathering import Share, Source
from server.core.receipts import Expanded, Receipt, Stopwatch, Usage
from server.core.tenant import Tenant


@dataclass(frozen=True)
class SummaryPart:
    """A stored summary."""

    summary_id: str


@dataclass(frozen=True)
class TextPart:
    """A text, read as it is after the last summary and compressed before it."""

    text: str


@dataclass(frozen=True)
class CompactionPart:
    """A conversation that was compacted, as its item has it sealed (`core/responses/`)."""

    sealed: str


Part = SummaryPart | TextPart | CompactionPart


@dataclass(frozen=True)
class Condition:
    """What a call is conditioned on: parts in order; of its summaries at most so many vectors, and segments as text."""

    parts: Sequence[Part]
    max_vectors: int | None = None
    expanded_segments: int = 0


@dataclass(frozen=True)
class Call:
    """Whose call it is, and which of its fields a prompt's summaries and its own tokens came from, for errors."""

    tenant: Tenant
    summaries: str = "summary_ids"
    tokens: str = "prompt"


@dataclass(frozen=True)
class Plan:
    """A prompt before any work for it: what conditions it, and its own tokens.

    Attributes:
        shares: what is read of each of the sources.
        summarised_tokens: document tokens that the soft prompt stands for.
        thinned_vectors: of the sources, those that are left out as less important.
        room: how many tokens can follow; less than 1 where not even one can.
    """

    sources: tuple[Source, ...]
    shares: tuple[Share, ...]
    token_ids: tuple[int, ...]
    summarised_tokens: int
    thinned_vectors: int
    room: int
    call: Call

    @property
    def num_positions(self) -> int:
        """Of its soft prompt, vectors and expanded tokens."""
        return sum(sum(share.lengths) for share in self.shares)

    @property
    def expanded_tokens(self) -> int:
        return sum(share.lengths[place] for share in self.shares for place in share.expanded)

    @property
    def num_vectors(self) -> int:
        """Of its soft prompt."""
        return self.num_positions - self.expanded_tokens

    @property
    def expanded(self) -> list[Expanded]:
        """The segments that are read as text, in their order; those of the prompt's own texts are counted through."""
        found, before = [], 0
        for source, share in zip(self.sources, self.shares, strict=True):
            places = sorted(share.expanded)
            if isinstance(source, Summary):
                found += [Expanded(source.id, place, share.lengths[place]) for place in places]
            else:
                found += [Expanded(None, before + place, share.lengths[place]) for place in places]
                before += len(share.lengths)
        return found

    def usage(self, num_completion_tokens: int) -> Usage:
        """Of a call that reads this, and then generates or scores so many tokens."""
        return Usage(
            prompt_tokens=len(self.token_ids) + self.expanded_tokens,
            summary_vectors=self.num_vectors,
            thinned_vectors=self.thinned_vectors,
            summarised_tokens=self.summarised_tokens - self.expanded_tokens,
            completion_tokens=num_completion_tokens,
        )

    def receipt(self, watch: Stopwatch) -> Receipt:
        """Of a call that read this."""
        is_computed = any(not isinstance(source, Summary) for source in self.sources)
        return watch.receipt(
            saved=self.summarised_tokens - self.num_positions,
            cache=watch.tier(self.num_positions, is_computed=is_computed) if self.sources else None,
            thinned=self.thinned_vectors,
            expanded=self.expanded,
        )

    @property
    def described_positions(self) -> str:
        """Those of its soft prompt, in words."""
        expanded = f" and {self.expanded_tokens} tokens of expanded segments" if self.expanded_tokens else ""
        return f"{self.num_vectors} summary vectors{expanded}"
