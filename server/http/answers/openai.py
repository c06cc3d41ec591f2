"""What OpenAI's completions and chat completions have in common: a prompt's way to its choices, and what it cost."""

import time
import uuid
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from server.core.prompts.plan import Plan
from server.core.prompts.prepared import Prepared
from server.core.prompts.window import Fitted, Wish
from server.core.services import Services
from server.core.words import Words
from server.http.answers.choices import Choices
from server.http.answers.receipts import shown_expansion
from server.http.schemas import openai_replies as replies
from server.http.schemas.openai import Asked

BodyT = TypeVar("BodyT", bound=Asked)


def wish_of(body: Asked, max_tokens: int | None) -> Wish:
    """What a request asks of the window."""
    num_expanded = 0 if body.expand is None else body.expand.segments
    return Wish(max_tokens, body.truncate, body.raw_tokens, num_expanded, body.max_vectors)


async def prepare(services: Services, body: Asked, plan: Plan, fitted: Fitted) -> Prepared:
    """A prompt as it was fitted, as the request wants it."""
    return await services.preparer.prepare(plan, fitted, fuse=body.fuse, has_contributions=body.contributions)


class Answer(Generic[BodyT]):
    """One answer on its way, whole or in chunks."""

    def __init__(
        self, services: Services, body: BodyT, prepared: Sequence[Prepared], choices: Choices, *, prefix: str
    ) -> None:
        self._services, self._body, self._prepared, self._choices = services, body, prepared, choices
        self._words = Words(services.model.tokenizer)
        self._named: dict[str, Any] = {
            "id": f"{prefix}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": services.model.name,
        }

    def _usage(self) -> replies.CompletionUsage:
        num_prompt_tokens = sum(len(each.token_ids) for each in self._prepared)
        num_completion_tokens = self._choices.num_generated
        cached_tokens = sum(each.cached_tokens for each in self._prepared) + self._choices.known_tokens
        return replies.CompletionUsage(
            prompt_tokens=num_prompt_tokens,
            completion_tokens=num_completion_tokens,
            total_tokens=num_prompt_tokens + num_completion_tokens,
            prompt_tokens_details=replies.PromptTokensDetails(cached_tokens=cached_tokens),
        )

    def _compression(self) -> replies.Compression:
        gains = [gain for each in self._prepared for gain in each.contributions]
        return replies.Compression(
            compressed_tokens=sum(each.compressed_tokens for each in self._prepared),
            segments=sum(each.segments for each in self._prepared),
            cached_segments=sum(each.cached_segments for each in self._prepared),
            summary_vectors=sum(each.num_vectors for each in self._prepared),
            raw_tokens=sum(len(each.prompt.token_ids) for each in self._prepared),
            thinned_vectors=sum(each.num_thinned for each in self._prepared),
            dropped_tokens=sum(each.num_dropped for each in self._prepared),
            expanded=shown_expansion([segment for each in self._prepared for segment in each.expanded]),
            contributions=[replies.Contribution(id=summary_id, logprob=gain) for summary_id, gain in gains]
            if self._body.contributions
            else None,
        )
