"""Prompts longer than the window: which of their tokens are compressed, which stay as they are, which are dropped.

Segments are cut from the beginning, each a whole one, so that a prompt that grew has the segments it had, and what was
compressed for it once is found in the store (`chain.py`). A chain takes as many segments as leave half of the window to
tokens; then another begins, and the summaries are fused. Where even the vectors exceed the window, those of the oldest
segments are left out: a conversation goes on for ever, and what it still knows of its beginning is what later segments
took over. Where vectors have an order of importance none of that: each segment keeps its most important ones, fewer the
older it is (`forgetting.py`), so that all together take half of the window.
"""

from dataclasses import dataclass, replace
from typing import Literal

from server.core.prompts.gathering import Share, Source
from server.core.prompts.plan import Plan
from server.core.prompts.prompting import Prompter
from server.core.served_model import ServedModel
from server.errors import TooLong

Truncate = Literal["compress", "error", "left"]
DROPPED_SHARE = 4  # of a chain's segments, so many parts are dropped one at a time: the rest stays a known prefix


@dataclass(frozen=True)
class Wish:
    """What a request asks of the window.

    `max_tokens`: None is until it is full, for which the room is kept that the prompter wants.
    `raw_tokens`: None is the default.
    `expanded_segments`: of what is compressed of its own tokens, so many are to be read as text again (`expanded`).
    `max_vectors`: of what is compressed of them, where vectors have an order of importance; None is as many as fit.
    `refusal`: why what does not fit is refused, where `truncate` says so.
    """

    max_tokens: int | None
    truncate: Truncate = "compress"
    raw_tokens: int | None = None
    expanded_segments: int = 0
    max_vectors: int | None = None
    refusal: str = "`truncate` is 'error'"


@dataclass(frozen=True)
class Fitted:
    """A plan that fits the window.

    Attributes:
        num_given: of the plan's sources, those that the request names; the rest are its oldest tokens.
        num_dropped: tokens that are not read, those of segments without a share of the plan included.
        max_tokens: how many tokens to generate.
    """

    plan: Plan
    num_given: int
    num_dropped: int
    max_tokens: int


@dataclass(frozen=True)
class _Cut:
    """Of a prompt `num_tokens` are to be compressed, in `num_segments`, and `num_dropped` of these left out."""

    num_tokens: int
    num_segments: int
    num_dropped: int


