"""Several summaries before one prompt: their order, and what each contributes (arXiv 2305.14788, section 6)."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from server.core.documents.summaries import Summary
from server.core.prompts.gathering import Gathered, fused
from server.core.prompts.prompting import Prompter
from server.core.prompts.window import Fitted
from server.core.together import together
from server.engine.protocol import Decoder, Prompt
from server.errors import InvalidRequest

MAX_SCORED_TOGETHER = 8  # of one request's prompts, so that it leaves the engine's line to others


class Fuser:
    """Orders the summaries of a prompt, and scores the prompt without each of them."""

    def __init__(self, decoder: Decoder, prompter: Prompter) -> None:
        self._decoder = decoder
        self._prompter = prompter

    async def by_distance(self, fitted: Fitted, gathered: Sequence[Gathered]) -> tuple[Fitted, list[Gathered]]:
        """The same with the stored summaries in each other's places, the nearest to the prompt last, so next to it.

        The distance is L2, between the mean of a summary's vectors and that of the prompt's own tokens compressed.

        Raises:
            InvalidRequest: the prompt has no tokens. And what the engine and the store raise.
        """
        places = summary_places(fitted)
        if len(places) < 2:
            return fitted, list(gathered)
        if not fitted.plan.token_ids:
            raise InvalidRequest("the prompt is empty: no summary is nearer to it than another", param="fuse")
        prompt = (await self._prompter.gather_whole(fitted.plan.token_ids, fitted.plan.call.tenant)).vectors
        distances = {place: _distance(gathered[place].summary_vectors, prompt) for place in places}
        order = list(range(len(gathered)))
        for place, source in zip(places, sorted(places, key=lambda place: -distances[place]), strict=True):
            order[place] = source
        sources = tuple(fitted.plan.sources[source] for source in order)
        shares = tuple(fitted.plan.shares[source] for source in order)
        plan = replace(fitted.plan, sources=sources, shares=shares)
        return replace(fitted, plan=plan), [gathered[source] for source in order]

    async def contributions(self, fitted: Fitted, gathered: Sequence[Gathered]) -> list[tuple[str, float]]:
        """For each stored summary its id, and log p(prompt | all) - log p(prompt | all but this one).

        The first token of the prompt predicts the others, and is not itself scored.

        Raises:
            InvalidRequest: the prompt has fewer tokens than 2. And what the engine raises.
        """
        token_ids, tenant = fitted.plan.token_ids, fitted.plan.call.tenant
        if len(token_ids) < 2:
            raise InvalidRequest(
                f"contributions need a prompt of at least 2 tokens; it has {len(token_ids)}", param="contributions"
            )
        prompts = [fused(gathered, token_ids, tenant)]
        ids = []
        for place, source in enumerate(fitted.plan.sources):
            if isinstance(source, Summary):
                ids.append(source.id)
                prompts.append(fused([*gathered[:place], *gathered[place + 1 :]], token_ids, tenant))
        scoring = [partial(self._logprob, prompt) for prompt in prompts]
        if not ids:
            return []
        whole, *others = await together(scoring, limit=MAX_SCORED_TOGETHER)
        return [(summary_id, whole - other) for summary_id, other in zip(ids, others, strict=True)]

    async def _logprob(self, prompt: Prompt) -> float:
        first = replace(prompt, token_ids=prompt.token_ids[:1])
        (scored,) = await self._decoder.score(first, [prompt.token_ids[1:]])
        return scored.total


def summary_places(fitted: Fitted) -> list[int]:
    """Where stored summaries stand among the plan's sources."""
    return [place for place, source in enumerate(fitted.plan.sources) if isinstance(source, Summary)]


def _distance(one: Tensor, other: Tensor) -> float:
    if not len(one):  # all of it was forgotten: as far as can be
        return math.inf
    return float(torch.linalg.vector_norm(one.float().mean(dim=0) - other.float().mean(dim=0)))
