"""A prompt of OpenAI's routes: fitted to the window, compressed as far as needed, ready for the engine."""

from collections.abc import Sequence
from dataclasses import dataclass

from server.core.prompts.expansion import Expanded, expanded_segments
from server.core.prompts.gathering import Gathered, fused
from server.core.prompts.prompting import Plan, Prompter
from server.core.prompts.window import Fitted, Wish
from server.core.services import Services
from server.engine.protocol import Prompt
from server.http.answers.receipts import described_expansion
from server.http.answers.summaries import num_expanded
from server.http.schemas import openai_replies as replies
from server.http.schemas.openai import Asked


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
    max_tokens: int
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


async def fit(served: Services, body: Asked, plan: Plan, max_tokens: int | None, *, query: str | None = None) -> Fitted:
    """The plan fitted to the window, with the segments as text that the request wants.

    Those of stored summaries come first; what is left is taken of what had to be compressed of the prompt itself.
    """
    wanted = num_expanded(body.expand)
    plan = await served.expander.expanded(plan, wanted, query)
    rest = min(wanted - len(expanded_segments(plan)), served.endless.most_expanded)
    while True:
        wish = Wish(max_tokens, body.truncate, body.raw_tokens, rest)
        fitted = served.endless.fit(plan, wish)
        if not rest or len(fitted.plan.sources) == fitted.num_given:
            return fitted
        expanded = await served.expander.expanded(fitted.plan, rest, query)
        num_found = len(expanded_segments(expanded)) - len(expanded_segments(plan))
        if num_found == rest:
            return served.endless.expanded(fitted, expanded, wish)
        rest = num_found  # the room of those that speak of nothing is for vectors


async def prepare(served: Services, body: Asked, plan: Plan, fitted: Fitted) -> Prepared:
    """Assemble a plan as it was fitted, in the order and with the contributions that the request asks for."""
    gathered = await served.prompter.gather(fitted.plan)
    texts = _Texts(served.prompter, fitted.plan, gathered)
    if body.fuse == "distance":
        fitted, gathered = await served.fuser.by_distance(fitted, gathered)
    contributions = await served.fuser.contributions(fitted, gathered) if body.contributions else []
    given = (token_id for source in plan.sources if isinstance(source, tuple) for token_id in source)
    return Prepared(
        fused(gathered, fitted.plan.token_ids),
        (*given, *plan.token_ids),
        fitted.max_tokens,
        compressed_tokens=sum(texts.tokens),
        segments=sum(texts.segments),
        cached_segments=sum(texts.cached),
        cached_tokens=sum(texts.cached_tokens),
        num_dropped=fitted.num_dropped,
        num_thinned=fitted.plan.thinned_vectors,
        expanded=expanded_segments(fitted.plan),
        contributions=contributions,
    )


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


def usage(prepared: Sequence[Prepared], num_completion_tokens: int) -> replies.CompletionUsage:
    num_prompt_tokens = sum(len(each.token_ids) for each in prepared)
    return replies.CompletionUsage(
        prompt_tokens=num_prompt_tokens,
        completion_tokens=num_completion_tokens,
        total_tokens=num_prompt_tokens + num_completion_tokens,
        prompt_tokens_details=replies.PromptTokensDetails(cached_tokens=sum(each.cached_tokens for each in prepared)),
    )


def compression(prepared: Sequence[Prepared], *, has_contributions: bool) -> replies.Compression:
    gains = [gain for each in prepared for gain in each.contributions]
    return replies.Compression(
        compressed_tokens=sum(each.compressed_tokens for each in prepared),
        segments=sum(each.segments for each in prepared),
        cached_segments=sum(each.cached_segments for each in prepared),
        summary_vectors=sum(each.num_vectors for each in prepared),
        raw_tokens=sum(len(each.prompt.token_ids) for each in prepared),
        thinned_vectors=sum(each.num_thinned for each in prepared),
        dropped_tokens=sum(each.num_dropped for each in prepared),
        expanded=described_expansion([segment for each in prepared for segment in each.expanded]),
        contributions=[replies.Contribution(id=summary_id, logprob=gain) for summary_id, gain in gains]
        if has_contributions
        else None,
    )