class Window:
    """Fits prompts to the window."""

    def __init__(self, model: ServedModel, prompter: Prompter, *, raw_tokens: int | None) -> None:
        """`raw_tokens`: how many last tokens stay raw where a request does not say; None is a quarter of the window."""
        self._model = model
        self._prompter = prompter
        self._window = prompter.window
        self._raw_tokens = raw_tokens or max(1, self._window // 4)

    @property
    def segments_in_chain(self) -> int | None:
        """How many segments a chain takes; None where its vectors do not grow with them."""
        config, most = self._model.config, self._model.max_segments
        if not config.accumulate_summary:
            return None
        return max(1, min(self._window // 2 // config.summary_length, self._window if most is None else most))

    @property
    def most_expanded(self) -> int:
        """How many segments of a prompt's own tokens can be read as text again: a quarter of the window, or none."""
        return self._window // 4 // self._model.config.segment_length

    def fit(self, plan: Plan, wish: Wish) -> Fitted:
        """The plan with its oldest tokens compressed or dropped, as far as they and `max_tokens` exceed the window.

        Raises:
            TooLong: it cannot fit, or is not to be made to.
        """
        num_new = self._prompter.num_wanted(wish.max_tokens)
        given = len(plan.sources)
        if plan.room >= num_new:
            return Fitted(plan, given, 0, self._max_tokens(plan, wish))
        if wish.truncate == "left":
            num_dropped = num_new - plan.room
            if num_dropped >= len(plan.token_ids):
                raise self._too_long(plan, wish, "without the prompt they do, too")
            kept = plan.token_ids[num_dropped:]
            shorter = self._prompter.planned(plan.call, plan.sources, plan.shares, kept)
            return Fitted(shorter, given, num_dropped, self._max_tokens(shorter, wish))
        if wish.truncate == "error":
            raise self._too_long(plan, wish, wish.refusal)
        num_new += wish.expanded_segments * self._model.config.segment_length
        return self._thinned(plan, wish, num_new) if self._model.is_ordered else self._compressed(plan, wish, num_new)

    def expanded(self, fitted: Fitted, plan: Plan, wish: Wish) -> Fitted:
        """The same with its plan's own tokens expanded, for which `fit` kept room as the wish said."""
        again = sum(
            tokens
            for source, before, after in zip(plan.sources, fitted.plan.shares, plan.shares, strict=True)
            for tokens, old, new in zip(self._prompter.tokens_of(source), before.lengths, after.lengths, strict=True)
            if new and not old
        )
        plan = replace(plan, summarised_tokens=fitted.plan.summarised_tokens + again)
        num_dropped = fitted.num_dropped - again
        return replace(fitted, plan=plan, num_dropped=num_dropped, max_tokens=self._max_tokens(plan, wish))

    def _compressed(self, plan: Plan, wish: Wish, num_new: int) -> Fitted:
        raw_tokens = wish.raw_tokens or self._raw_tokens
        # fewer stay raw where nothing else helps, unless the request insists
        tries = [raw_tokens] if wish.raw_tokens else [raw_tokens, max(1, raw_tokens // 2), 1]
        cuts = (self._cut(plan, tried, num_new) for tried in tries)
        cut = next((cut for cut in cuts if cut is not None), None) or self._cut_within(plan, wish, num_new)
        if cut is None:
            raise self._too_long(plan, wish, f"with all but the last {tries[-1]} compressed, too")
        chains, skipped = self._chains(plan.token_ids[: cut.num_tokens], cut)
        kept = plan.token_ids[cut.num_tokens :]
        num_dropped = cut.num_dropped * self._model.config.segment_length
        counts = [list(self._prompter.counts(chain)) for chain in chains]
        counts[0][:skipped] = [0] * skipped
        shares = (*plan.shares, *(Share(tuple(own)) for own in counts))
        whole = self._prompter.planned(plan.call, (*plan.sources, *chains), shares, kept)
        whole = replace(whole, summarised_tokens=plan.summarised_tokens + cut.num_tokens - num_dropped)
        return Fitted(whole, len(plan.sources), num_dropped, self._max_tokens(whole, wish))

    def _thinned(self, plan: Plan, wish: Wish, num_new: int) -> Fitted:
        """The plan with its oldest tokens compressed, however many, and of all vectors those that there is room for."""
        config, given = self._model.config, len(plan.sources)
        num_tokens, room = self._cut_for_thinning(plan, wish, num_new)
        size = (self._model.max_segments or num_tokens) * config.segment_length
        chains = [plan.token_ids[start : min(start + size, num_tokens)] for start in range(0, num_tokens, size)]
        shares = (*plan.shares, *(self._prompter.share(chain, wish.max_vectors) for chain in chains))
        whole = self._prompter.planned(plan.call, (*plan.sources, *chains), shares, plan.token_ids[num_tokens:])
        block = max(1, self._window // 2 // config.summary_length // DROPPED_SHARE) if chains else 1
        whole = self._prompter.thinned(whole, room, block=block)
        num_dropped = sum(
            tokens
            for chain, share in zip(chains, whole.shares[given:], strict=True)
            for tokens, length in zip(self._prompter.tokens_of(chain), share.lengths, strict=True)
            if not length
        )
        whole = replace(whole, summarised_tokens=whole.summarised_tokens - num_dropped)
        return Fitted(whole, given, num_dropped, self._max_tokens(whole, wish))

    def _cut_for_thinning(self, plan: Plan, wish: Wish, num_new: int) -> tuple[int, int]:
        """How many tokens to compress, whole segments where that will do, and how many vectors there is room for."""
        config, half = self._model.config, self._window // 2
        least = min(config.summary_length, half)
        raw_tokens = wish.raw_tokens or self._raw_tokens

        def room(num_raw: int) -> int:
            left = self._prompter.room_for_vectors(num_raw + num_new) - plan.expanded_tokens
            return min(half, left)

        # fewer stay raw where nothing else helps, unless the request insists
        for tried in [raw_tokens] if wish.raw_tokens else [raw_tokens, max(1, raw_tokens // 2), 1]:
            num_tokens = max(0, len(plan.token_ids) - tried) // config.segment_length * config.segment_length
            num_raw = len(plan.token_ids) - num_tokens
            # as if the raw tokens were as many as they become before one more segment is compressed: else what is
            # kept of the others would change with every turn
            steady = room(max(num_raw, tried + config.segment_length - 1))
            if max(steady, room(num_raw)) >= least and (num_tokens or plan.sources):
                return num_tokens, steady if steady >= least else room(num_raw)
        most_raw = self._prompter.room_for_vectors(num_new) - plan.expanded_tokens - least
        num_raw = min(raw_tokens, max(1, most_raw), len(plan.token_ids) - 1)
        if num_raw < (wish.raw_tokens or 1) or room(num_raw) < 1:
            raise self._too_long(plan, wish, f"with all but the last {wish.raw_tokens or 1} compressed, too")
        return len(plan.token_ids) - num_raw, room(num_raw)

    def _cut(self, plan: Plan, raw_tokens: int, num_new: int) -> _Cut | None:
        """Where so many last tokens stay raw, the cut that keeps as many vectors as fit; None where none do."""
        config = self._model.config
        num_segments = (len(plan.token_ids) - raw_tokens) // config.segment_length
        if num_segments < 1:
            return None
        # as if the raw tokens were as many as they become before one more segment is compressed: else what is dropped
        # would change with every turn
        most_raw = raw_tokens + config.segment_length - 1
        num_raw = len(plan.token_ids) - num_segments * config.segment_length
        fitting, fitting_now = (
            max(0, self._prompter.room(plan.num_positions, tokens) - num_new) // config.summary_length
            for tokens in (most_raw, num_raw)
        )
        fitting = fitting or min(1, fitting_now)
        if not fitting:
            return None
        chain = self.segments_in_chain
        num_tokens = num_segments * config.segment_length
        if chain is None or num_segments <= fitting:
            return _Cut(num_tokens, num_segments, 0)
        unit = max(1, min(chain // DROPPED_SHARE, fitting // 2))
        num_dropped = -(-(num_segments - fitting) // unit) * unit
        return _Cut(num_tokens, num_segments, min(num_dropped, num_segments - 1))

    def _cut_within(self, plan: Plan, wish: Wish, num_new: int) -> _Cut | None:
        """The cut within a segment, where none between two will do: the last segment's vectors stand for its part."""
        config = self._model.config
        num_raw = min(
            wish.raw_tokens or self._raw_tokens,
            self._prompter.room(plan.num_positions + config.summary_length, 0) - num_new,
            len(plan.token_ids) - 1,
        )
        if num_raw < (wish.raw_tokens or 1):
            return None
        num_tokens = len(plan.token_ids) - num_raw
        num_segments = -(-num_tokens // config.segment_length)
        return _Cut(num_tokens, num_segments, 0 if self.segments_in_chain is None else num_segments - 1)

    def _chains(self, token_ids: tuple[int, ...], cut: _Cut) -> tuple[list[Source], int]:
        """The chains to compress, those dropped as a whole not among them, and segments to skip of the first."""
        per_chain = self.segments_in_chain or cut.num_segments
        size = per_chain * self._model.config.segment_length
        first, skipped = divmod(cut.num_dropped, per_chain)
        return [token_ids[start : start + size] for start in range(first * size, len(token_ids), size)], skipped

    def _max_tokens(self, plan: Plan, wish: Wish) -> int:
        if wish.max_tokens == 0:
            return 0
        least = self._prompter.max_tokens(plan, wish.max_tokens)
        return plan.room if wish.max_tokens is None else least

    def _too_long(self, plan: Plan, wish: Wish, why: str) -> TooLong:
        num_new = self._prompter.num_wanted(wish.max_tokens)
        if num_new >= self._window:
            return TooLong(
                f"{num_new} new tokens leave no room for a prompt in the window of {self._window} positions",
                param="max_tokens",
            )
        put_back = wish.expanded_segments * self._model.config.segment_length
        expanded = f", {put_back} for segments that are expanded" if put_back else ""
        return TooLong(
            f"{len(plan.token_ids)} prompt tokens, {plan.described_positions}{expanded} and {num_new} new tokens "
            f"exceed the window of {self._window} positions; {why}",
            param="raw_tokens" if wish.raw_tokens and wish.truncate == "compress" else plan.call.tokens,
        )
