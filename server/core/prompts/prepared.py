"""A prompt of any length: fitted to the window, compressed as far as needed, ready for the engine."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from server.core.prompts.expansion import Expander
from server.core.prompts.fusing import Fuser
from server.core.prompts.gathering import Gathered, fused
from server.core.prompts.plan import Plan
from server.core.prompts.prompting import Prompter
from server.core.prompts.window import Fitted, Window, Wish
from server.core.receipts import Expanded
from server.engine.protocol import Prompt
from server.metrics import Metrics

Order = Literal["given", "distance"]  # of summaries before a prompt; by distance the nearest to it comes last


@dataclass(frozen=True)
class Prepared:
    """What the engine reads, and what became of the prompt's tokens on the way.

    Attributes:
        token_ids: all of the prompt's texts, in order.
        compressed_tokens: of them, those that vectors of the prompt stand for, in so many `segments`.
        cached_segments, cached_tokens: of those, what was in the store.
        num_dropped: tokens that are not read. num_thinned: vectors that are left out as less important.
    """

    prompt: Prompt
    token_ids: tuple[int, ...]
    compressed_tokens: int
    segments: int
    cached_segments: int
    cached_tokens: int
    num_dropped: int
    num_thinned: int
    expanded: Sequence[Expanded] = ()
    contributions: Sequence[tuple[str, float]] = ()

    @property
    def num_vectors(self) -> int:
        num_positions = self.prompt.num_positions - len(self.prompt.token_ids)
        return num_positions - sum(each.tokens for each in self.expanded)


class Preparer:
    """Fits prompts to the window, and assembles them."""

    def __init__(self, prompter: Prompter, window: Window, expander: Expander, fuser: Fuser, metrics: Metrics) -> None:
        self._metrics = metrics
        self._prompter = prompter
        self._window = window
        self._expander = expander
        self._fuser = fuser

    async def fit(self, plan: Plan, wish: Wish, *, query: str | None = None) -> Fitted:
        """The plan fitted to the window, with the segments as text that are wished for.

        Those of stored summaries come first; what is left is taken of what had to be compressed of the prompt itself.

        Args:
            query: what is asked, where that is not the end of the prompt.

        Raises:
            TooLong, InvalidRequest: as `Window.fit` and `Expander.expanded`.
        """
        plan = await self._expander.expanded(plan, wish.expanded_segments, query)
        rest = min(wish.expanded_segments - len(plan.expanded), self._window.most_expanded)
        while True:
            wish = replace(wish, expanded_segments=rest)
            fitted = self._window.fit(plan, wish)
            if not rest or len(fitted.plan.sources) == fitted.num_given:
                return fitted
            expanded = await self._expander.expanded(fitted.plan, rest, query)
            num_found = len(expanded.expanded) - len(plan.expanded)
            if num_found == rest:
                return self._window.expanded(fitted, expanded, wish)
            rest = num_found  # the room of those that speak of nothing is for vectors

    async def prepare(
        self, plan: Plan, fitted: Fitted, *, fuse: Order = "given", has_contributions: bool = False
    ) -> Prepared:
        """Assemble a plan as it was fitted, in this order of the summaries, with their contributions if wanted.

        Raises:
            What the engine and the store raise.
        """
        self._count(fitted)
        gathered = await self._prompter.gather(fitted.plan)
        texts = _Texts(self._prompter, fitted.plan, gathered)
        if fuse == "distance":
            fitted, gathered = await self._fuser.by_distance(fitted, gathered)
        contributions = await self._fuser.contributions(fitted, gathered) if has_contributions else []
        given = (token_id for source in plan.sources if isinstance(source, tuple) for token_id in source)
        return Prepared(
            fused(gathered, fitted.plan.token_ids, fitted.plan.call.tenant),
            (*given, *plan.token_ids),
            compressed_tokens=sum(texts.tokens),
            segments=sum(texts.segments),
            cached_segments=sum(texts.cached),
            cached_tokens=sum(texts.cached_tokens),
            num_dropped=fitted.num_dropped,
            num_thinned=fitted.plan.thinned_vectors,
            expanded=fitted.plan.expanded,
            contributions=contributions,
        )

    def _count(self, fitted: Fitted) -> None:
        is_compressed = len(fitted.plan.sources) > fitted.num_given
        self._metrics.context_gate.labels(decision="compressed" if is_compressed else "raw").inc()
        if fitted.num_dropped:
            self._metrics.fallbacks.labels(reason="dropped").inc()
        if fitted.plan.thinned_vectors:
            self._metrics.fallbacks.labels(reason="thinned").inc()


class _Texts:
    """Of each text that was compressed: tokens and segments whose vectors are read, and which of them were stored."""

    def __init__(self, prompter: Prompter, plan: Plan, gathered: Sequence[Gathered]) -> None:
        self.tokens: list[int] = []
        self.segments: list[int] = []
        self.cached: list[int] = []
        self.cached_tokens: list[int] = []
        for source, share, conditioning in zip(plan.sources, plan.shares, gathered, strict=True):
            if isinstance(source, tuple):
                read = prompter.read_of(source, share)
                # in RMT mode nothing is expanded, and of many segments that are read one conditions
                is_text = (False,) * (len(read) - len(conditioning.is_expanded)) + conditioning.is_expanded
                tokens = [0 if expanded else length for length, expanded in zip(read, is_text, strict=True)]
                cached = conditioning.cached_segments
                self.tokens.append(sum(tokens))
                self.segments.append(is_text.count(False))
                self.cached.append(is_text[:cached].count(False))
                self.cached_tokens.append(sum(tokens[:cached]))
